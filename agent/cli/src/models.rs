//! `realm models`: the model files of this machine, or the models of a cluster.

mod quantize;
mod show;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use realm_core::{
    desired::{Artifact, Sha256},
    report::ModelFacts,
    split,
};
use realm_crds::{Model, model::ModelSpec};
use realm_engine::gguf::{self, Gguf};
use realm_store::{Owner, Progress, Store, Stored};

use crate::{
    access::Access,
    args::{ListArgs, ModelsCommand, TargetArgs},
    cluster::Cluster,
    home::Home,
    manifests::{self, Reading},
    output,
    run::bar::Bar,
    sample, source,
    table::Table,
    target::{self, Folder},
};

pub(crate) async fn run(home: &Home, command: ModelsCommand) -> anyhow::Result<ExitCode> {
    match command {
        ModelsCommand::List(args) => list(home, &args).await?,
        ModelsCommand::Pull { source, sha256 } => {
            let artifact = match source {
                Some(source) => named(&source, &sha256)?,
                None => default_artifact()?,
            };
            let (store, owner) = open(home)?;
            let stored = pull(&store, &artifact, &owner).await?;
            let paths: Vec<_> = stored.paths().iter().map(|p| p.display().to_string()).collect();
            let Stored { sha256, bytes, .. } = stored;
            output::line(format!("{sha256}  {bytes} bytes  {}", paths.join(" ")))?;
        }
        ModelsCommand::Info { model, target } => info(home, model.as_deref(), &target).await?,
        ModelsCommand::Quantize(args) => quantize::quantize(args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The file of the default model, fetched if need be.
pub(crate) async fn default_file(home: &Home) -> anyhow::Result<PathBuf> {
    let (store, owner) = open(home)?;
    Ok(pull(&store, &default_artifact()?, &owner).await?.path)
}

/// The store of this machine, and what opens sources for it.
fn open(home: &Home) -> anyhow::Result<(Store, Owner)> {
    let Access { store, credentials } = Access::of_environment();
    let owner = Owner { credentials, ..Owner::default() };
    Ok((Store::open(&home.store()?, store)?, owner))
}

async fn pull(store: &Store, artifact: &Artifact, owner: &Owner) -> anyhow::Result<Stored> {
    let bar = std::sync::Mutex::new(Bar::new("fetching the model"));
    let show = |Progress { bytes_done, bytes_total }| {
        if let Ok(mut bar) = bar.lock() {
            bar.show(bytes_done, bytes_total);
        }
    };
    Ok(store.fetch(artifact, owner, &show).await?)
}

fn default_artifact() -> anyhow::Result<Artifact> {
    let Model { spec, .. } = serde_saphyr::from_str(sample::MODEL).context("read the sample")?;
    let sha256 = spec.sha256.as_deref().map(digest).transpose()?;
    Ok(Artifact { sources: spec.sources, sha256, parts: Vec::new() })
}

fn named(argument: &str, digests: &[String]) -> anyhow::Result<Artifact> {
    let sources = vec![source::of_argument(argument)?];
    let mut parts = digests.iter().map(|text| digest(text)).collect::<Result<Vec<_>, _>>()?;
    let sha256 = if parts.len() == 1 { parts.pop() } else { None };
    Ok(Artifact { sources, sha256, parts })
}

fn digest(text: &str) -> anyhow::Result<Sha256> {
    text.parse().with_context(|| format!("`{text}` is not a SHA-256 digest in hexadecimal"))
}

async fn list(home: &Home, args: &ListArgs) -> anyhow::Result<()> {
    let mut table = Table::headed(show::COLUMNS);
    if target::is_cluster(&args.target.cluster) {
        let TargetArgs { cluster, namespace, .. } = &args.target;
        let cluster = Cluster::open(cluster, namespace.as_deref()).await?;
        for model in cluster.list::<Model>(&target::scope(args, &cluster), "").await? {
            table.add(show::served(&model));
        }
        return output::table(&table, "no models");
    }
    let reading = manifests_of(home, &args.target)?;
    let stored = open(home)?.0.list().await?;
    let mut named = BTreeSet::new();
    for (document, model) in target::objects::<Model>(&reading) {
        if target::is_listed(args, document) {
            let (state, paths) = on_disk(&model.spec, &stored);
            named.extend(paths.iter().cloned());
            let name = document.id.1.to_string();
            table.add(show::file(&name, state, &found(&paths, &stored)));
        }
    }
    for Stored { path, .. } in stored.iter().filter(|stored| !named.contains(&stored.path)) {
        table.add(show::file("", show::CACHED, &found(std::slice::from_ref(path), &stored)));
    }
    output::table(&table, "no models")
}

/// The manifests of one machine: of the folder that is named, or of the sample if it is there.
fn manifests_of(home: &Home, args: &TargetArgs) -> anyhow::Result<Reading> {
    let folder = match &args.manifests {
        Some(folder) if !folder.is_dir() => bail!("there is no folder {}", folder.display()),
        Some(folder) => folder.clone(),
        None => home.sample()?,
    };
    Ok(if folder.is_dir() { manifests::read(&folder) } else { Reading::default() })
}

/// Where a model's file lies on this machine, if it does, or all of its parts.
fn on_disk(spec: &ModelSpec, stored: &[Stored]) -> (&'static str, Vec<PathBuf>) {
    let cached = |text: &String| {
        let digest = text.parse::<Sha256>().ok()?;
        stored.iter().find(|stored| stored.sha256 == digest).map(|stored| stored.path.clone())
    };
    let digests = spec.sha256.iter().chain(&spec.parts);
    if let Some(paths) = digests.map(cached).collect::<Option<Vec<_>>>()
        && !paths.is_empty()
    {
        return (show::CACHED, paths);
    }
    let files = spec.sources.iter().filter_map(|source| source.strip_prefix("file://"));
    let files = files.map(|file| gguf::beside(Path::new(file)).unwrap_or_default());
    let is_here = |paths: &Vec<PathBuf>| !paths.is_empty() && paths.iter().all(|p| p.is_file());
    match files.into_iter().find(is_here) {
        Some(paths) => (show::IN_PLACE, paths),
        None => (show::NOT_CACHED, Vec::new()),
    }
}

/// What a file is and says.
fn found(paths: &[PathBuf], stored: &[Stored]) -> show::File {
    let of_store = |path: &PathBuf| stored.iter().find(|stored| stored.path == *path);
    let bytes = |path: &PathBuf| path.metadata().ok().map(|meta| meta.len());
    let digests: Option<Vec<_>> = paths.iter().map(|p| of_store(p).map(|s| s.sha256)).collect();
    let sha256 = match digests.as_deref() {
        None | Some([]) => None,
        Some([digest]) => Some(digest.to_string()),
        Some(parts) => Some(split::digest(parts).to_string()),
    };
    let bytes: Option<u64> = paths.iter().map(bytes).sum();
    show::File { bytes: bytes.filter(|_| !paths.is_empty()), sha256, facts: facts(paths).ok() }
}

async fn info(home: &Home, model: Option<&str>, args: &TargetArgs) -> anyhow::Result<()> {
    if target::is_cluster(&args.cluster) {
        let name =
            model.context("name a model; `realm models list` with the same flags has them")?;
        let cluster = Cluster::open(&args.cluster, args.namespace.as_deref()).await?;
        let model: Model = cluster.get(name).await?;
        return Ok(show::lines(&model).into_iter().try_for_each(output::line)?);
    }
    let (store, owner) = open(home)?;
    let paths = match model {
        Some(name) => find(home, &store, name, args).await?,
        None => pull(&store, &default_artifact()?, &owner).await?.paths(),
    };
    let facts = facts(&paths)?;
    Ok(show::facts(&facts).into_iter().try_for_each(output::line)?)
}

/// A path, the file of a manifest's model, or the file in the store whose digest begins with `name`;
/// with all its parts, if it has several.
async fn find(
    home: &Home,
    store: &Store,
    name: &str,
    args: &TargetArgs,
) -> anyhow::Result<Vec<PathBuf>> {
    let path = PathBuf::from(name);
    if path.exists() {
        return gguf::beside(&path).with_context(|| format!("read {name}"));
    }
    let stored = store.list().await?;
    let namespace = args.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let folder = Folder { path: PathBuf::new(), namespace };
    let reading = manifests_of(home, args)?;
    let mut models = target::objects::<Model>(&reading);
    if let Some((_, Model { spec, .. })) = models.find(|(model, _)| folder.is_it(model, name)) {
        let (_, paths) = on_disk(spec, &stored);
        if paths.is_empty() {
            bail!("the file of {name} is not on this machine yet");
        }
        return Ok(paths);
    }
    let mut found = stored.into_iter().filter(|s| s.sha256.to_string().starts_with(name));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one.paths()),
        (Some(_), Some(_)) => bail!("more than one digest begins with {name}"),
        (None, _) => {
            bail!("{name} is no file, no model of a manifest, and no digest begins with it")
        }
    }
}

fn facts(paths: &[PathBuf]) -> anyhow::Result<ModelFacts> {
    let read = || Gguf::open_parts(paths)?.facts();
    let first = paths.first().map(|path| path.display().to_string()).unwrap_or_default();
    read().with_context(|| format!("read {first}"))
}
