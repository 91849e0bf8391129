//! `realm run`: one prompt, or a chat, through the whole of Realm without a socket.
//!
//! What it serves is written as manifests in a scratch folder and goes the same way as any other:
//! there is no shorter path to the model.

pub(crate) mod bar;

use std::{
    fs,
    io::{self, IsTerminal as _},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use realm_core::{
    auth::Credential,
    report::{Failure, ModelPhase, Phase, Report},
};
use realm_crds::Model;
use serde_json::{Map, Value};
use tokio::task::spawn_blocking;

use crate::{
    args::RunArgs,
    home::Home,
    machine::Machine,
    output, sample,
    serve::state::Notice,
    source,
    talk::{Conversation, Door},
};

pub(crate) async fn run(home: &Home, args: RunArgs) -> anyhow::Result<ExitCode> {
    let scratch = tempfile::tempdir().context("make a scratch folder")?;
    let manifests = scratch.path().join("manifests");
    sample::lay_out(&manifests)?;
    let key = sample::new_key(&manifests)?;
    if let Some(model) = &args.model {
        let text = model_manifest(model, &args.sha256)?;
        fs::write(manifests.join(sample::MODEL_FILE), text)
            .context("write the model's manifest")?;
    }
    let ledger = scratch.path().join("ledger");
    let mut machine = Machine::start(home, manifests, &ledger, args.device).await?;
    wait_until_ready(&mut machine).await?;
    let door = Door {
        credential: Credential::of(key.reveal()),
        roster: machine.agent.roster(),
        limiter: machine.agent.limiter(),
        tenants: machine.agent.runtime(),
    };
    let mut conversation = Conversation::new(args.system.as_deref(), sampling(&args));
    match &args.prompt {
        Some(prompt) => answer(&mut conversation, &door, prompt).await,
        None => chat(&mut conversation, &door).await,
    }
}

/// The sample's model, from another source.
fn model_manifest(model: &str, digests: &[String]) -> anyhow::Result<String> {
    let mut manifest: Model = serde_saphyr::from_str(sample::MODEL).context("read the sample")?;
    manifest.spec.sources = vec![source::of_argument(model)?];
    (manifest.spec.sha256, manifest.spec.parts) = match digests {
        [] => (None, Vec::new()),
        [digest] => (Some(digest.clone()), Vec::new()),
        parts => (None, parts.to_vec()),
    };
    serde_saphyr::to_string(&manifest).context("write the model's manifest")
}

fn sampling(args: &RunArgs) -> Map<String, Value> {
    let RunArgs { max_tokens, temperature, seed, .. } = args;
    let set = [
        ("max_tokens", max_tokens.map(Value::from)),
        ("temperature", temperature.map(Value::from)),
        ("seed", seed.map(Value::from)),
    ];
    set.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// Waits until the model and the tenant are there, with a bar for what is fetched.
async fn wait_until_ready(machine: &mut Machine) -> anyhow::Result<()> {
    let mut bar = bar::Bar::new("fetching the model");
    loop {
        match standing(&machine.report.borrow_and_update()) {
            Standing::Ready => return Ok(()),
            Standing::Failed(Failure { reason, message }) => bail!("{reason}: {message}"),
            Standing::Fetching { bytes_done, bytes_total } => bar.show(bytes_done, bytes_total),
            Standing::Waiting => {}
        }
        tokio::select! {
            changed = machine.report.changed() => changed.context("the machine stopped")?,
            Some(notice) = machine.notices.recv() => match notice {
                Notice::Problem(problem) => bail!("{problem}"),
                other => tracing::debug!(notice = ?other, "on the way to ready"),
            }
        }
    }
}

/// How far a machine with one model and one tenant is.
enum Standing {
    Waiting,
    Fetching { bytes_done: u64, bytes_total: Option<u64> },
    Ready,
    Failed(Failure),
}

fn standing(report: &Report) -> Standing {
    let (Some(model), Some(tenant)) = (report.models.first(), report.tenants.first()) else {
        return Standing::Waiting;
    };
    match (&model.phase, &tenant.phase) {
        (ModelPhase::Failed(failure), _) | (_, Phase::Failed(failure)) => {
            Standing::Failed(failure.clone())
        }
        (&ModelPhase::Fetching { bytes_done, bytes_total }, _) => {
            Standing::Fetching { bytes_done, bytes_total }
        }
        (ModelPhase::Ready, Phase::Ready) => Standing::Ready,
        (ModelPhase::Pending | ModelPhase::Loading | ModelPhase::Ready, _) => Standing::Waiting,
    }
}

async fn answer(
    conversation: &mut Conversation,
    door: &Door,
    prompt: &str,
) -> anyhow::Result<ExitCode> {
    let mut shown = Ok(());
    let answer = conversation.ask(door, prompt, |piece| {
        if shown.is_ok() {
            shown = output::piece(piece);
        }
    });
    let result = answer.await;
    shown?;
    output::line("")?;
    match result {
        Ok(_) => Ok(ExitCode::SUCCESS),
        Err(refusal) => bail!("{}: {refusal}", refusal.code()),
    }
}

async fn chat(conversation: &mut Conversation, door: &Door) -> anyhow::Result<ExitCode> {
    let is_terminal = io::stdin().is_terminal();
    if is_terminal {
        output::note("Chat with the model; an empty line or Ctrl-D ends it.");
    }
    loop {
        if is_terminal {
            output::piece("> ")?;
        }
        let line = spawn_blocking(|| {
            let mut line = String::new();
            io::stdin().read_line(&mut line).map(|bytes| (bytes, line))
        });
        let (bytes, line) = line.await.context("read the prompt")?.context("read the prompt")?;
        let prompt = line.trim();
        if bytes == 0 || prompt.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        if let Err(error) = answer(conversation, door, prompt).await {
            output::note(format!("{error:#}"));
        }
    }
}
