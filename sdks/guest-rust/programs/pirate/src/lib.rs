//! An example program: `chat` speaks in the voice that the setting `voice` describes and answers
//! in capitals; `shout` needs no model at all.

use realm_guest::{
    Asked, Error, Finish, FunctionInfo, Message, Outcome, Params, Program, Result, answer_with,
    config, json,
};

/// The voice of a tenant that sets none.
const VOICE: &str = "You are a pirate. Answer as a pirate would.";

struct Pirate;

impl Program for Pirate {
    fn functions() -> Vec<FunctionInfo> {
        vec![
            FunctionInfo {
                name: "chat".into(),
                description: "Answers a conversation in the tenant's own voice, in capitals.".into(),
                params_schema: r#"{"type":"object","required":["messages"],"properties":{"messages":{"type":"array","minItems":1}}}"#.into(),
                streams: true,
            },
            FunctionInfo {
                name: "shout".into(),
                description: "Gives a text back in capitals.".into(),
                params_schema: r#"{"type":"object","additionalProperties":false,"required":["text"],"properties":{"text":{"type":"string"}}}"#.into(),
                streams: false,
            },
        ]
    }

    fn handle(function: &str, params: Params) -> Result {
        match function {
            "chat" => chat(params),
            "shout" => shout(params),
            _ => Err(Error::UnknownFunction(function.into())),
        }
    }
}

/// Replaces whatever system message the caller sent by the tenant's own voice.
fn chat(mut params: Params) -> Result {
    let mut messages = params.messages()?;
    let asked = Asked::take(params)?;
    messages.retain(|message| message.role != "system");
    let voice = config::get("voice").unwrap_or_else(|| VOICE.into());
    messages.insert(0, Message { role: "system".into(), content: voice });
    let prompt = asked.model.tokenize_chat(&messages)?;
    answer_with(&asked, &prompt, |text| text.to_uppercase())
}

fn shout(mut params: Params) -> Result {
    let text = params.required_text("text")?;
    params.finish()?;
    let data = format!(r#"{{"text":{}}}"#, json::to_string(&text.to_uppercase()));
    Ok(Outcome { finish: Finish::Stop, data: Some(data) })
}

realm_guest::export!(Pirate);
