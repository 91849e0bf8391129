//! The program of every tenant that brings none of its own: `generate`, `chat`, `embed` and
//! `tokenize`.

use realm_guest::{
    Asked, EmbedParams, Error, Finish, FunctionInfo, Outcome, Params, Program, Result, answer,
    config, embed, json, open, system_tokens,
};

/// The setting that says what of a chat is public in the tenant's share group.
const SHARED_PREFIX: &str = "shared_prefix";

struct BuiltIn;

/// The parameters that `generate` and `chat` share, as properties of a JSON Schema.
macro_rules! answer_schema {
    ($properties:literal, $required:literal) => {
        concat!(
            r#"{"type":"object","additionalProperties":false,"required":[""#,
            $required,
            r#""],"properties":{"#,
            $properties,
            r#","model":{"type":"string","description":"One of the tenant's models; its first by default."},"#,
            r#""max_tokens":{"type":"integer","minimum":1,"default":512},"#,
            r#""temperature":{"type":"number","minimum":0,"maximum":5,"default":0.7,"description":"0 is greedy."},"#,
            r#""top_k":{"type":"integer","minimum":0,"default":0,"description":"0 keeps all tokens."},"#,
            r#""top_p":{"type":"number","exclusiveMinimum":0,"maximum":1,"default":0.95},"#,
            r#""min_p":{"type":"number","minimum":0,"maximum":1,"default":0},"#,
            r#""typical_p":{"type":"number","exclusiveMinimum":0,"maximum":1,"default":1},"#,
            r#""repetition_penalty":{"type":"number","exclusiveMinimum":0,"maximum":10,"default":1,"description":"Divides the logits of tokens that came before, in the prompt or the answer."},"#,
            r#""frequency_penalty":{"type":"number","minimum":-2,"maximum":2,"default":0,"description":"Taken from a token's logit for each time the answer has it."},"#,
            r#""presence_penalty":{"type":"number","minimum":-2,"maximum":2,"default":0,"description":"Taken from a token's logit once if the answer has it."},"#,
            r#""logit_bias":{"type":"object","maxProperties":1024,"propertyNames":{"pattern":"^(0|[1-9][0-9]*)$"},"additionalProperties":{"type":"number","minimum":-100,"maximum":100},"description":"Added to the logits of tokens, by their ids: -100 bans one, 100 leaves nothing else."},"#,
            r#""logprobs":{"type":"integer","minimum":0,"maximum":20,"description":"So many of the likeliest tokens are told with each token; 0 tells the token's own probability."},"#,
            r#""seed":{"type":"integer","minimum":0,"description":"Same seed, same answer."},"#,
            r#""stop":{"description":"The answer ends before the first of these.","anyOf":[{"type":"string"},{"type":"array","items":{"type":"string"}}]},"#,
            r#""response_format":{"type":"object","required":["type"],"description":"What the answer keeps to: any JSON object, a JSON schema, a regular expression, or a grammar in Lark's notation.","oneOf":["#,
            r#"{"properties":{"type":{"enum":["text","json_object"]}},"additionalProperties":false},"#,
            r#"{"properties":{"type":{"const":"json_schema"},"json_schema":{"type":"object","required":["schema"],"properties":{"name":{"type":"string"},"description":{"type":"string"},"strict":{"type":"boolean"},"schema":{"type":["object","boolean"]}},"additionalProperties":false}},"required":["json_schema"],"additionalProperties":false},"#,
            r#"{"properties":{"type":{"const":"regex"},"regex":{"type":"string"}},"required":["regex"],"additionalProperties":false},"#,
            r#"{"properties":{"type":{"const":"grammar"},"grammar":{"type":"string"}},"required":["grammar"],"additionalProperties":false}]}}}"#
        )
    };
}

const GENERATE: &str = answer_schema!(
    r#""prompt":{"type":"string","description":"The text to go on from, as it is."}"#,
    "prompt"
);

const CHAT: &str = answer_schema!(
    r#""messages":{"type":"array","minItems":1,"items":{"type":"object","additionalProperties":false,"required":["role","content"],"properties":{"role":{"enum":["system","user","assistant","tool"]},"content":{"type":"string"}}}}"#,
    "messages"
);

