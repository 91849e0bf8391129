//! Where the steps of a pipeline run: here, or each wherever its model is.

use std::{sync::Arc, time::Instant};

use realm_core::{
    books::Way,
    call::{Call, Deadline},
    desired::DesiredTenant,
    limit::Admitted,
    refusal::Refusal,
    reply::{Chunk, ChunkBody, Done, ReplyEvent, ReplySender},
    tenants::Tenants,
    trace::Scope,
};
use serde_json::Value;

use super::FUNCTION;
use crate::{
    call::{self, Answer, Run, Running},
    meter::Allowance,
    refusal::{Ended, internal},
    tracker::Tracker,
    writer::Writer,
};

/// Who runs the steps.
#[derive(Clone, Copy)]
pub(crate) enum Runner<'a> {
    /// The tenant's program on this node.
    Here(&'a Running),
    /// Whoever has the model of the step.
    Apart(&'a Apart),
}

/// A pipeline whose steps are calls of their own.
pub(crate) struct Apart {
    pub(crate) call: Admitted,
    /// What its steps are booked under, wherever they run.
    pub(crate) way: Way,
    /// Time and output are the whole pipeline's; the rest is counted where a step runs.
    pub(crate) allowance: Allowance,
    pub(crate) steps: Arc<dyn Tenants>,
    pub(crate) sender: ReplySender,
}

impl Runner<'_> {
    pub(crate) fn tenant(&self) -> &DesiredTenant {
        match self {
            Self::Here(running) => &running.tenant,
            Self::Apart(apart) => apart.call.caller().rights(),
        }
    }

    pub(crate) const fn deadline(&self) -> Deadline {
        match self {
            Self::Here(running) => running.allowance.deadline,
            Self::Apart(apart) => apart.allowance.deadline,
        }
    }

    /// The whole call's.
    pub(crate) fn trace(&self) -> &Scope {
        match self {
            Self::Here(running) => &running.tokens.admitted().call().trace,
            Self::Apart(apart) => &apart.call.call().trace,
        }
    }

    /// A tenant's own program need not have what steps are made of. Where it is elsewhere, its
    /// first step says so.
    pub(crate) fn check_program(&self) -> Result<(), Refusal> {
        let is_fit = match self {
            Self::Here(running) => {
                running.program.functions.iter().any(|function| function.name == FUNCTION)
            }
            Self::Apart(_) => true,
        };
        if is_fit { Ok(()) } else { Err(unfit()) }
    }

    /// Runs one step and streams it.
    pub(crate) async fn run(
        &self,
        name: Arc<str>,
        params: Value,
        deadline: Deadline,
        trace: Scope,
    ) -> Result<Answer, Refusal> {
        match self {
            Self::Here(running) => {
                let (step, deadline) = (Some(name), Some(deadline));
                let tracker = Tracker::default();
                let (function, params) = (FUNCTION, &params);
                let run = Run { function, params, deadline, step, tracker, trace };
                call::run(running, run).await
            }
            Self::Apart(apart) => apart.run(name, params, deadline, trace).await,
        }
    }
}

fn unfit() -> Refusal {
    let message = format!("it has no function `{FUNCTION}`, which the steps of pipelines need");
    Refusal::ProgramFailed(message)
}

impl Apart {
    async fn run(
        &self,
        name: Arc<str>,
        params: Value,
        deadline: Deadline,
        trace: Scope,
    ) -> Result<Answer, Refusal> {
        self.call.check(Instant::now())?;
        let deadline = deadline.earliest(self.allowance.deadline);
        let step = Call {
            deadline: Some(deadline),
            way: self.way.clone(),
            trace,
            ..Call::new(self.call.call().id.clone(), FUNCTION, params)
        };
        let mut reply = self.steps.start(self.call.part(step));
        let output = self.allowance.output.clone();
        let mut writer = Writer::new(self.sender.clone(), Some(name), output, Tracker::default());
        loop {
            match reply.recv().await {
                Some(ReplyEvent::Chunk(chunk)) => write(&mut writer, chunk).await?,
                Some(ReplyEvent::Done(Done { data, finish, usage: _ })) => {
                    return Ok(Answer { finish, data, text: writer.into_text() });
                }
                Some(ReplyEvent::Failed(Refusal::UnknownFunction(_))) => return Err(unfit()),
                Some(ReplyEvent::Failed(refusal)) => return Err(refusal),
                None => return Err(internal("the reply of a step ended without an end")),
            }
        }
    }
}

async fn write(writer: &mut Writer, chunk: Chunk) -> Result<(), Refusal> {
    let written = match chunk.body {
        ChunkBody::Text(text) => writer.write_scored(text, chunk.logprobs).await,
        ChunkBody::Json(value) => writer.write_json(&value.to_string()).await,
    };
    written.map_err(|Ended(refusal)| refusal)
}
