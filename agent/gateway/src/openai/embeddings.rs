//! Texts to vectors in OpenAI's API: `asked` says what a request asks of the tenant's `embed`, and
//! `listing` makes the answer of what that returns.

use std::sync::Arc;

use axum::{body::Body, extract::State, response::Response};
use http::header;
use realm_core::{
    call::{Call, CallId},
    refusal::Refusal,
    reply::{Done, ReplyEvent},
};

use super::{Problem, headed, new_id, open};
use crate::{door::Door, http::Bearer, running::Running, trace::Arrival};

mod asked;
mod listing;

use asked::Asked;

const FUNCTION: &str = "embed";

/// `POST /v1/embeddings`
pub(crate) async fn embed(
    State(door): State<Arc<Door>>,
    arrival: Arrival,
    Bearer(credential): Bearer,
    body: Body,
) -> Result<Response, Problem> {
    let (tenant, body) = open(&door, credential, FUNCTION, body).await?;
    let mut asked = asked::read(&body)
        .inspect_err(|_| door.metrics().refused(tenant.as_str(), FUNCTION, "invalid"))?;
    let id = new_id("embd")?;
    let Asked { params, .. } = &mut asked;
    let call = Call::new(CallId(id.clone()), FUNCTION, std::mem::take(params).into());
    let mut running = door.start(credential, call, &arrival)?;
    let body = answer(&door, &mut running, asked).await.map_err(of_call)?;
    Ok(headed(&id, ([(header::CONTENT_TYPE, "application/json")], body)))
}

/// Waits for the vectors and writes them down.
async fn answer(door: &Door, running: &mut Running, asked: Asked) -> Result<Vec<u8>, Refusal> {
    let event = tokio::select! {
        event = running.next() => event,
        () = door.cut.cancelled() => running.fail(Refusal::Moved),
    };
    let written = match event {
        ReplyEvent::Failed(refusal) => return Err(refusal),
        ReplyEvent::Chunk(_) => Err(listing::not_vectors()),
        ReplyEvent::Done(Done { data, usage, .. }) => {
            // A million and a half numbers take a tenth of a second to become digits.
            let write = move || listing::write(data, &asked, usage);
            tokio::task::spawn_blocking(write).await.unwrap_or(Err(Refusal::Internal))
        }
    };
    written.inspect_err(|refusal| drop(running.fail(refusal.clone())))
}

/// The refusal of a call, which names the text that was too long.
fn of_call(refusal: Refusal) -> Problem {
    match refusal {
        Refusal::TextTooLong { at, .. } => Problem::about(refusal, format!("input[{at}]")),
        _ => refusal.into(),
    }
}
