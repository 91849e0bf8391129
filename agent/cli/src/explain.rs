//! `realm explain`: in words, what an object is entitled to, what it gets, and what keeps it from
//! more.
//!
//! What is asked for is in a manifest or in the API server, and what is wrong in its conditions; what
//! happens now is in the metrics of a server or of agents, where somebody says where these are. The
//! words are in [`words`].

mod words;

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use realm_crds::{Model, Pipeline, Tenant};

use crate::{
    args::ExplainArgs,
    cluster::{Cluster, Served},
    home::Home,
    manifests, output,
    serve::state,
    target::{self, Folder, Manifest, Target},
    tenant,
    top::{self, reading::Reading},
};

/// How long it is looked at what happens: enough for a few steps of a slow machine.
const LOOK_FOR: Duration = Duration::from_secs(2);

/// What is to be explained.
enum Subject<'a> {
    Tenant(&'a str),
    Model(&'a str),
    Pipeline(&'a str),
}

impl<'a> Subject<'a> {
    fn parse(text: &'a str) -> anyhow::Result<Self> {
        match text.split_once('/') {
            Some(("tenant" | "tenants" | "tn", name)) => Ok(Self::Tenant(name)),
            Some(("model" | "models", name)) => Ok(Self::Model(name)),
            Some(("pipeline" | "pipelines", name)) => Ok(Self::Pipeline(name)),
            _ => bail!("`{text}` is none of tenant/NAME, model/NAME and pipeline/NAME"),
        }
    }
}

pub(crate) async fn run(home: &Home, args: ExplainArgs) -> anyhow::Result<ExitCode> {
    let ExplainArgs { object, metrics, target } = args;
    let lines = match (Subject::parse(&object)?, Target::open(home, &target).await?) {
        (Subject::Tenant(name), Target::Machine(folder)) => {
            tenant_of_folder(&folder, name, &metrics).await?
        }
        (Subject::Tenant(name), Target::Cluster(cluster)) => {
            let tenant: Tenant = cluster.get(name).await?;
            let mut lines = words::asked(&target::full_name(&tenant.metadata), &tenant.spec);
            // Its conditions say what does not work, on whichever node.
            lines.extend(now(&target::full_name(&tenant.metadata), &metrics).await?.lines);
            lines.extend(words::of_use(tenant.said()));
            lines.extend(words::totals(tenant.status.as_ref().and_then(|it| it.totals.as_ref())));
            lines.extend(words::wrong(tenant.said()));
            lines
        }
        (Subject::Model(name), Target::Machine(folder)) => {
            model_of_folder(&folder, name, &metrics).await?
        }
        (Subject::Model(name), Target::Cluster(cluster)) => {
            in_cluster::<Model>(&cluster, "model", name).await?
        }
        (Subject::Pipeline(name), Target::Machine(folder)) => {
            let (mut lines, problems) = in_folder::<Pipeline>(&folder, "pipeline", name)?;
            lines.extend(words::problems(&problems));
            lines
        }
        (Subject::Pipeline(name), Target::Cluster(cluster)) => {
            in_cluster::<Pipeline>(&cluster, "pipeline", name).await?
        }
    };
    lines.into_iter().try_for_each(output::line)?;
    Ok(ExitCode::SUCCESS)
}

async fn tenant_of_folder(
    folder: &Folder,
    name: &str,
    metrics: &[String],
) -> anyhow::Result<Vec<String>> {
    let reading = folder.read();
    let (document, tenant) = tenant::find(folder, &reading, name)?;
    let full_name = document.id.1.to_string();
    let mut lines = words::asked(&full_name, &tenant.spec);
    let Now { lines: seen, reading: seen_at } = now(&full_name, metrics).await?;
    lines.extend(seen);
    let mut wrong = words::failures(&seen_at.failures(&full_name));
    for model in &tenant.spec.models {
        let model = target::full_reference(document.id.1.namespace(), model);
        let failures = words::failures(&seen_at.model_failures(&model));
        wrong.extend(failures.into_iter().map(|failure| format!("model {model} {failure}")));
    }
    let problems = state::problems(reading.clone());
    wrong.extend(manifests::within(document, &problems).map(ToString::to_string));
    lines.extend(words::problems(&wrong));
    Ok(lines)
}

async fn model_of_folder(
    folder: &Folder,
    name: &str,
    metrics: &[String],
) -> anyhow::Result<Vec<String>> {
    let (mut lines, problems) = in_folder::<Model>(folder, "model", name)?;
    let mut wrong = Vec::new();
    if metrics.is_empty() {
        lines.extend(words::unseen());
    } else {
        let reading = top::read(metrics).await?;
        wrong = words::failures(&reading.model_failures(&folder.full_name(name)));
    }
    wrong.extend(problems);
    lines.extend(words::problems(&wrong));
    Ok(lines)
}

/// What happens to a tenant, and what its servers say.
struct Now {
    lines: Vec<String>,
    reading: Reading,
}

/// The same, where metrics tell it.
async fn now(tenant: &str, metrics: &[String]) -> anyhow::Result<Now> {
    if metrics.is_empty() {
        return Ok(Now { lines: words::unseen(), reading: Reading::default() });
    }
    let (seconds, rows, reading) = top::look(metrics, LOOK_FOR).await?;
    let lines = words::seen(tenant, &rows, (reading.held_back(tenant), seconds));
    Ok(Now { lines, reading })
}

/// The name of a model or a pipeline, and what its folder says is wrong with it.
fn in_folder<K: Manifest + 'static>(
    folder: &Folder,
    kind: &str,
    name: &str,
) -> anyhow::Result<(Vec<String>, Vec<String>)> {
    let reading = folder.read();
    let mut found = target::objects::<K>(&reading);
    let found = found.find(|(document, _)| folder.is_it(document, name));
    let Folder { path, namespace } = folder;
    let missing = || format!("there is no {kind} {namespace}/{name} in {}", path.display());
    let (document, _) = found.with_context(missing)?;
    let problems = state::problems(reading.clone());
    let problems = manifests::within(document, &problems).map(ToString::to_string);
    Ok((vec![format!("{kind:<11} {}", document.id.1)], problems.collect()))
}

async fn in_cluster<K: Served>(
    cluster: &Cluster,
    kind: &str,
    name: &str,
) -> anyhow::Result<Vec<String>> {
    let object: K = cluster.get(name).await?;
    let mut lines = vec![format!("{kind:<11} {}", target::full_name(object.meta()))];
    lines.extend(words::wrong(object.said()));
    Ok(lines)
}
