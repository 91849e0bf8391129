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

/// Who is calling, proven. Only [`verify`] and [`from_peer`] make one.
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

/// An agent of this installation that hands a call on: its certificate has been verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedPeer {
    node: Arc<str>,
}

impl VerifiedPeer {
    /// Vouches for the agent of `node`. Only the edge that has verified a certificate of the
    /// installation's authority may say this; a test of the house holds everybody to that.
    pub fn vouch(node: &str) -> Self {
        Self { node: node.into() }
    }

    /// The Kubernetes node of the agent.
    pub fn node(&self) -> &str {
        &self.node
    }
}

/// A caller whose call was admitted at a peer's door, which goes on paying for it. Only
/// [`from_peer`] makes one.
#[derive(Clone, Debug)]
pub struct HandedOn(Caller);

impl HandedOn {
    pub const fn caller(&self) -> &Caller {
        &self.0
    }

    pub(crate) fn into_caller(self) -> Caller {
        self.0
    }
}

/// Every tenant's keys: an immutable snapshot, replaced whole when the state changes.
#[derive(Debug, Default)]
pub struct Roster {
    /// Whether there may be keys that are not here yet.
    is_partial: bool,
    keys: HashMap<Sha256, Entry>,
    /// The digests of each tenant's keys of one name: Secrets of its may name theirs alike.
    names: HashMap<(TenantName, Arc<str>), Vec<Sha256>>,
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
        let mut names = HashMap::<_, Vec<_>>::new();
        for tenant in tenants {
            for key in &tenant.keys {
                let name = (tenant.name.clone(), Arc::from(key.name.as_str()));
                names.entry(name).or_default().push(key.sha256);
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
        Self { is_partial: false, keys, names }
    }

    /// The roster of an agent that starts and may still come to more than these `tenants`: nothing
    /// is said for good of a key that it does not know.
    pub fn partial(tenants: impl IntoIterator<Item = Arc<DesiredTenant>>) -> Self {
        Self { is_partial: true, ..Self::new(tenants) }
    }

    /// Why a key that is not here is refused.
    const fn unknown(&self) -> Refusal {
        if self.is_partial { Refusal::Starting } else { Refusal::Unauthenticated }
    }

    /// The rights of each tenant that has a key, one for each key.
    pub fn rights(&self) -> impl Iterator<Item = &Arc<DesiredTenant>> {
        self.keys.values().map(|entry| &entry.tenant)
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
    let entry = roster.keys.get(&credential.0).ok_or_else(|| roster.unknown())?;
    entry.caller(now)
}

/// Rebuilds the caller of a call that `peer` hands on, by the keys that are known here: a key
/// that has been revoked opens nothing at its peers either, whatever its door still believes.
pub fn from_peer(
    roster: &Roster,
    _peer: &VerifiedPeer,
    tenant: &TenantName,
    key: &str,
    now: u64,
) -> Result<HandedOn, Refusal> {
    let digests = roster.names.get(&(tenant.clone(), Arc::from(key)));
    let entries = digests.into_iter().flatten().filter_map(|digest| roster.keys.get(digest));
    // Of several keys of one name any good one will do; one that another tenant claims too is
    // not good.
    let mut refusal = roster.unknown();
    for entry in entries.filter(|entry| entry.tenant.name == *tenant) {
        match entry.caller(now) {
            Ok(caller) => return Ok(HandedOn(caller)),
            Err(why) => refusal = why,
        }
    }
    Err(refusal)
}

impl Entry {
    /// The caller of this key. What is wrong with the key is never told apart.
    fn caller(&self, now: u64) -> Result<Caller, Refusal> {
        if self.disabled || self.expires_at.is_some_and(|expiry| expiry <= now) {
            return Err(Refusal::Unauthenticated);
        }
        if self.tenant.suspended {
            return Err(Refusal::Suspended);
        }
        Ok(Caller { tenant: self.tenant.clone(), key: self.key.clone() })
    }
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
    fn a_key_that_an_agent_has_not_come_to_yet_is_not_refused_for_good() {
        let tenant = with_key("acme", "one", |_| ());
        let disabled = with_key("zeta", "two", |key| key.disabled = true);
        let partial = Roster::partial([tenant.clone(), disabled]);
        let check = |key| verify(&partial, Credential::of(key), NOW).map(drop);
        assert_eq!(check("one"), Ok(()));
        assert_eq!(check("two"), Err(Refusal::Unauthenticated), "it is known and no good");
        assert_eq!(check("other"), Err(Refusal::Starting));
        let peer = VerifiedPeer::vouch("n1");
        let handed_on = |key| from_peer(&partial, &peer, &tenant.name, key, NOW).map(drop);
        assert_eq!((handed_on("main"), handed_on("other")), (Ok(()), Err(Refusal::Starting)));
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

    /// Whom a call of that tenant and key name, handed on by a peer, belongs to.
    fn handed_on(
        roster: &[Arc<DesiredTenant>],
        tenant: &str,
        key: &str,
    ) -> Result<String, Refusal> {
        let roster = Roster::new(roster.iter().cloned());
        let tenant = TenantName::new("default", tenant).unwrap();
        let peer = VerifiedPeer::vouch("n1");
        let caller = from_peer(&roster, &peer, &tenant, key, NOW)?;
        Ok(caller.caller().tenant().to_string())
    }

    #[test]
    fn a_call_that_a_peer_hands_on_belongs_to_the_tenant_of_the_named_key() {
        let roster = [with_key("acme", "one", |_| ()), with_key("zeta", "two", |_| ())];
        assert_eq!(handed_on(&roster, "acme", "main"), Ok("default/acme".into()));
        assert_eq!(handed_on(&roster, "zeta", "main"), Ok("default/zeta".into()));
        for (tenant, key) in [("acme", "other"), ("acme", ""), ("nobody", "main")] {
            assert_eq!(handed_on(&roster, tenant, key), Err(Refusal::Unauthenticated));
        }
    }

    #[test]
    fn a_key_that_is_no_good_here_is_none_from_a_peer_either() {
        let revoked = with_key("acme", "one", |key| key.disabled = true);
        let expired = with_key("acme", "one", |key| key.expires_at = Some(NOW));
        for tenant in [revoked, expired] {
            assert_eq!(handed_on(&[tenant], "acme", "main"), Err(Refusal::Unauthenticated));
        }
        let claimed = [with_key("acme", "same", |_| ()), with_key("zeta", "same", |_| ())];
        for tenant in ["acme", "zeta"] {
            assert_eq!(handed_on(&claimed, tenant, "main"), Err(Refusal::Unauthenticated));
        }
        let mut suspended = DesiredTenant::clone(&with_key("acme", "one", |_| ()));
        suspended.suspended = true;
        assert_eq!(handed_on(&[suspended.into()], "acme", "main"), Err(Refusal::Suspended));
    }

    #[test]
    fn of_two_keys_with_one_name_the_good_one_counts() {
        let mut tenant = DesiredTenant::clone(&with_key("acme", "old", |key| key.disabled = true));
        tenant.keys.extend(with_key("acme", "new", |_| ()).keys.clone());
        assert_eq!(handed_on(&[tenant.into()], "acme", "main"), Ok("default/acme".into()));
    }
}
