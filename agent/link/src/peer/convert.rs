//! Calls between agents as protobuf and back. Nothing but this, the `client` and the `service`
//! knows the generated types.
//!
//! Encoding cannot fail. Decoding trusts nothing, though whoever sends has proven to be an agent.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use std::time::Instant;

use realm_core::{
    auth::Caller,
    books::Way,
    call::{Call, CallId, Deadline, Resume},
    engine::{Finish, Logprobs, ScoredToken, Usage},
    limit::{Admitted, Left, PerMinute},
    name::{ModelName, PipelineName, TenantName},
    reply::{Chunk, ChunkBody, Done, Progress, ReplyEvent},
    tenants::FunctionInfo,
};
use realm_proto::peer::v1 as proto;
use serde_json::Value;

use super::client::PeerEvent;
use crate::convert::{ConvertError, named, required};

mod refusal;

pub(super) use refusal::{details_from, details_to};
use refusal::{refusal_from, refusal_to};

/// Whom a caller is said to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CallerName {
    pub(super) tenant: TenantName,
    pub(super) key: String,
}

/// A call that a peer hands on.
#[derive(Clone, Debug)]
pub(super) struct Forwarded {
    pub(super) caller: CallerName,
    pub(super) call: Call,
    pub(super) model: ModelName,
    pub(super) left: Left,
}

pub(super) fn request_to(call: &Admitted, model: &ModelName, now: Instant) -> proto::CallRequest {
    let caller = call.caller();
    // Its trace is in the metadata of the request.
    let Call { id, function, params, deadline, resumable, resume, way, trace: _ } = call.call();
    proto::CallRequest {
        caller: Some(caller_to(caller)),
        id: id.0.clone(),
        function: function.clone(),
        params: params.to_string(),
        deadline: deadline.map(|deadline| deadline_to(deadline, now)),
        model: model.as_str().to_owned(),
        left: Some(left_to(call.left(now))),
        resumable: *resumable,
        resume: resume.as_ref().map(resume_to),
        pipeline: match way {
            Way::Direct | Way::OtherPipelines => String::new(),
            Way::Pipeline(name) => name.as_str().to_owned(),
        },
    }
}

pub(super) fn request_from(
    request: proto::CallRequest,
    now: Instant,
) -> Result<Forwarded, ConvertError> {
    let proto::CallRequest {
        caller,
        id,
        function,
        params,
        deadline,
        model,
        left,
        resumable,
        resume,
        pipeline,
    } = request;
    if function.is_empty() {
        return Err(ConvertError::Missing { field: "call.function" });
    }
    let pipeline = (!pipeline.is_empty())
        .then(|| named("call.pipeline", &pipeline, PipelineName::parse))
        .transpose()?;
    let call = Call {
        deadline: deadline.map(|deadline| deadline_from(deadline, now)),
        resumable,
        resume: resume.map(resume_from).transpose()?,
        way: Way::of(pipeline),
        ..Call::new(CallId(id), function, json("call.params", &params)?)
    };
    Ok(Forwarded {
        caller: caller_from(caller)?,
        call,
        model: named("call.model", &model, ModelName::parse)?,
        left: left_from(required("call.left", left)?),
    })
}

pub(super) fn caller_to(caller: &Caller) -> proto::Caller {
    proto::Caller { tenant: caller.tenant().as_str().to_owned(), key: caller.key().to_owned() }
}

pub(super) fn caller_from(caller: Option<proto::Caller>) -> Result<CallerName, ConvertError> {
    let proto::Caller { tenant, key } = required("caller", caller)?;
    Ok(CallerName { tenant: named("caller.tenant", &tenant, TenantName::parse)?, key })
}

fn left_to(left: Left) -> proto::Tokens {
    let Left { input_tokens, output_tokens, per_minute } = left;
    let per_minute = per_minute.map(|PerMinute { input_tokens, output_tokens }| proto::PerMinute {
        input: input_tokens,
        output: output_tokens,
    });
    proto::Tokens { input: input_tokens, output: output_tokens, per_minute }
}

