//! What of a conversation's prompt is the same whoever asks.

use crate::{Message, Model, Result, TokenId};

/// How many tokens at the start of `prompt` say nothing but the system messages that the
/// conversation begins with: for `shared_tokens` of [`crate::GenerateParams`], where these hold
/// nothing that the other members of the tenant's share group may not find out about.
///
/// `prompt` is what the model's chat template makes of `messages`. It is compared with what the
/// template makes of the same system messages before another text; where it makes nothing of that,
/// or the conversation begins with something else, no token is counted.
pub fn system_tokens(model: &Model, messages: &[Message], prompt: &[TokenId]) -> u32 {
    let system = messages.iter().take_while(|message| message.role == "system").count();
    if system == 0 {
        return 0;
    }
    let Some((system, next)) = messages.split_at_checked(system) else { return 0 };
    let Some(next) = next.first() else { return count(prompt.len()) };
    let other = Message { role: next.role.clone(), content: unlike(&next.content).into() };
    let probe = [system, &[other]].concat();
    let Ok(probe) = model.tokenize_chat(&probe) else { return 0 };
    count(prompt.iter().zip(&probe).take_while(|(a, b)| a == b).count())
}

/// What the prompt of every conversation begins with that goes on from `messages` with a message of
/// `role`, through the model's own chat template: for [`Model::keep`].
///
/// A message whose first letters make one token with what stands before it begins otherwise, so the
/// whole prompt has the last word: a generation of the prefix has what is behind it for its tail.
pub fn chat_beginning(model: &Model, messages: &[Message], role: &str) -> Result<Vec<TokenId>> {
    let prompt = |content: &str| {
        let next = Message { role: role.into(), content: content.into() };
        model.tokenize_chat(&[messages, &[next]].concat())
    };
    let (one, other) = (prompt("a")?, prompt("b")?);
    Ok(one.into_iter().zip(other).take_while(|(a, b)| a == b).map(|(id, _)| id).collect())
}

/// A text that begins otherwise, also where a template cuts the space around both: tokens that two
/// prompts begin with alike then spell nothing of either text.
fn unlike(content: &str) -> &'static str {
    let first = content.trim_start().chars().next().map(|first| first.to_ascii_lowercase());
    if first == Some('a') { "b" } else { "a" }
}

fn count(tokens: usize) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}
