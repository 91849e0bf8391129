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
};
use realm_crds::Model;
use realm_engine::gguf::Gguf;
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
                Some(source) => named(&source, sha256.as_deref())?,
                None => default_artifact()?,
            };
            let (store, owner) = open(home)?;
            let Stored { path, sha256, bytes, .. } = pull(&store, &artifact, &owner).await?;
            output::line(format!("{sha256}  {bytes} bytes  {}", path.display()))?;
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
    Ok(Artifact { sources: spec.sources, sha256 })
}

fn named(argument: &str, sha256: Option<&str>) -> anyhow::Result<Artifact> {
    let sources = vec![source::of_argument(argument)?];
    Ok(Artifact { sources, sha256: sha256.map(digest).transpose()? })
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
            let (state, path) = on_disk(&model.spec.sources, model.spec.sha256.as_deref(), &stored);
            named.extend(path.clone());
            let name = document.id.1.to_string();
            table.add(show::file(&name, state, &found(path.as_deref(), &stored)));
        }
    }
    for Stored { path, .. } in stored.iter().filter(|stored| !named.contains(&stored.path)) {
        table.add(show::file("", show::CACHED, &found(Some(path), &stored)));
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

/// Where a model's file lies on this machine, if it does.
fn on_disk(
    sources: &[String],
    sha256: Option<&str>,
    stored: &[Stored],
) -> (&'static str, Option<PathBuf>) {
    let digest = sha256.and_then(|text| text.parse::<Sha256>().ok());
    if let Some(stored) = stored.iter().find(|stored| Some(stored.sha256) == digest) {
        return (show::CACHED, Some(stored.path.clone()));
    }
    let files = sources.iter().filter_map(|source| source.strip_prefix("file://"));
    match files.map(PathBuf::from).find(|path| path.is_file()) {
        Some(path) => (show::IN_PLACE, Some(path)),
        None => (show::NOT_CACHED, None),
    }
}

/// What a file is and says.
fn found(path: Option<&Path>, stored: &[Stored]) -> show::File {
    let of_store = path.and_then(|path| stored.iter().find(|stored| stored.path == path));
    let bytes = || path.and_then(|path| path.metadata().ok()).map(|meta| meta.len());
    show::File {
        bytes: of_store.map(|stored| stored.bytes).or_else(bytes),
        sha256: of_store.map(|stored| stored.sha256.to_string()),
        facts: path.and_then(|path| facts(path).ok()),
    }
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
    let path = match model {
        Some(name) => find(home, &store, name, args).await?,
        None => pull(&store, &default_artifact()?, &owner).await?.path,
    };
    let facts = facts(&path)?;
    Ok(show::facts(&facts).into_iter().try_for_each(output::line)?)
}

/// A path, the file of a manifest's model, or the file in the store whose digest begins with `name`.
async fn find(
    home: &Home,
    store: &Store,
    name: &str,
    args: &TargetArgs,
) -> anyhow::Result<PathBuf> {
    let path = PathBuf::from(name);
    if path.exists() {
        return Ok(path);
    }
    let stored = store.list().await?;
    let namespace = args.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let folder = Folder { path: PathBuf::new(), namespace };
    let reading = manifests_of(home, args)?;
    let mut models = target::objects::<Model>(&reading);
    if let Some((_, Model { spec, .. })) = models.find(|(model, _)| folder.is_it(model, name)) {
        let (_, path) = on_disk(&spec.sources, spec.sha256.as_deref(), &stored);
        return path.with_context(|| format!("the file of {name} is not on this machine yet"));
    }
    let mut found = stored.into_iter().filter(|s| s.sha256.to_string().starts_with(name));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one.path),
        (Some(_), Some(_)) => bail!("more than one digest begins with {name}"),
        (None, _) => {
            bail!("{name} is no file, no model of a manifest, and no digest begins with it")
        }
    }
}

fn facts(path: &Path) -> anyhow::Result<ModelFacts> {
    let read = || Gguf::open(path)?.facts();
    read().with_context(|| format!("read {}", path.display()))
}
