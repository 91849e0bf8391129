//! From a prompt to a streamed answer.

use crate::{
    Error, GenerateParams, Model, Outcome, Params, Result, Sampling, TokenId, list_models, reply,
};

/// Tokens of an answer when the caller does not say.
const TOKENS_DEFAULT: u32 = 512;

/// Sampling when the caller does not say: lively, without the long tail.
const TEMPERATURE_DEFAULT: f32 = 0.7;
const TOP_P_DEFAULT: f32 = 0.95;

/// What every function that answers takes besides its prompt.
pub struct Asked {
    pub model: Model,
    pub params: GenerateParams,
}

impl Asked {
    /// Takes `model`, `max_tokens`, `temperature`, `top_k`, `top_p`, `min_p`, `seed` and `stop`,
    /// and refuses what is left.
    pub fn take(mut params: Params) -> Result<Self> {
        let name = params.text("model")?;
        let sampling = Sampling {
            temperature: params.number("temperature")?.unwrap_or(TEMPERATURE_DEFAULT),
            top_k: params.whole_u32("top_k", 0)?.unwrap_or(0),
            top_p: params.number("top_p")?.unwrap_or(TOP_P_DEFAULT),
            min_p: params.number("min_p")?.unwrap_or(0.0),
            seed: params.whole("seed")?,
        };
        let tokens_max = Some(params.whole_u32("max_tokens", 1)?.unwrap_or(TOKENS_DEFAULT));
        let stop = params.texts("stop")?;
        params.finish()?;
        let model = open(name)?;
        Ok(Self { model, params: GenerateParams { sampling, tokens_max, stop } })
    }
}

/// Opens the model of that name, or the tenant's default.
pub fn open(name: Option<String>) -> Result<Model> {
    let name = name.or_else(|| list_models().into_iter().next());
    Model::open(&name.ok_or_else(|| Error::UnknownModel("the tenant has no models".into()))?)
}

/// Generates and streams the answer to `prompt`.
pub fn answer(asked: &Asked, prompt: &[TokenId]) -> Result {
    answer_with(asked, prompt, |text| text)
}

/// Generates the answer to `prompt` and streams what `change` makes of each piece of it.
pub fn answer_with(asked: &Asked, prompt: &[TokenId], change: impl Fn(String) -> String) -> Result {
    let generation = asked.model.generate(prompt, &asked.params)?;
    while let Some(tokens) = generation.next()? {
        let text: String = tokens.into_iter().map(|token| token.text).collect();
        if !text.is_empty() {
            reply::write_text(&change(text));
        }
    }
    let summary = generation.summary().ok_or_else(|| Error::Failed("no summary".into()))?;
    Ok(Outcome { finish: summary.finish, data: None })
}
