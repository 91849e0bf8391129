//! `realm tenant`: who may call, in a folder of manifests or in a cluster.

mod show;

use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use realm_crds::{GROUP, Secret, Tenant, VERSION};
use realm_plan::{
    Kind, Problem,
    validate::{self, Site},
};
use serde_json::{Map, Value, json};

use crate::{
    api_key,
    args::{ListArgs, TargetArgs, TenantCommand},
    cluster::{self, Cluster, Served as _, settle},
    home::Home,
    keys::KeyFile,
    manifests::{self, Document, Found, ManifestProblem, Reading, one_line},
    output,
    serve::state,
    table::Table,
    target::{self, Folder, Target},
};

pub(crate) async fn run(home: &Home, command: TenantCommand) -> anyhow::Result<ExitCode> {
    match command {
        TenantCommand::List(args) => list(home, &args).await?,
        TenantCommand::Show { tenant, target } => show(home, &tenant, &target).await?,
        TenantCommand::Create { tenant, target, weight, models, wait } => {
            let new = New { name: tenant, weight, models };
            match Target::open(home, &target).await? {
                Target::Machine(folder) => create_in_folder(&folder, &new)?,
                Target::Cluster(cluster) => create(&cluster, &new, !wait.no_wait).await?,
            }
        }
        TenantCommand::Suspend { tenant, target, wait } => {
            suspend(home, &tenant, &target, Suspension { suspended: true, waits: !wait.no_wait })
                .await?;
        }
        TenantCommand::Resume { tenant, target, wait } => {
            suspend(home, &tenant, &target, Suspension { suspended: false, waits: !wait.no_wait })
                .await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(home: &Home, args: &ListArgs) -> anyhow::Result<()> {
    let mut table = Table::headed(show::COLUMNS);
    match Target::open(home, &args.target).await? {
        Target::Machine(folder) => {
            let reading = folder.read();
            let problems = state::problems(reading.clone());
            for (document, tenant) in target::objects::<Tenant>(&reading) {
                if target::is_listed(args, document) {
                    let state = manifests::within(document, &problems).next();
                    let state = state.map_or("Valid", |problem| problem.cause.reason());
                    let keys = keys_in(&reading, document, tenant);
                    let name = document.id.1.to_string();
                    table.add(show::row(name, state.to_owned(), keys, &tenant.spec));
                }
            }
            for problem in reading.problems.iter().chain(unreadable(&reading)) {
                output::note(problem.to_string());
            }
        }
        Target::Cluster(cluster) => {
            for tenant in cluster.list::<Tenant>(&target::scope(args, &cluster), "").await? {
                let name = target::full_name(&tenant.metadata);
                let keys = tenant.status.as_ref().map_or(0, |status| status.keys);
                table.add(show::row(name, tenant.said().state(), keys, &tenant.spec));
            }
        }
    }
    output::table(&table, "no tenants")
}

/// What keeps objects of the folder from being read at all.
fn unreadable(reading: &Reading) -> impl Iterator<Item = &ManifestProblem> {
    reading.found.iter().flat_map(|found| match found {
        Found::Whole(_) => &[],
        Found::Broken { problems, .. } => problems.as_slice(),
        Found::Unnamed(problem) => std::slice::from_ref(problem),
    })
}

async fn show(home: &Home, name: &str, args: &TargetArgs) -> anyhow::Result<()> {
    let lines = match Target::open(home, args).await? {
        Target::Machine(folder) => {
            let reading = folder.read();
            let (document, tenant) = find(&folder, &reading, name)?;
            let keys = keys_in(&reading, document, tenant);
            let mut lines = show::lines(&document.id.1.to_string(), keys, &tenant.spec);
            lines.push(format!("manifest    {}", document.place.file));
            let problems = state::problems(reading.clone());
            let mut problems = manifests::within(document, &problems).peekable();
            lines.push(
                if problems.peek().is_none() { "problems    none" } else { "problems" }.to_owned(),
            );
            lines.extend(problems.map(|problem| format!("   {problem}")));
            lines
        }
        Target::Cluster(cluster) => {
            let tenant: Tenant = cluster.get(name).await?;
            let status = tenant.status.clone().unwrap_or_default();
            let full_name = target::full_name(&tenant.metadata);
            let mut lines = show::lines(&full_name, status.keys, &tenant.spec);
            let serving =
                status.program_sha256.as_deref().unwrap_or("none yet, or not the same everywhere");
            lines.push(format!("serving     {serving}"));
            lines.push("conditions".to_owned());
            lines.extend(tenant.said().lines());
            lines
        }
    };
    lines.into_iter().try_for_each(output::line)?;
    Ok(())
}

/// A tenant of a folder.
pub(crate) fn find<'a>(
    folder: &Folder,
    reading: &'a Reading,
    name: &str,
) -> anyhow::Result<(&'a Document, &'a Tenant)> {
    let mut tenants = target::objects::<Tenant>(reading);
    tenants.find(|(document, _)| folder.is_it(document, name)).with_context(|| {
        let full_name = folder.full_name(name);
        let missing = format!("there is no tenant {full_name} in {}", folder.path.display());
        let problems = state::problems(reading.clone());
        match unread(folder, reading, name).or_else(|| problems.first()) {
            Some(problem) => format!("{missing}, of which some is wrong: {problem}"),
            None => missing,
        }
    })
}

/// What is wrong with the tenant's manifest, which says which one it is and cannot be read.
fn unread<'a>(folder: &Folder, reading: &'a Reading, name: &str) -> Option<&'a ManifestProblem> {
    let full_name = folder.full_name(name);
    reading.found.iter().find_map(|found| match found {
        Found::Broken { id, problems, .. } => {
            let is_it = id.0 == Kind::Tenant && id.1.to_string() == full_name;
            problems.first().filter(|_| is_it)
        }
        Found::Whole(_) | Found::Unnamed(_) => None,
    })
}

