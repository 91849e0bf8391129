//! `realm models`: the model files of this machine.

use std::{
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
    access::Access, args::ModelsCommand, home::Home, output, run::bar::Bar, sample, source,
};

pub(crate) async fn run(home: &Home, command: ModelsCommand) -> anyhow::Result<ExitCode> {
    let (store, owner) = open(home)?;
    match command {
        ModelsCommand::List => list(&store).await?,
        ModelsCommand::Pull { source, sha256 } => {
            let artifact = match source {
                Some(source) => named(&source, sha256.as_deref())?,
                None => default_artifact()?,
            };
            let Stored { path, sha256, bytes, .. } = pull(&store, &artifact, &owner).await?;
            output::line(format!("{sha256}  {bytes} bytes  {}", path.display()))?;
        }
        ModelsCommand::Info { file } => {
            let path = match file {
                Some(file) => find(&store, &file).await?,
                None => pull(&store, &default_artifact()?, &owner).await?.path,
            };
            show(&facts(&path)?)?;
        }
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
    Ok((Store::open(&home.store(), store)?, owner))
}

async fn pull(store: &Store, artifact: &Artifact, owner: &Owner) -> anyhow::Result<Stored> {
    let bar = std::sync::Mutex::new(Bar::default());
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

async fn list(store: &Store) -> anyhow::Result<()> {
    for Stored { path, sha256, bytes, .. } in store.list().await? {
        let kind = match facts(&path) {
            Ok(ModelFacts { architecture, parameters, format, .. }) => {
                format!("{architecture} {}M {format}", parameters / 1_000_000)
            }
            Err(_) => "not a model".to_owned(),
        };
        output::line(format!("{sha256}  {:>9.1} MB  {kind}", bytes as f64 / 1e6))?;
    }
    Ok(())
}

/// A path, or the file in the store whose digest begins with `name`.
async fn find(store: &Store, name: &str) -> anyhow::Result<PathBuf> {
    let path = PathBuf::from(name);
    if path.exists() {
        return Ok(path);
    }
    let stored = store.list().await?;
    let mut found = stored.into_iter().filter(|s| s.sha256.to_string().starts_with(name));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one.path),
        (Some(_), Some(_)) => bail!("more than one digest begins with {name}"),
        (None, _) => bail!("there is neither a file {name} nor a digest that begins with it"),
    }
}

fn show(facts: &ModelFacts) -> anyhow::Result<()> {
    let ModelFacts {
        architecture,
        parameters,
        format,
        context,
        licence,
        weights_bytes,
        memory: _,
        sha256: _,
    } = facts;
    let licence = licence.as_deref().unwrap_or("not stated");
    output::line(format!("architecture  {architecture}"))?;
    output::line(format!("parameters    {parameters}"))?;
    output::line(format!("format        {format}"))?;
    output::line(format!("context       {context} tokens"))?;
    output::line(format!("weights       {weights_bytes} bytes"))?;
    output::line(format!("licence       {licence}"))?;
    Ok(())
}

fn facts(path: &Path) -> anyhow::Result<ModelFacts> {
    let read = || Gguf::open(path)?.facts();
    read().with_context(|| format!("read {}", path.display()))
}
