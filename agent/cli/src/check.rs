//! `realm check`: one short answer through a door, as a client of a tenant gets it; of a model that
//! only reads, one vector.

use std::{fs, process::ExitCode};

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::{
    args::CheckArgs,
    door::{Door, DoorError},
    output,
};

/// Tokens of the answer: enough to have been computed, and next to nothing of a tenant's limits.
const TOKENS_MAX: u32 = 8;

/// The refusal of a model that cannot do what it is asked for.
const UNSUPPORTED: &str = "unsupported";

/// Asks, and says that the answer came to its end. One that does not is an error.
pub(crate) async fn check(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let CheckArgs { url, key_file, ca, insecure_plaintext, model } = args;
    let key = fs::read_to_string(&key_file)
        .with_context(|| format!("read the key in {}", key_file.display()))?;
    let door = Door::parse(&url, ca, insecure_plaintext)?;
    let ask = async |function, params| door.call(key.trim(), function, params, |_| {}).await;
    match ask("chat", question(model.as_deref())).await {
        Err(DoorError::Refused { code, .. }) if code == UNSUPPORTED => {
            ask("embed", text(model.as_deref())).await?;
        }
        answered => drop(answered?),
    }
    output::line(format!("{url} has answered"))?;
    Ok(ExitCode::SUCCESS)
}

fn question(model: Option<&str>) -> Value {
    let params = json!({
        "messages": [{ "role": "user", "content": "Say hello." }],
        "max_tokens": TOKENS_MAX,
        "temperature": 0,
    });
    of_model(params, model)
}

fn text(model: Option<&str>) -> Value {
    of_model(json!({ "text": "hello" }), model)
}

fn of_model(mut params: Value, model: Option<&str>) -> Value {
    if let (Some(model), Some(params)) = (model, params.as_object_mut()) {
        params.insert("model".to_owned(), Value::from(model));
    }
    params
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tenants_first_model_answers_unless_another_is_named() {
        for params in [question, text] {
            assert_eq!(params(None).get("model"), None);
            assert_eq!(params(Some("m")).get("model"), Some(&json!("m")));
        }
    }
}
