//! One conversation with a model, from `realm run` to the port of the tenants' programs.
//!
//! The same path as a client's call, without the socket: the key is verified, the call admitted,
//! and the tenant's own program answers it.

use std::{
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use realm_core::{
    auth::{self, Credential, Roster},
    call::{Call, CallId},
    limit::{Admitted, Limiter},
    refusal::Refusal,
    reply::{Chunk, ChunkBody, Done, ReplyEvent},
    tenants::Tenants,
};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

/// A caller's way in.
pub(crate) struct Door {
    pub(crate) credential: Credential,
    pub(crate) roster: watch::Receiver<Arc<Roster>>,
    pub(crate) limiter: Limiter,
    pub(crate) tenants: Arc<dyn Tenants>,
}

/// A conversation so far, and how its answers are sampled.
pub(crate) struct Conversation {
    messages: Vec<Value>,
    sampling: Map<String, Value>,
}

impl Conversation {
    pub(crate) fn new(system: Option<&str>, sampling: Map<String, Value>) -> Self {
        let messages = system.map(|text| message("system", text)).into_iter().collect();
        Self { messages, sampling }
    }

    /// Asks and hands each piece of the answer to `show`. An answer that fails is forgotten
    /// together with its question, so that the conversation can go on.
    pub(crate) async fn ask(
        &mut self,
        door: &Door,
        question: &str,
        mut show: impl FnMut(&str),
    ) -> Result<Done, Refusal> {
        self.messages.push(message("user", question));
        let mut answer = String::new();
        let done = self.stream(door, |piece| {
            answer.push_str(piece);
            show(piece);
        });
        match done.await {
            Ok(done) => {
                self.messages.push(message("assistant", &answer));
                Ok(done)
            }
            Err(refusal) => {
                self.messages.pop();
                Err(refusal)
            }
        }
    }

    async fn stream(&self, door: &Door, mut show: impl FnMut(&str)) -> Result<Done, Refusal> {
        let mut params = self.sampling.clone();
        params.insert("messages".to_owned(), Value::Array(self.messages.clone()));
        let mut reply = door.tenants.start(door.admit("chat", Value::Object(params))?);
        while let Some(event) = reply.recv().await {
            match event {
                ReplyEvent::Chunk(Chunk { body: ChunkBody::Text(text), .. }) => show(&text),
                ReplyEvent::Chunk(Chunk { body: ChunkBody::Json(_), .. }) => {}
                ReplyEvent::Done(done) => return Ok(done),
                ReplyEvent::Failed(refusal) => return Err(refusal),
            }
        }
        Err(Refusal::Internal)
    }
}

impl Door {
    fn admit(&self, function: &str, params: Value) -> Result<Admitted, Refusal> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let roster = self.roster.borrow().clone();
        let caller = auth::verify(&roster, self.credential, now)?;
        let id = CallId("1".to_owned());
        let call = Call::new(id, function, params);
        self.limiter.admit(caller, call, Instant::now())
    }
}

fn message(role: &str, content: &str) -> Value {
    json!({ "role": role, "content": content })
}
