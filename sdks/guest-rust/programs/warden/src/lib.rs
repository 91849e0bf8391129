//! An example program with hooks: `generate` never says the word that the setting `ban` names, blots
//! out the one that `redact` names, says at the end how often that was, and refuses prompts that
//! are longer than `prompt-tokens` allows. It takes no call before it has shown that it blots out.

use std::{collections::HashSet, mem};

use realm_guest::{
    Asked, Error, Finish, FunctionInfo, Model, Params, Program, Result, TokenId, answer, config,
    health::Health,
    hooks::{Hooks, Plan, Request, Stages, Steer, Verdict},
};

struct Warden;

impl Program for Warden {
    fn functions() -> Vec<FunctionInfo> {
        vec![FunctionInfo {
            name: "generate".into(),
            description: "Goes on with a text, within what the tenant's settings let it say.".into(),
            params_schema: r#"{"type":"object","required":["prompt"],"properties":{"prompt":{"type":"string"}}}"#.into(),
            streams: true,
        }]
    }

    fn handle(function: &str, mut params: Params) -> Result {
        if function != "generate" {
            return Err(Error::UnknownFunction(function.into()));
        }
        let prompt = params.required_text("prompt")?;
        let asked = Asked::take(params)?;
        let prompt = asked.model.tokenize(&prompt, false)?;
        answer(&asked, &prompt)
    }
}

/// What one answer is watched with.
struct Watch {
    /// Tokens that begin the banned word.
    banned: Vec<TokenId>,
    redacted: Option<String>,
    /// Text that may yet turn out to be the beginning of the redacted word.
    held: String,
    blots: usize,
}

impl Hooks for Watch {
    fn on_request(request: Request) -> Result<(Plan, Self)> {
        if let Some(most) = config::get("prompt-tokens").and_then(|most| most.parse().ok())
            && request.prompt.len() > most
        {
            return Err(Error::Invalid(format!("the prompt has more than {most} tokens")));
        }
        let banned = match config::get("ban") {
            Some(word) => beginnings(&Model::open(&request.model)?, &word)?,
            None => Vec::new(),
        };
        let redacted = config::get("redact").filter(|word| !word.is_empty());
        let watch = Self { banned, redacted, held: String::new(), blots: 0 };
        let mut stages = Stages::empty();
        if !watch.banned.is_empty() {
            stages = stages | Stages::BIAS;
        }
        if watch.redacted.is_some() {
            stages = stages | Stages::TOKEN | Stages::FINISH;
        }
        Ok((Plan { params: request.params, stages }, watch))
    }

    fn bias(&mut self, last: Option<TokenId>) -> Steer {
        if last.is_some() {
            return Steer::Same;
        }
        let ban = |id: &TokenId| realm_guest::Bias { id: *id, by: -100.0 };
        Steer::Add(self.banned.iter().map(ban).collect())
    }

    fn on_token(&mut self, _id: TokenId, text: &str) -> Verdict {
        self.held.push_str(text);
        Verdict::Rewrite(self.release())
    }

    fn on_finish(&mut self, _finish: Finish) -> String {
        let rest = mem::take(&mut self.held);
        format!("{rest} [{} blotted out]", self.blots)
    }
}

impl Watch {
    /// What may be told of the text that is held: all but what a longer one may yet make the word.
    fn release(&mut self) -> String {
        let Some(word) = &self.redacted else { return mem::take(&mut self.held) };
        let mut told = String::new();
        while let Some(at) = self.held.find(word.as_str()) {
            told.push_str(&self.held[..at]);
            told.push_str(&"#".repeat(word.chars().count()));
            self.held.drain(..at + word.len());
            self.blots += 1;
        }
        let may_be_word = |at: &usize| word.starts_with(&self.held[*at..]);
        let boundaries = self.held.char_indices().map(|(at, _)| at);
        let kept = boundaries.filter(may_be_word).next().unwrap_or(self.held.len());
        told.push_str(&self.held[..kept]);
        self.held.drain(..kept);
        told
    }
}

/// A warden that lets its word out is worse than none.
impl Health for Warden {
    fn check() -> std::result::Result<(), String> {
        let redacted = Some("secret".into());
        let mut watch = Watch { banned: Vec::new(), redacted, held: String::new(), blots: 0 };
        let mut told = String::new();
        for piece in ["a se", "cre", "t and a sec", ""] {
            watch.held.push_str(piece);
            told.push_str(&watch.release());
        }
        told.push_str(&watch.held);
        match told.as_str() {
            "a ###### and a sec" => Ok(()),
            other => Err(format!("it makes `{other}` of a word that comes in pieces")),
        }
    }
}

/// The tokens that a word may begin with, within a text and at its start.
fn beginnings(model: &Model, word: &str) -> Result<Vec<TokenId>> {
    let spellings = [word.to_owned(), format!(" {word}")];
    let mut first = HashSet::new();
    for spelling in spellings {
        first.extend(model.tokenize(&spelling, false)?.first().copied());
    }
    Ok(first.into_iter().collect())
}

realm_guest::export!(Warden);
realm_guest::export_hooks!(Watch);
realm_guest::export_health!(Warden);