/// How many keys of a folder's tenant open a door.
fn keys_in(reading: &Reading, document: &Document, tenant: &Tenant) -> u32 {
    let names = |secret: &Document| {
        let sources = &tenant.spec.api_keys;
        secret.id.1.namespace() == document.id.1.namespace()
            && sources.iter().any(|source| source.secret_name == secret.id.1.name())
    };
    let secrets = target::objects::<Secret>(reading).filter(|(secret, _)| names(secret));
    cluster::keys::count(secrets.map(|(_, secret)| secret))
}

/// A tenant to be made.
struct New {
    name: String,
    weight: Option<u32>,
    /// `name` or `namespace/name`.
    models: Vec<String>,
}

impl New {
    /// Only what was asked for: all else keeps its default, and stays nobody's.
    fn manifest(&self, namespace: &str) -> Value {
        let model = |model: &String| match model.split_once('/') {
            Some((namespace, name)) => json!({ "name": name, "namespace": namespace }),
            None => json!({ "name": model }),
        };
        let mut spec = Map::new();
        spec.extend(self.weight.map(|weight| ("weight".to_owned(), json!(weight))));
        if !self.models.is_empty() {
            let models: Vec<_> = self.models.iter().map(model).collect();
            spec.insert("models".to_owned(), json!(models));
        }
        json!({
            "apiVersion": format!("{GROUP}/{VERSION}"),
            "kind": "Tenant",
            "metadata": { "name": self.name, "namespace": namespace },
            "spec": spec,
        })
    }
}

/// Refuses what no planner would take, in the planner's words.
fn checked(manifest: &Value, site: Site) -> anyhow::Result<()> {
    let tenant: Tenant = serde_json::from_value(manifest.clone()).context("read the tenant")?;
    validate::tenant(&tenant, site).map(drop).map_err(|problems| {
        let problem = |problem: &Problem| format!("{}: {}", problem.path, problem.message);
        let problems: Vec<_> = problems.iter().map(problem).collect();
        anyhow!("{}", one_line(&problems.join("; ")))
    })
}

