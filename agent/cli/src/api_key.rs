//! `realm api-key`: keys of tenants, in a folder of manifests or in a cluster.

use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use jiff::{SignedDuration, Timestamp};
use realm_crds::{KeyEntry, Secret, Tenant};

use crate::{
    args::{ApiKeyCommand, TenantArgs},
    cluster::{
        Cluster, ClusterError, keys,
        settle::{self, Want},
    },
    home::Home,
    keys::{KeyFile, NewKey},
    manifests::Reading,
    output,
    target::{self, Folder, Target},
    tenant,
};

pub(crate) async fn run(home: &Home, command: ApiKeyCommand) -> anyhow::Result<ExitCode> {
    match command {
        ApiKeyCommand::Create { tenant: TenantArgs { target, tenant }, name, expires, wait } => {
            let expires_at = expires.map(|text| expiry(&text, Timestamp::now())).transpose()?;
            let key = NewKey::generate()?;
            match Target::open(home, &target).await? {
                Target::Machine(folder) => {
                    let mut file = open(&folder, &tenant)?;
                    file.add(&name, key.entry(expires_at))?;
                    file.save()?;
                    reveal(&key)?;
                }
                Target::Cluster(cluster) => {
                    create(&cluster, &tenant, &name, &key.entry(expires_at)).await?;
                    // Before any wait: it can be shown at no other time.
                    reveal(&key)?;
                    settled(&cluster, &tenant, !wait.no_wait).await?;
                }
            }
        }
        ApiKeyCommand::List { tenant: TenantArgs { target, tenant } } => {
            match Target::open(home, &target).await? {
                Target::Machine(folder) => {
                    let file = open(&folder, &tenant)?;
                    list(file.entries().iter().map(|(name, entry)| (name.as_str(), Some(entry))))?;
                }
                Target::Cluster(cluster) => {
                    let tenant: Tenant = cluster.get(&tenant).await?;
                    let secret = cluster.find::<Secret>(&keys::secret_of(&tenant)).await?;
                    let secret = secret.unwrap_or_default();
                    let entries = keys::entries(&secret);
                    list(entries.iter().map(|(name, entry)| (*name, entry.as_ref())))?;
                }
            }
        }
        ApiKeyCommand::Revoke { tenant: TenantArgs { target, tenant }, name, wait } => {
            match Target::open(home, &target).await? {
                Target::Machine(folder) => {
                    let mut file = open(&folder, &tenant)?;
                    file.remove(&name)?;
                    file.save()?;
                    output::line(format!("revoked {name}"))?;
                }
                Target::Cluster(cluster) => {
                    let found: Tenant = cluster.get(&tenant).await?;
                    revoke(&cluster, &keys::secret_of(&found), &name).await?;
                    output::line(format!("revoked {name}"))?;
                    settled(&cluster, &tenant, !wait.no_wait).await?;
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn reveal(key: &NewKey) -> anyhow::Result<()> {
    output::note("This is the only time the key is shown:");
    output::line(key.reveal())?;
    Ok(())
}

/// Puts a key's digest into the tenant's Secret, and has the tenant name it.
async fn create(
    cluster: &Cluster,
    tenant: &str,
    name: &str,
    entry: &KeyEntry,
) -> anyhow::Result<()> {
    let found: Tenant = cluster.get(tenant).await?;
    let secret = keys::secret_of(&found);
    put(cluster, &secret, name, entry).await?;
    let named = cluster
        .change(tenant, |tenant: &Tenant| anyhow::Ok(keys::name_secret(tenant, &secret)))
        .await;
    if let Err(error) = named {
        // Nobody has seen the key yet, so it must not lie there and keep its name from the next.
        if let Err(left) = revoke(cluster, &secret, name).await {
            output::note(format!("the digest of `{name}` stays in Secret {secret}: {left:#}"));
        }
        return Err(error);
    }
    Ok(())
}

async fn put(cluster: &Cluster, secret: &str, name: &str, entry: &KeyEntry) -> anyhow::Result<()> {
    if cluster.find::<Secret>(secret).await?.is_none() {
        let made = cluster.create::<Secret>(secret, &keys::secret_with(secret, name, entry)?).await;
        match made {
            // Somebody was faster, so there is one to change.
            Err(ClusterError::Exists { .. }) => {}
            made => return Ok(made.map(drop)?),
        }
    }
    let add = |held: &Secret| anyhow::Ok(Some(keys::add(held, name, entry)?));
    cluster.change(secret, add).await.map(drop)
}

async fn revoke(cluster: &Cluster, secret: &str, name: &str) -> anyhow::Result<()> {
    let remove = |held: &Secret| anyhow::Ok(Some(keys::remove(held, name)?));
    cluster.change(secret, remove).await.map(drop)
}

/// Stays until the operator counts the keys as they are now.
async fn settled(cluster: &Cluster, tenant: &str, waits: bool) -> anyhow::Result<()> {
    if waits {
        settle::tenant(cluster, tenant, Want::Keys).await?;
    }
    Ok(())
}

/// Prints keys by name; `None` is an entry that holds none.
fn list<'a>(entries: impl Iterator<Item = (&'a str, Option<&'a KeyEntry>)>) -> anyhow::Result<()> {
    let now = Timestamp::now();
    let mut entries = entries.peekable();
    if entries.peek().is_none() {
        output::note("no keys; `realm api-key create` makes the first");
    }
    for (name, entry) in entries {
        output::line(line(name, entry, now))?;
    }
    Ok(())
}

fn line(name: &str, entry: Option<&KeyEntry>, now: Timestamp) -> String {
    // Whoever else writes such entries may say more than a person reads.
    let shown = |at: &Timestamp| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let state = match entry {
        None => "not a key".to_owned(),
        Some(KeyEntry { disabled: true, .. }) => "disabled".to_owned(),
        Some(KeyEntry { expires_at: Some(at), .. }) if *at <= now => {
            format!("expired {}", shown(at))
        }
        Some(KeyEntry { expires_at: Some(at), .. }) => format!("until {}", shown(at)),
        Some(KeyEntry { expires_at: None, .. }) => "active".to_owned(),
    };
    let digest = entry.and_then(|entry| entry.sha256.get(..12));
    format!("{name:<24} {state:<32} sha256:{}…", digest.unwrap_or("-"))
}

/// The keys of the first Secret that the tenant's manifest names.
fn open(folder: &Folder, tenant: &str) -> anyhow::Result<KeyFile> {
    let reading = folder.read();
    let Folder { path, namespace } = folder;
    let (_, found) = tenant::find(folder, &reading, tenant)?;
    let secret = found.spec.api_keys.first().with_context(|| {
        format!(
            "tenant {namespace}/{tenant} names no Secret for its keys; add to its spec: \
             apiKeys: [{{ secretName: {tenant}-keys }}]"
        )
    })?;
    refuse_elsewhere(&reading, namespace, &secret.secret_name)?;
    Ok(KeyFile::open(path, namespace, &secret.secret_name)?)
}

/// A Secret that stands in another file already would be there twice, and neither would count.
pub(crate) fn refuse_elsewhere(
    reading: &Reading,
    namespace: &str,
    secret: &str,
) -> anyhow::Result<()> {
    let own = KeyFile::name(namespace, secret);
    for (document, _) in target::objects::<Secret>(reading) {
        let is_it = document.id.1.namespace() == namespace && document.id.1.name() == secret;
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

/// `now` and `text`, such as `90d`, `12h` or `1h 30m`, in whole seconds.
fn expiry(text: &str, now: Timestamp) -> anyhow::Result<Timestamp> {
    let days = text.strip_suffix('d').and_then(|days| days.trim().parse::<i64>().ok());
    let duration = match days {
        Some(days) => SignedDuration::try_from_hours(days.saturating_mul(24))
            .context("the key would outlive the calendar")?,
        // What the parser knew it as says nothing to who meant a duration.
        None => {
            text.parse().map_err(|_| anyhow!("`{text}` is not a duration such as 90d or 12h"))?
        }
    };
    if !duration.is_positive() {
        bail!("`{text}` is not in the future");
    }
    let at = now.checked_add(duration).context("the key would outlive the calendar")?;
    // Up, so that a key lives for at least as long as was asked for.
    let second = at.as_second().saturating_add(i64::from(at.subsec_nanosecond() > 0));
    Timestamp::from_second(second).context("the key would outlive the calendar")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_expires_at_a_whole_second_and_no_sooner_than_was_asked_for() {
        let now: Timestamp = "2026-11-26T10:00:00.12345678Z".parse().unwrap();
        for (text, at) in [
            ("90d", "2027-02-24T10:00:01Z"),
            ("1h 30m", "2026-11-26T11:30:01Z"),
            ("250ms", "2026-11-26T10:00:01Z"),
        ] {
            assert_eq!(expiry(text, now).unwrap().to_string(), at, "{text}");
        }
        for wrong in ["-1h", "0s", "soon", "9999999999999d", "999999999999999999d"] {
            assert!(expiry(wrong, now).is_err(), "{wrong}");
        }
        let told = format!("{:#}", expiry("soon", now).unwrap_err());
        assert_eq!(told, "`soon` is not a duration such as 90d or 12h");
        let entry = KeyEntry { sha256: "ab".repeat(32), expires_at: Some(now), disabled: false };
        let line = line("laptop", Some(&entry), Timestamp::UNIX_EPOCH);
        assert!(line.contains(" until 2026-11-26T10:00:00Z "), "{line}");
    }

    #[test]
    fn a_key_is_told_by_its_name_its_state_and_the_head_of_its_digest() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let entry =
            |expires_at, disabled| KeyEntry { sha256: "ab".repeat(32), expires_at, disabled };
        for (entry, state) in [
            (Some(entry(None, false)), "active"),
            (Some(entry(Some(at(100)), false)), "until 1970-01-01T00:01:40Z"),
            (Some(entry(Some(at(50)), false)), "expired 1970-01-01T00:00:50Z"),
            (Some(entry(Some(at(50)), true)), "disabled"),
            (None, "not a key"),
        ] {
            let line = line("laptop", entry.as_ref(), at(50));
            assert!(line.starts_with("laptop "), "{line}");
            assert!(line.contains(state), "{line}");
            assert_eq!(line.contains("sha256:abababababab…"), entry.is_some(), "{line}");
        }
    }
}
