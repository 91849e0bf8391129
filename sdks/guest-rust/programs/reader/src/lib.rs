//! An example program with a prefix: `ask` answers many questions about one text, all at the same
//! time, and `discuss` one after the other, so that each may go on from the answers before. The text
//! is computed once, and every answer is streamed as a JSON value.

use realm_guest::{
    Asked, Error, Finish, FunctionInfo, Generation, Message, Outcome, Params, Prefix, Program,
    Result, Summary, TokenId, chat_beginning, json, reply,
};

/// Answers that are written side by side, each of which takes a place in the batch.
const QUESTIONS_MAX: usize = 8;

const SCHEMA: &str = r#"{"type":"object","required":["text","questions"],"properties":{"text":{"type":"string"},"questions":{"type":"array","minItems":1,"maxItems":8,"items":{"type":"string"}}}}"#;

struct Reader;

impl Program for Reader {
    fn functions() -> Vec<FunctionInfo> {
        let function = |name: &str, description: &str| FunctionInfo {
            name: name.into(),
            description: description.into(),
            params_schema: SCHEMA.into(),
            streams: true,
        };
        vec![
            function("ask", "Answers questions about a text, each by itself."),
            function("discuss", "Answers questions about a text, each after those before."),
        ]
    }

    fn handle(function: &str, mut params: Params) -> Result {
        let goes_on = match function {
            "ask" => false,
            "discuss" => true,
            _ => return Err(Error::UnknownFunction(function.into())),
        };
        let text = params.required_text("text")?;
        let questions = params.texts("questions")?;
        if questions.is_empty() || questions.len() > QUESTIONS_MAX {
            return Err(Error::Invalid(format!("`questions` must have 1 to {QUESTIONS_MAX}")));
        }
        let reading = Reading::begin(Asked::take(params)?, &text)?;
        let length = reading.prefix.length();
        let finish = if goes_on { discuss(reading, &questions) } else { ask(&reading, &questions) }?;
        Ok(Outcome { finish, data: Some(format!(r#"{{"prefix":{length}}}"#)) })
    }
}

/// All answers are under way before the first is read.
fn ask(reading: &Reading, questions: &[String]) -> Result<Finish> {
    let begun: Vec<_> =
        questions.iter().map(|question| reading.answer(question)).collect::<Result<_>>()?;
    let mut finish = Finish::Stop;
    for (question, answer) in questions.iter().zip(begun) {
        finish = worst(finish, tell(question, &answer)?.1);
    }
    Ok(finish)
}

fn discuss(mut reading: Reading, questions: &[String]) -> Result<Finish> {
    let mut finish = Finish::Stop;
    for (at, question) in questions.iter().enumerate() {
        let (text, ended) = tell(question, &reading.answer(question)?)?;
        finish = worst(finish, ended);
        if at + 1 < questions.len() {
            reading.remember(question, text)?;
        }
    }
    Ok(finish)
}

const fn worst(one: Finish, other: Finish) -> Finish {
    if matches!(one, Finish::Length) { one } else { other }
}

/// A text that has been read, and what was said about it.
struct Reading {
    asked: Asked,
    messages: Vec<Message>,
    /// What every conversation begins with that goes on from `messages`.
    beginning: Vec<TokenId>,
    prefix: Prefix,
}

impl Reading {
    fn begin(asked: Asked, text: &str) -> Result<Self> {
        let content = format!("Answer questions about this text with words of it.\n\n{text}");
        let messages = vec![message("system", content)];
        let beginning = chat_beginning(&asked.model, &messages, "user")?;
        let prefix = asked.model.keep(&beginning, 0)?;
        Ok(Self { asked, messages, beginning, prefix })
    }

    /// Begins an answer, which shares nothing with another one but what was read.
    fn answer(&self, question: &str) -> Result<Generation> {
        let Asked { model, params } = &self.asked;
        let next = message("user", question.into());
        let prompt = model.tokenize_chat(&[&self.messages[..], &[next]].concat())?;
        match prompt.strip_prefix(&self.beginning[..]) {
            Some(tail) => self.prefix.generate(tail, params),
            None => model.generate(&prompt, params),
        }
    }

    /// Reads on: what was said is part of what the next answer goes on from.
    fn remember(&mut self, question: &str, answer: String) -> Result<()> {
        self.messages.extend([message("user", question.into()), message("assistant", answer)]);
        let longer = chat_beginning(&self.asked.model, &self.messages, "user")?;
        if let Some(tail) = longer.strip_prefix(&self.beginning[..]) {
            self.prefix = self.prefix.extend(tail)?;
            self.beginning = longer;
        }
        Ok(())
    }
}

fn message(role: &str, content: String) -> Message {
    Message { role: role.into(), content }
}

/// Reads an answer and tells the client.
fn tell(question: &str, answer: &Generation) -> Result<(String, Finish)> {
    let mut text = String::new();
    while let Some(tokens) = answer.next()? {
        text.extend(tokens.into_iter().map(|token| token.text));
    }
    let Summary { finish, usage } =
        answer.summary().ok_or_else(|| Error::Failed("no summary".into()))?;
    let (question, told, cached) =
        (json::to_string(question), json::to_string(&text), usage.cached_tokens);
    reply::write_json(&format!(r#"{{"question":{question},"answer":{told},"cached":{cached}}}"#));
    Ok((text, finish))
}

realm_guest::export!(Reader);
