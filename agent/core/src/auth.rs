//! Who is calling: the only place a [`Caller`] is made. Pure: time is an argument.

use std::{collections::HashMap, fmt, sync::Arc};

use sha2::{Digest as _, Sha256 as Hasher};

use crate::{
    desired::{DesiredTenant, Sha256},
    name::TenantName,
    refusal::Refusal,
};

/// A presented API key, kept only as its digest.
///
/// Keys are 32 random bytes, so one fast hash is enough: there is nothing to guess, and the
/// lookup by digest leaks nothing about any key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Credential(Sha256);

impl Credential {
    pub fn of(key: &str) -> Self {
        Self(Sha256(Hasher::digest(key.as_bytes()).into()))
    }

    pub const fn digest(&self) -> Sha256 {
        self.0
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential")
    }
}

/// Who is calling, proven. Only [`verify`] makes one.
#[derive(Clone, Debug)]
pub struct Caller {
    tenant: Arc<DesiredTenant>,
    key: Arc<str>,
}

impl Caller {
    pub fn tenant(&self) -> &TenantName {
        &self.tenant.name
    }

    /// The tenant's rights and limits as they were when the caller was verified.
    pub fn rights(&self) -> &DesiredTenant {
        &self.tenant
    }

    /// The name of the key that was presented.
    pub fn key(&self) -> &str {
        &self.key
    }
}

/// Every tenant's keys: an immutable snapshot, replaced whole when the state changes.
#[derive(Debug, Default)]
pub struct Roster {
    keys: HashMap<Sha256, Entry>,
}

#[derive(Debug)]
struct Entry {
    tenant: Arc<DesiredTenant>,
    key: Arc<str>,
    expires_at: Option<u64>,
    disabled: bool,
}

impl Roster {
    /// The roster of `tenants`. A digest that two tenants claim opens neither.
    pub fn new(tenants: impl IntoIterator<Item = Arc<DesiredTenant>>) -> Self {
        let mut keys = HashMap::<Sha256, Entry>::new();
        for tenant in tenants {
            for key in &tenant.keys {
                let entry = Entry {
                    tenant: tenant.clone(),
                    key: key.name.as_str().into(),
                    expires_at: key.expires_at,
                    disabled: key.disabled,
                };
                keys.entry(key.sha256)
                    .and_modify(|other| {
                        other.disabled |= other.tenant.name != tenant.name || key.disabled;
                    })
                    .or_insert(entry);
            }
        }
        Self { keys }
    }

    /// The tenants that have a key, one for each key.
    pub fn tenants(&self) -> impl Iterator<Item = &TenantName> {
        self.keys.values().map(|entry| &entry.tenant.name)
    }
}

/// Proves who presents `credential`. `now` is in seconds since the Unix epoch.
///
/// Wrong, revoked and expired keys are refused alike.
pub fn verify(roster: &Roster, credential: Credential, now: u64) -> Result<Caller, Refusal> {
    let entry = roster.keys.get(&credential.0).ok_or(Refusal::Unauthenticated)?;
    if entry.disabled || entry.expires_at.is_some_and(|expiry| expiry <= now) {
        return Err(Refusal::Unauthenticated);
    }
    if entry.tenant.suspended {
        return Err(Refusal::Suspended);
    }
    Ok(Caller { tenant: entry.tenant.clone(), key: entry.key.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{desired::ApiKey, fixtures::tenant};

    const NOW: u64 = 1_000;

    fn with_key(name: &str, key: &str, change: impl Fn(&mut ApiKey)) -> Arc<DesiredTenant> {
        let mut tenant = tenant(name);
        let mut api_key = ApiKey {
            name: "main".into(),
            sha256: Credential::of(key).digest(),
            expires_at: None,
            disabled: false,
        };
        change(&mut api_key);
        tenant.keys.push(api_key);
        Arc::new(tenant)
    }

    fn check(roster: &[Arc<DesiredTenant>], key: &str) -> Result<String, Refusal> {
        let roster = Roster::new(roster.iter().cloned());
        verify(&roster, Credential::of(key), NOW).map(|caller| caller.tenant().to_string())
    }

    #[test]
    fn a_key_opens_its_own_tenant() {
        let roster = [with_key("acme", "one", |_| ()), with_key("zeta", "two", |_| ())];
        assert_eq!(check(&roster, "one"), Ok("default/acme".into()));
        assert_eq!(check(&roster, "two"), Ok("default/zeta".into()));
    }

    #[test]
    fn wrong_revoked_and_expired_keys_are_refused_alike() {
        let wrong = check(&[with_key("acme", "one", |_| ())], "other");
        let revoked = check(&[with_key("acme", "one", |key| key.disabled = true)], "one");
        let expired = check(&[with_key("acme", "one", |key| key.expires_at = Some(NOW))], "one");
        assert_eq!(wrong, Err(Refusal::Unauthenticated));
        assert_eq!((&revoked, &expired), (&wrong, &wrong));
    }

    #[test]
    fn a_key_is_good_until_the_second_it_expires() {
        let roster = [with_key("acme", "one", |key| key.expires_at = Some(NOW + 1))];
        assert!(check(&roster, "one").is_ok());
    }

    #[test]
    fn a_digest_that_two_tenants_claim_opens_neither() {
        let roster = [with_key("acme", "same", |_| ()), with_key("zeta", "same", |_| ())];
        assert_eq!(check(&roster, "same"), Err(Refusal::Unauthenticated));
    }

    #[test]
    fn a_suspended_tenant_is_told_so_only_with_a_good_key() {
        let mut tenant = DesiredTenant::clone(&with_key("acme", "one", |_| ()));
        tenant.suspended = true;
        let roster = [Arc::new(tenant)];
        assert_eq!(check(&roster, "one"), Err(Refusal::Suspended));
        assert_eq!(check(&roster, "two"), Err(Refusal::Unauthenticated));
    }
}
