//! The door that speaks OpenAI's HTTP API: chat, completions, embeddings, models.
//!
//! A request passes: `request` (what is asked, in the program's own parameters), the door
//! (verify, admit, start), then `response` in one piece or `stream` as server-sent events.
//! `embeddings` are asked for and answered in a form of their own.

use std::sync::Arc;

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::{HeaderName, HeaderValue};
use realm_core::{
    auth::Credential,
    call::{Call, CallId},
    name::TenantName,
    refusal::Refusal,
    reply::{Done, ReplyEvent},
    tenants::ModelInfo,
};
use serde_json::{Value, json};

use crate::{
    door::{Door, unix_now},
    http::{Bearer, read_body},
    metrics::STRANGER,
    own,
    running::Running,
    trace::Arrival,
    whole::Whole,
};

mod embeddings;
mod format;
mod logprobs;
mod problem;
mod request;
mod response;
mod sampling;
mod stream;

pub(crate) use embeddings::embed;
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
        models.map(|model| model_json(&door, caller.tenant().as_str(), &model)).collect();
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
    match models.iter().find(|model| model.alias == alias) {
        Some(model) => Ok(Json(model_json(&door, caller.tenant().as_str(), model)).into_response()),
        None => Err(Refusal::UnknownModel(alias).into()),
    }
}

/// A model as the API knows it, with what it can be asked for. `created` is when this door began
/// to offer it.
fn model_json(door: &Door, tenant: &str, model: &ModelInfo) -> Value {
    let mut json = json!({
        "id": model.alias, "object": "model", "created": door.started_unix(), "owned_by": tenant,
    });
    own::describe_abilities(model.abilities.as_ref(), &mut json);
    json
}

/// Who sends a request, and its body. The key is looked at first: strangers' bodies are not worth
/// reading.
async fn open(
    door: &Door,
    credential: Credential,
    function: &str,
    body: Body,
) -> Result<(TenantName, Bytes), Problem> {
    let caller = door
        .verify(credential)
        .inspect_err(|refusal| door.count_refusal(STRANGER, function, refusal))?;
    let tenant = caller.tenant().clone();
    let body = read_body(body, door.limits.message_bytes_max, door.limits.body_wait)
        .await
        .inspect_err(|refusal| door.count_refusal(tenant.as_str(), function, refusal))?;
    Ok((tenant, body))
}

/// Reads a request, starts its call and answers.
async fn serve(
    door: Arc<Door>,
    arrival: Arrival,
    credential: Credential,
    form: Form,
    body: Body,
) -> Result<Response, Problem> {
    let function = form.function();
    let (tenant, body) = open(&door, credential, function, body).await?;
    let asked = request::read(form, &body)
        .inspect_err(|_| door.metrics().refused(tenant.as_str(), function, "invalid"))?;
    let Asked { model, params, stream, wanted } = asked;
    let head = Head { id: new_id(form.id_prefix())?, form, created: unix_now(), model };
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
fn new_id(prefix: &str) -> Result<String, Problem> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| {
        tracing::error!(%error, "the system has no random bytes");
        Problem::from(Refusal::Internal)
    })?;
    Ok(format!("{prefix}-{:032x}", u128::from_ne_bytes(bytes)))
}

/// Marks a response with the answer's id, which the official clients show in their errors.
fn headed(id: &str, response: impl IntoResponse) -> Response {
    let mut response = response.into_response();
    let id = HeaderValue::try_from(id).expect("an id is letters, digits and a dash");
    response.headers_mut().insert(HeaderName::from_static("x-request-id"), id);
    response
}