fn create_in_folder(folder: &Folder, new: &New) -> anyhow::Result<()> {
    let reading = folder.read();
    let Folder { path, namespace } = folder;
    if find(folder, &reading, &new.name).is_ok() {
        bail!("Tenant {namespace}/{} is there already", new.name);
    }
    let secret = format!("{}-keys", new.name);
    let mut manifest = new.manifest(namespace);
    manifest["spec"]["apiKeys"] = json!([{ "secretName": secret }]);
    checked(&manifest, Site::OneMachine)?;
    let text = serde_saphyr::to_string(&manifest).context("write the tenant as YAML")?;
    let file = match namespace.as_str() {
        "default" => format!("tenant-{}.yaml", new.name),
        _ => format!("tenant-{namespace}.{}.yaml", new.name),
    };
    api_key::refuse_elsewhere(&reading, namespace, &secret)?;
    // Empty, so that the tenant's reference leads somewhere before its first key is made.
    KeyFile::open(path, namespace, &secret)?.save()?;
    manifests::create(&path.join(&file), &text)?;
    output::line(format!("created {namespace}/{} in {file}", new.name))?;
    let reading = folder.read();
    let (document, _) = find(folder, &reading, &new.name)?;
    let problems = state::problems(reading.clone());
    for problem in manifests::within(document, &problems) {
        output::note(problem.to_string());
    }
    Ok(())
}

async fn create(cluster: &Cluster, new: &New, waits: bool) -> anyhow::Result<()> {
    let manifest = new.manifest(cluster.namespace());
    checked(&manifest, Site::Cluster)?;
    let made: Tenant = cluster.create(&new.name, &manifest).await?;
    output::line(format!("created {}", target::full_name(&made.metadata)))?;
    if waits {
        let tenant = settle::tenant(cluster, &new.name, settle::Want::Seen).await?;
        told(&tenant);
    }
    Ok(())
}

/// Says beside a change what the operator makes of the tenant, where not all is well.
fn told(tenant: &Tenant) {
    let said = tenant.said();
    if let Some(ready) = said.condition("Ready").filter(|_| !said.is_ready()) {
        output::note(format!("{}: {}", ready.reason, ready.message));
    }
}

/// What a tenant should be, and whether the command stays until it is.
#[derive(Clone, Copy)]
struct Suspension {
    suspended: bool,
    waits: bool,
}

async fn suspend(
    home: &Home,
    name: &str,
    args: &TargetArgs,
    Suspension { suspended, waits }: Suspension,
) -> anyhow::Result<()> {
    let word = if suspended { "suspended" } else { "resumed" };
    match Target::open(home, args).await? {
        Target::Machine(folder) => {
            let reading = folder.read();
            let (document, tenant) = find(&folder, &reading, name)?;
            if tenant.spec.suspended != suspended {
                manifests::suspend(&folder.path, document, tenant, suspended)?;
            }
            output::line(format!("{word} {}", document.id.1))?;
        }
        Target::Cluster(cluster) => {
            // Of the tenant as it was: whoever changes a field takes it from the others.
            let mut keepers = Vec::new();
            let patch = |tenant: &Tenant| {
                keepers = cluster::keepers(&tenant.metadata, &["spec", "suspended"]);
                let patch = json!({ "spec": { "suspended": suspended } });
                anyhow::Ok((tenant.spec.suspended != suspended).then_some(patch))
            };
            let tenant: Tenant = cluster.change(name, patch).await?;
            output::line(format!("{word} {}", target::full_name(&tenant.metadata)))?;
            if !keepers.is_empty() {
                let keepers = keepers.join(" and ");
                output::note(format!("{keepers} applies spec.suspended too, and may set it back"));
            }
            if waits {
                told(&settle::tenant(&cluster, name, settle::Want::Seen).await?);
            }
        }
    }
    Ok(())
}
