//! `realm api-key`: keys of the tenants in a folder of manifests.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, bail};
use jiff::{SignedDuration, Timestamp};

use crate::{
    args::{ApiKeyCommand, TenantArgs},
    home::Home,
    keys::{KeyFile, NewKey},
    manifests::{self, Found, Object, Reading},
    output,
};

pub(crate) fn run(home: &Home, command: ApiKeyCommand) -> anyhow::Result<ExitCode> {
    match command {
        ApiKeyCommand::Create { tenant, name, expires } => create(home, tenant, &name, expires),
        ApiKeyCommand::List { tenant } => list(home, tenant),
        ApiKeyCommand::Revoke { tenant, name } => {
            let mut file = open(home, tenant)?;
            file.remove(&name)?;
            file.save()?;
            output::line(format!("revoked {name}"))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn create(
    home: &Home,
    tenant: TenantArgs,
    name: &str,
    expires: Option<String>,
) -> anyhow::Result<ExitCode> {
    let expires_at = expires.map(|text| expiry(&text)).transpose()?;
    let mut file = open(home, tenant)?;
    let key = NewKey::generate()?;
    file.add(name, key.entry(expires_at))?;
    file.save()?;
    output::note("This is the only time the key is shown:");
    output::line(key.reveal())?;
    Ok(ExitCode::SUCCESS)
}

fn list(home: &Home, tenant: TenantArgs) -> anyhow::Result<ExitCode> {
    let file = open(home, tenant)?;
    let now = Timestamp::now();
    for (name, entry) in file.entries() {
        let state = match entry.expires_at {
            _ if entry.disabled => "disabled".to_owned(),
            Some(at) if at <= now => format!("expired {at}"),
            Some(at) => format!("until {at}"),
            None => "active".to_owned(),
        };
        let digest = entry.sha256.get(..12).unwrap_or_default();
        output::line(format!("{name:<24} {state:<32} sha256:{digest}…"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The keys of the first Secret that the tenant's manifest names.
fn open(home: &Home, args: TenantArgs) -> anyhow::Result<KeyFile> {
    let TenantArgs { manifests, namespace, tenant } = args;
    let folder: PathBuf = manifests.unwrap_or_else(|| home.sample());
    if !folder.is_dir() {
        bail!(
            "there is no folder {}; start `realm serve` once, or name one with --manifests",
            folder.display()
        );
    }
    let reading = manifests::read(&folder);
    let found = reading.found.iter().find_map(|found| match found {
        Found::Whole(document) => match &document.object {
            Object::Tenant(object)
                if document.id.1.namespace() == namespace && document.id.1.name() == tenant =>
            {
                Some(object)
            }
            _ => None,
        },
        Found::Broken { .. } | Found::Unnamed(_) => None,
    });
    let found = found.with_context(|| {
        format!("there is no tenant {namespace}/{tenant} in {}", folder.display())
    })?;
    let secret = found.spec.api_keys.first().with_context(|| {
        format!(
            "tenant {namespace}/{tenant} names no Secret for its keys; add to its spec: \
             apiKeys: [{{ secretName: {tenant}-keys }}]"
        )
    })?;
    refuse_elsewhere(&reading, &namespace, &secret.secret_name)?;
    Ok(KeyFile::open(&folder, &namespace, &secret.secret_name)?)
}

/// A Secret that stands in another file already would be there twice, and neither would count.
fn refuse_elsewhere(reading: &Reading, namespace: &str, secret: &str) -> anyhow::Result<()> {
    let own = KeyFile::name(namespace, secret);
    for found in &reading.found {
        let Found::Whole(document) = found else { continue };
        let is_it = matches!(document.object, Object::Secret(_))
            && document.id.1.namespace() == namespace
            && document.id.1.name() == secret;
        if is_it && *document.place.file != *own {
            bail!(
                "Secret {namespace}/{secret} stands in {}; move it to {own}, which is the file \
                 that this command keeps",
                document.place.file
            );
        }
    }
    Ok(())
}

/// Now and `text`, such as `90d`, `12h` or `1h 30m`.
fn expiry(text: &str) -> anyhow::Result<Timestamp> {
    let days = text.strip_suffix('d').and_then(|days| days.trim().parse::<i64>().ok());
    let duration = match days {
        Some(days) => SignedDuration::from_hours(days.saturating_mul(24)),
        None => text
            .parse()
            .with_context(|| format!("`{text}` is not a duration such as 90d or 12h"))?,
    };
    if !duration.is_positive() {
        bail!("`{text}` is not in the future");
    }
    Timestamp::now().checked_add(duration).context("the key would outlive the calendar")
}
