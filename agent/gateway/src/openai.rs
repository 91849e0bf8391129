//! The door that speaks OpenAI's HTTP API: chat, completions, models.
//!
//! A request passes: `request` (what is asked, in the program's own parameters), the door
//! (verify, admit, start), then `response` in one piece or `stream` as server-sent events.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use realm_core::{
    auth::Credential,
    call::{Call, CallId},
    refusal::Refusal,
    reply::{Done, ReplyEvent},
};
use serde_json::{Value, json};

use crate::{
    door::{Door, unix_now},
    http::{Bearer, read_body},
    metrics::STRANGER,
    running::Running,
    trace::Arrival,
    whole::Whole,
};

mod format;
mod logprobs;
mod problem;
mod request;
mod response;
mod sampling;
mod stream;

use logprobs::Telling;
pub(crate) use problem::Problem;
use request::Asked;
use response::{Form, Head, Said};

/// `POST /v1/chat/completions`
pub(crate) async fn chat(
    State(door): State<Arc<Door>>,
    arrival: Arrival,
    Bearer(credential): Bearer,
    body: Body,
) -> Result<Response, Problem> {
    serve(door, arrival, credential, Form::Chat, body).await
}

/// `POST /v1/completions`
pub(crate) async fn complete(
    State(door): State<Arc<Door>>,
    arrival: Arrival,
    Bearer(credential): Bearer,
    body: Body,
) -> Result<Response, Problem> {
    serve(door, arrival, credential, Form::Completion, body).await
}

/// `GET /v1/models`
pub(crate) async fn list_models(
    State(door): State<Arc<Door>>,
    Bearer(credential): Bearer,
) -> Result<Response, Problem> {
    let listing = door.admit_listing(credential)?;
    let caller = listing.caller();
    let models = door.tenants().models(caller).into_iter();
    let models: Vec<Value> =
        models.map(|model| model_json(&door, caller.tenant().as_str(), &model.alias)).collect();
    Ok(Json(json!({"object": "list", "data": models})).into_response())
}

/// `GET /v1/models/{model}`
pub(crate) async fn show_model(
    State(door): State<Arc<Door>>,
    Path(alias): Path<String>,
    Bearer(credential): Bearer,
) -> Result<Response, Problem> {
    let listing = door.admit_listing(credential)?;
    let caller = listing.caller();
    let models = door.tenants().models(caller);
    if models.iter().any(|model| model.alias == alias) {
        Ok(Json(model_json(&door, caller.tenant().as_str(), &alias)).into_response())
    } else {
        Err(Refusal::UnknownModel(alias).into())
    }
}

/// A model as the API knows it. `created` is when this door began to offer it.
fn model_json(door: &Door, tenant: &str, alias: &str) -> Value {
    json!({
        "id": alias, "object": "model", "created": door.started_unix(), "owned_by": tenant,
    })
}

/// Reads a request, starts its call and answers. The key is looked at before the body:
/// strangers' bodies are not worth reading.
async fn serve(
    door: Arc<Door>,
    arrival: Arrival,
    credential: Credential,
    form: Form,
    body: Body,
) -> Result<Response, Problem> {
    let function = form.function();
    let caller = door
        .verify(credential)
        .inspect_err(|refusal| door.count_refusal(STRANGER, function, refusal))?;
    let tenant = caller.tenant().as_str();
    let body = read_body(body, door.limits.message_bytes_max, door.limits.body_wait)
        .await
        .inspect_err(|refusal| door.count_refusal(tenant, function, refusal))?;
    let asked = request::read(form, &body)
        .inspect_err(|_| door.metrics().refused(tenant, function, "invalid"))?;
    let Asked { model, params, stream, wanted } = asked;
    let head = Head { id: new_id(form)?, form, created: unix_now(), model };
    let id = CallId(head.id.clone());
    let call = Call::new(id, function, params.into());
    let running = door.start(credential, call, &arrival)?;
    if stream {
        stream::respond(door, running, head, wanted).await
    } else {
        let telling = Telling::new(form, wanted.logprobs);
        in_one_piece(&door, running, &head, telling).await
    }
}

async fn in_one_piece(
    door: &Door,
    mut running: Running,
    head: &Head,
    mut telling: Telling,
) -> Result<Response, Problem> {
    let mut whole = Whole::new(running.caller().rights().limits.program.output_bytes_max);
    loop {
        let event = tokio::select! {
            event = running.next() => event,
            () = door.cut.cancelled() => running.fail(Refusal::Moved),
        };
        match event {
            ReplyEvent::Chunk(chunk) => {
                whole.push(chunk).map_err(|refusal| fail(&mut running, refusal, head))?;
            }
            ReplyEvent::Done(Done { data: _, finish, usage }) => {
                let (text, told) =
                    whole.into_text().map_err(|refusal| fail(&mut running, refusal, head))?;
                let said = Said { text: &text, logprobs: telling.whole(told) };
                return Ok(head.headed(Json(head.whole(said, finish, usage))));
            }
            ReplyEvent::Failed(refusal) => return Err(Problem::of_call(refusal, head.form)),
        }
    }
}

fn fail(running: &mut Running, refusal: Refusal, head: &Head) -> Problem {
    running.fail(refusal.clone());
    Problem::of_call(refusal, head.form)
}

/// An id as random as a UUID, in the API's manner.
fn new_id(form: Form) -> Result<String, Problem> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| {
        tracing::error!(%error, "the system has no random bytes");
        Problem::from(Refusal::Internal)
    })?;
    Ok(format!("{}-{:032x}", form.id_prefix(), u128::from_ne_bytes(bytes)))
}