fn left_from(left: proto::Tokens) -> Left {
    let proto::Tokens { input, output, per_minute } = left;
    let per_minute = per_minute.map(|proto::PerMinute { input, output }| PerMinute {
        input_tokens: input,
        output_tokens: output,
    });
    Left { input_tokens: input, output_tokens: output, per_minute }
}

fn deadline_to(deadline: Deadline, now: Instant) -> proto::Deadline {
    let left = deadline.at().saturating_duration_since(now).as_millis();
    proto::Deadline { left_ms: u64::try_from(left).unwrap_or(u64::MAX), asked_ms: deadline.ms() }
}

fn deadline_from(deadline: proto::Deadline, now: Instant) -> Deadline {
    let proto::Deadline { left_ms, asked_ms } = deadline;
    Deadline::with_left(now, left_ms, asked_ms)
}

fn resume_to(resume: &Resume) -> proto::Resume {
    let tokens = resume.tokens().to_vec();
    proto::Resume { tokens, text_bytes: resume.text_bytes(), seed: resume.seed() }
}

fn resume_from(resume: proto::Resume) -> Result<Resume, ConvertError> {
    let proto::Resume { tokens, text_bytes, seed } = resume;
    let field = "call.resume";
    Resume::new(tokens, text_bytes, seed).map_err(|_refused| ConvertError::TooMany { field })
}

pub(super) fn reply_to(event: PeerEvent) -> proto::CallReply {
    let PeerEvent { spent, in_hand, event } = event;
    let event = event.map(|event| match event {
        ReplyEvent::Chunk(chunk) => proto::call_reply::Event::Chunk(chunk_to(chunk)),
        ReplyEvent::Done(done) => proto::call_reply::Event::Done(done_to(&done)),
        ReplyEvent::Failed(refusal) => proto::call_reply::Event::Failed(refusal_to(refusal)),
    });
    proto::CallReply { spent: Some(usage_to(spent)), in_hand, event }
}

pub(super) fn reply_from(reply: proto::CallReply) -> Result<PeerEvent, ConvertError> {
    let proto::CallReply { spent, in_hand, event } = reply;
    let event = event.map(|event| {
        Ok(match event {
            proto::call_reply::Event::Chunk(chunk) => ReplyEvent::Chunk(chunk_from(chunk)?),
            proto::call_reply::Event::Done(done) => ReplyEvent::Done(done_from(done)?),
            proto::call_reply::Event::Failed(refusal) => ReplyEvent::Failed(refusal_from(refusal)?),
        })
    });
    let spent = usage_from(required("reply.spent", spent)?);
    Ok(PeerEvent { spent, in_hand, event: event.transpose()? })
}

fn usage_to(usage: Usage) -> proto::Usage {
    let Usage { prompt_tokens, cached_tokens, completion_tokens } = usage;
    proto::Usage { prompt_tokens, cached_tokens, completion_tokens }
}

fn usage_from(usage: proto::Usage) -> Usage {
    let proto::Usage { prompt_tokens, cached_tokens, completion_tokens } = usage;
    Usage { prompt_tokens, cached_tokens, completion_tokens }
}

fn chunk_to(chunk: Chunk) -> proto::Chunk {
    let Chunk { step, body, logprobs, progress } = chunk;
    let body = match body {
        ChunkBody::Text(text) => proto::chunk::Body::Text(text),
        ChunkBody::Json(value) => proto::chunk::Body::Json(value.to_string()),
    };
    let progress =
        progress.map(|Progress { first, tokens, seed }| proto::Progress { first, tokens, seed });
    let logprobs = logprobs.into_iter().map(logprobs_to).collect();
    proto::Chunk { step: step.map(|step| (*step).to_owned()), body: Some(body), progress, logprobs }
}

