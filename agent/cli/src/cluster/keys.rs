//! API keys in a cluster: how a Secret and a Tenant change for a key. Pure.
//!
//! A Secret holds the same entries as the file of `realm api-key` on one machine.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use realm_crds::{KeyEntry, Secret, Tenant, tenant::ApiKeySource};
use realm_plan::desired::Sha256;
use serde_json::{Value, json};

use crate::keys::{KeysError, check_name};

/// The Secret for a tenant's keys: the first that the tenant names, else one of its own.
pub(crate) fn secret_of(tenant: &Tenant) -> String {
    let first = tenant.spec.api_keys.first().map(|source| source.secret_name.clone());
    first.unwrap_or_else(|| format!("{}-keys", tenant.metadata.name.as_deref().unwrap_or_default()))
}

/// The patch by which a tenant names `secret`; `None` if it does.
pub(crate) fn name_secret(tenant: &Tenant, secret: &str) -> Option<Value> {
    let mut sources = tenant.spec.api_keys.clone();
    if sources.iter().any(|source| source.secret_name == secret) {
        return None;
    }
    sources.push(ApiKeySource { secret_name: secret.to_owned() });
    Some(json!({ "spec": { "apiKeys": sources } }))
}

/// A new Secret of one key.
pub(crate) fn secret_with(secret: &str, name: &str, entry: &KeyEntry) -> Result<Value, KeysError> {
    check_name(name)?;
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": secret,
            "labels": { "app.kubernetes.io/managed-by": super::MANAGER },
        },
        "data": { name: value(entry) },
    }))
}

/// The patch that adds a key to a Secret.
pub(crate) fn add(secret: &Secret, name: &str, entry: &KeyEntry) -> Result<Value, KeysError> {
    check_name(name)?;
    if holds(secret, name) {
        return Err(KeysError::Exists(name.to_owned()));
    }
    Ok(json!({ "data": { name: value(entry) } }))
}

/// The patch that takes a key out of a Secret.
pub(crate) fn remove(secret: &Secret, name: &str) -> Result<Value, KeysError> {
    if !holds(secret, name) {
        return Err(KeysError::Missing(name.to_owned()));
    }
    Ok(json!({ "data": { name: null } }))
}

fn holds(secret: &Secret, name: &str) -> bool {
    secret.data.iter().flatten().any(|(known, _)| known == name)
}

/// The entries of a Secret by name; `None` for what is no key.
pub(crate) fn entries(secret: &Secret) -> BTreeMap<&str, Option<KeyEntry>> {
    let read = |value: &[u8]| serde_json::from_slice::<KeyEntry>(value).ok().filter(is_whole);
    let data = secret.data.iter().flatten().map(|(name, value)| (name, value.0.as_slice()));
    // Only manifests have these, and there they win.
    let texts = secret.string_data.iter().flatten().map(|(name, text)| (name, text.as_bytes()));
    data.chain(texts).map(|(name, value)| (name.as_str(), read(value))).collect()
}

/// How many keys of `secrets` open a door, as the operator counts them.
pub(crate) fn count<'a>(secrets: impl Iterator<Item = &'a Secret>) -> u32 {
    let keys = secrets
        .flat_map(entries)
        .filter(|(_, entry)| entry.as_ref().is_some_and(|entry| !entry.disabled));
    u32::try_from(keys.count()).unwrap_or(u32::MAX)
}

fn is_whole(entry: &KeyEntry) -> bool {
    entry.sha256.parse::<Sha256>().is_ok()
}

fn value(entry: &KeyEntry) -> String {
    STANDARD.encode(serde_json::to_string(entry).expect("an entry has only string keys"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::NewKey;

    fn tenant(spec: &Value) -> Tenant {
        let metadata = json!({"name": "acme", "namespace": "shop"});
        serde_json::from_value(json!({
            "apiVersion": "realm.dev/v1alpha1", "kind": "Tenant",
            "metadata": metadata, "spec": spec,
        }))
        .unwrap()
    }

    fn secret(data: &Value) -> Secret {
        serde_json::from_value(json!({"data": data})).unwrap()
    }

    fn entry() -> KeyEntry {
        KeyEntry { sha256: "ab".repeat(32), expires_at: None, disabled: false }
    }

    #[test]
    fn keys_go_to_the_first_secret_that_a_tenant_names_or_to_one_of_its_own() {
        let named = tenant(&json!({"apiKeys": [{"secretName": "a"}, {"secretName": "b"}]}));
        assert_eq!(secret_of(&named), "a");
        assert_eq!(name_secret(&named, "a"), None);
        let unnamed = tenant(&json!({}));
        assert_eq!(secret_of(&unnamed), "acme-keys");
        assert_eq!(
            name_secret(&unnamed, "acme-keys"),
            Some(json!({"spec": {"apiKeys": [{"secretName": "acme-keys"}]}}))
        );
    }

    #[test]
    fn a_secret_gets_a_digest_and_never_the_key() {
        let key = NewKey::generate().unwrap();
        let made = secret_with("acme-keys", "laptop", &key.entry(None)).unwrap();
        assert!(!made.to_string().contains(key.reveal()));
        let made: Secret = serde_json::from_value(made).unwrap();
        assert!(
            !String::from_utf8_lossy(&made.data.as_ref().unwrap()["laptop"].0)
                .contains(key.reveal())
        );
        assert_eq!(entries(&made)["laptop"], Some(key.entry(None)));
        assert_eq!(count([&made].into_iter()), 1);
    }

    #[test]
    fn a_patch_says_one_entry_and_leaves_the_others() {
        let held = secret(&json!({"old": STANDARD.encode("whatever")}));
        let patch = add(&held, "new", &entry()).unwrap();
        assert_eq!(patch["data"].as_object().unwrap().len(), 1);
        assert!(matches!(add(&held, "old", &entry()), Err(KeysError::Exists(_))));
        assert!(matches!(add(&held, "No Name", &entry()), Err(KeysError::Name(_))));
        assert_eq!(remove(&held, "old").unwrap(), json!({"data": {"old": null}}));
        assert!(matches!(remove(&held, "new"), Err(KeysError::Missing(_))));
    }

    #[test]
    fn what_is_no_key_is_seen_and_not_counted() {
        let encode = |text: &str| STANDARD.encode(text);
        let digest = "cd".repeat(32);
        let held = secret(&json!({
            "good": encode(&format!(r#"{{"sha256": "{digest}"}}"#)),
            "off": encode(&format!(r#"{{"sha256": "{digest}", "disabled": true}}"#)),
            "short": encode(r#"{"sha256": "ab"}"#),
            "plain": encode("rk_secret"),
        }));
        let read: Vec<_> = entries(&held).into_iter().map(|(n, e)| (n, e.is_some())).collect();
        assert_eq!(read, [("good", true), ("off", true), ("plain", false), ("short", false)]);
        assert_eq!(count([&held].into_iter()), 1);
    }
}
