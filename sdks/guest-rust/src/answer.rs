//! From a prompt to a streamed answer.

use crate::{
    Error, GenerateParams, Logprobs, Model, Outcome, Params, Result, Sampling, TokenId,
    list_models, reply,
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
    /// Takes `model`, `max_tokens`, `stop`, `logprobs`, `response_format` and everything that says
    /// how tokens are chosen, and refuses what is left.
    pub fn take(mut rest: Params) -> Result<Self> {
        let name = rest.text("model")?;
        let params = GenerateParams {
            sampling: take_sampling(&mut rest)?,
            bias: rest.biases("logit_bias")?,
            logprobs: rest.whole_u32("logprobs", 0)?,
            tokens_max: Some(rest.whole_u32("max_tokens", 1)?.unwrap_or(TOKENS_DEFAULT)),
            stop: rest.texts("stop")?,
            constraint: rest.constraint("response_format")?,
            shared_tokens: 0,
        };
        rest.finish()?;
        Ok(Self { model: open(name)?, params })
    }
}

fn take_sampling(params: &mut Params) -> Result<Sampling> {
    let neutral = Sampling::default();
    let mut number = |name, default| -> Result<f32> { Ok(params.number(name)?.unwrap_or(default)) };
    Ok(Sampling {
        temperature: number("temperature", TEMPERATURE_DEFAULT)?,
        top_p: number("top_p", TOP_P_DEFAULT)?,
        min_p: number("min_p", neutral.min_p)?,
        typical_p: number("typical_p", neutral.typical_p)?,
        repetition_penalty: number("repetition_penalty", neutral.repetition_penalty)?,
        frequency_penalty: number("frequency_penalty", neutral.frequency_penalty)?,
        presence_penalty: number("presence_penalty", neutral.presence_penalty)?,
        top_k: params.whole_u32("top_k", 0)?.unwrap_or(neutral.top_k),
        seed: params.whole("seed")?,
    })
}

impl Default for Sampling {
    /// Takes the likeliest token every time.
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            seed: None,
        }
    }
}

impl Default for GenerateParams {
    /// As many of the likeliest tokens as the context holds, of a prompt that nobody shares.
    fn default() -> Self {
        Self {
            sampling: Sampling::default(),
            bias: Vec::new(),
            logprobs: None,
            tokens_max: None,
            stop: Vec::new(),
            constraint: None,
            shared_tokens: 0,
        }
    }
}

/// Opens the model of that name, or the tenant's default.
pub fn open(name: Option<String>) -> Result<Model> {
    let name = name.or_else(|| list_models().into_iter().next());
    let none = || Error::Invalid("no `model` is named, and the tenant has none".into());
    Model::open(&name.ok_or_else(none)?)
}

/// Generates and streams the answer to `prompt`, with its tokens' probabilities where the caller
/// asks for them.
pub fn answer(asked: &Asked, prompt: &[TokenId]) -> Result {
    answer_with(asked, prompt, |text| text)
}

/// Generates the answer to `prompt` and streams what `change` makes of each piece of it.
pub fn answer_with(asked: &Asked, prompt: &[TokenId], change: impl Fn(String) -> String) -> Result {
    let generation = asked.model.generate(prompt, &asked.params)?;
    let mut scored = Vec::new();
    while let Some(tokens) = generation.next()? {
        let mut text = String::new();
        for token in tokens {
            text.push_str(&token.text);
            scored.extend(token.logprobs);
        }
        if !text.is_empty() {
            write(&change(text), &mut scored);
        }
    }
    if !scored.is_empty() {
        // What they are of never became text: a stop string, or a part of a character.
        write("", &mut scored);
    }
    let summary = generation.summary().ok_or_else(|| Error::Failed("no summary".into()))?;
    Ok(Outcome { finish: summary.finish, data: None })
}

fn write(text: &str, scored: &mut Vec<Logprobs>) {
    if scored.is_empty() {
        reply::write_text(text);
    } else {
        reply::write_scored(text, scored);
        scored.clear();
    }
}