fn chunk_from(chunk: proto::Chunk) -> Result<Chunk, ConvertError> {
    let proto::Chunk { step, body, progress, logprobs } = chunk;
    let body = match required("chunk.body", body)? {
        proto::chunk::Body::Text(text) => ChunkBody::Text(text),
        proto::chunk::Body::Json(text) => ChunkBody::Json(json("chunk.json", &text)?),
    };
    let progress =
        progress.map(|proto::Progress { first, tokens, seed }| Progress { first, tokens, seed });
    let logprobs = logprobs.into_iter().map(logprobs_from).collect::<Result<_, _>>()?;
    Ok(Chunk { step: step.map(Into::into), body, logprobs, progress })
}

fn logprobs_to(Logprobs { chosen, top }: Logprobs) -> proto::Logprobs {
    let scored = |ScoredToken { id, bytes, logprob }| proto::ScoredToken { id, bytes, logprob };
    proto::Logprobs { chosen: Some(scored(chosen)), top: top.into_iter().map(scored).collect() }
}

fn logprobs_from(logprobs: proto::Logprobs) -> Result<Logprobs, ConvertError> {
    let proto::Logprobs { chosen, top } = logprobs;
    let chosen = scored_from(required("logprobs.chosen", chosen)?)?;
    let top = top.into_iter().map(scored_from).collect::<Result<_, _>>()?;
    Ok(Logprobs { chosen, top })
}

fn scored_from(token: proto::ScoredToken) -> Result<ScoredToken, ConvertError> {
    let proto::ScoredToken { id, bytes, logprob } = token;
    let field = "logprobs.logprob";
    if !logprob.is_finite() {
        return Err(ConvertError::NotFinite { field });
    }
    Ok(ScoredToken { id, bytes, logprob })
}

fn done_to(done: &Done) -> proto::Done {
    let Done { data, finish, usage } = done;
    let finish = match finish {
        Finish::Stop => proto::Finish::Stop,
        Finish::Length => proto::Finish::Length,
    };
    proto::Done { data: data.to_string(), finish: finish.into(), usage: Some(usage_to(*usage)) }
}

fn done_from(done: proto::Done) -> Result<Done, ConvertError> {
    let proto::Done { data, finish, usage } = done;
    let field = "done.finish";
    let finish = match proto::Finish::try_from(finish) {
        Ok(proto::Finish::Stop) => Finish::Stop,
        Ok(proto::Finish::Length) => Finish::Length,
        Ok(proto::Finish::Unspecified) => return Err(ConvertError::Missing { field }),
        Err(prost::UnknownEnumValue(value)) => {
            return Err(ConvertError::UnknownValue { field, value });
        }
    };
    let usage = usage_from(required("done.usage", usage)?);
    Ok(Done { data: json("done.data", &data)?, finish, usage })
}

pub(super) fn functions_to(functions: Vec<FunctionInfo>) -> proto::DescribeReply {
    let function = |info: FunctionInfo| {
        let FunctionInfo { name, description, params_schema, streams } = info;
        let params_schema = params_schema.to_string();
        proto::describe_reply::Function { name, description, params_schema, streams }
    };
    proto::DescribeReply { functions: functions.into_iter().map(function).collect() }
}

pub(super) fn functions_from(
    reply: proto::DescribeReply,
) -> Result<Vec<FunctionInfo>, ConvertError> {
    let proto::DescribeReply { functions } = reply;
    let functions = functions.into_iter().map(|function| {
        let proto::describe_reply::Function { name, description, params_schema, streams } =
            function;
        let params_schema = json("function.params_schema", &params_schema)?;
        Ok(FunctionInfo { name, description, params_schema, streams })
    });
    functions.collect()
}

fn json(field: &'static str, text: &str) -> Result<Value, ConvertError> {
    serde_json::from_str(text).map_err(|source| ConvertError::Json { field, source })
}

#[cfg(test)]
mod tests;