const TOKENIZE: &str = r#"{"type":"object","additionalProperties":false,"required":["text"],"properties":{"text":{"type":"string"},"model":{"type":"string","description":"One of the tenant's models; its first by default."}}}"#;

const EMBED: &str = concat!(
    r#"{"type":"object","additionalProperties":false,"properties":{"#,
    r#""text":{"description":"One text; this or `texts` must be there.","anyOf":[{"type":"string"},{"type":"array","items":{"type":"integer","minimum":0}}]},"#,
    r#""texts":{"type":"array","minItems":1,"maxItems":2048,"description":"Texts, each a string or a list of token ids.","items":{"anyOf":[{"type":"string"},{"type":"array","items":{"type":"integer","minimum":0}}]}},"#,
    r#""model":{"type":"string","description":"One of the tenant's models; its first by default."},"#,
    r#""dimensions":{"type":"integer","minimum":1,"description":"The first numbers of each vector, where the model was trained for that."},"#,
    r#""normalize":{"type":"boolean","default":true,"description":"Whether vectors have the length 1."}}}"#
);

impl Program for BuiltIn {
    fn functions() -> Vec<FunctionInfo> {
        let function = |name: &str, description: &str, schema: &str, streams| FunctionInfo {
            name: name.into(),
            description: description.into(),
            params_schema: schema.into(),
            streams,
        };
        vec![
            function("generate", "Goes on from a text, word by word.", GENERATE, true),
            function("chat", "Answers a conversation, word by word.", CHAT, true),
            function("embed", "Turns texts into vectors.", EMBED, false),
            function("tokenize", "Takes a text apart into a model's tokens.", TOKENIZE, false),
        ]
    }

    fn handle(function: &str, params: Params) -> Result {
        match function {
            "generate" => generate(params),
            "chat" => chat(params),
            "embed" => embed(params),
            "tokenize" => tokenize(params),
            _ => Err(Error::UnknownFunction(function.into())),
        }
    }
}

fn generate(mut params: Params) -> Result {
    let prompt = params.required_text("prompt")?;
    let asked = Asked::take(params)?;
    let prompt = asked.model.tokenize(&prompt, false)?;
    answer(&asked, &prompt)
}

fn chat(mut params: Params) -> Result {
    let messages = params.messages()?;
    let shares_system = shares_system()?;
    let mut asked = Asked::take(params)?;
    let prompt = asked.model.tokenize_chat(&messages)?;
    if shares_system {
        asked.params.shared_tokens = system_tokens(&asked.model, &messages, &prompt);
    }
    answer(&asked, &prompt)
}

/// Whether the system messages that chats begin with are public in the tenant's share group.
fn shares_system() -> Result<bool> {
    match config::get(SHARED_PREFIX).as_deref() {
        None | Some("none") => Ok(false),
        Some("system") => Ok(true),
        Some(_) => {
            let message = format!("the setting `{SHARED_PREFIX}` must be `system` or `none`");
            Err(Error::Failed(message))
        }
    }
}

fn embed(mut params: Params) -> Result {
    let texts = embed::texts(&mut params)?;
    let dimensions = params.whole_u32("dimensions", 1)?;
    let normalize = params.flag("normalize")?.unwrap_or(true);
    let name = params.text("model")?;
    params.finish()?;
    let embedded = open(name)?.embed(&texts, EmbedParams { dimensions, normalize })?;
    Ok(Outcome { finish: Finish::Stop, data: Some(embed::result(embedded)) })
}

fn tokenize(mut params: Params) -> Result {
    let text = params.required_text("text")?;
    let name = params.text("model")?;
    params.finish()?;
    let tokens = open(name)?.tokenize(&text, false)?;
    let count = tokens.len();
    let data = format!(r#"{{"tokens":{},"count":{count}}}"#, json::to_string(&tokens));
    Ok(Outcome { finish: Finish::Stop, data: Some(data) })
}

realm_guest::export!(BuiltIn);
