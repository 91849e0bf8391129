//! The names under which full blocks are found: a chain of hashes from a secret root.

use realm_core::{
    desired::Sha256,
    name::{GroupName, TenantName},
};
use realm_kernels::backend::KvType;
use sha2::{Digest as _, Sha256 as Hasher};

use super::owner::Owner;

/// A host's own random number, which never leaves its memory.
///
/// Without it, a tenant that learnt a hash could tell what another had asked.
#[derive(Clone)]
pub struct Secret(pub [u8; 32]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// Where all chains of one loaded model start.
#[derive(Clone, Debug)]
pub(crate) struct Namespace {
    secret: Secret,
    model: Sha256,
    kv_type: KvType,
}

/// The hash of a prefix that ends with a full block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ChainHash([u8; 32]);

impl Namespace {
    pub(crate) const fn new(secret: Secret, model: Sha256, kv_type: KvType) -> Self {
        Self { secret, model, kv_type }
    }

    /// The hash of the `full` block of that number in a sequence of `owner`, behind the blocks whose
    /// hash `tip` is; `None` for the first.
    ///
    /// A sequence that begins in its group's chain goes on in a chain of its tenant's own, which
    /// hangs on what came before: so nothing behind the public blocks is found by another member,
    /// and nothing of the group is found by who is not in it.
    pub(crate) fn link(
        &self,
        owner: &Owner,
        (at, tip): (usize, Option<ChainHash>),
        full: &[u32],
    ) -> ChainHash {
        let public = owner.public_blocks(full.len());
        let adapter = owner.adapter.map(|adapter| adapter.sha256);
        let before = match (public, tip) {
            (Some((group, _)), None) => self.root_of_group(group, adapter),
            (None, None) => self.root(&owner.tenant, adapter),
            (Some((_, blocks)), Some(tip)) if at == blocks => {
                self.root(&owner.tenant, adapter).behind(tip)
            }
            (_, Some(tip)) => tip,
        };
        before.then(full)
    }

    /// Where a tenant's chains start of what an adapter computes, or the model by itself.
    pub(crate) fn root(&self, tenant: &TenantName, adapter: Option<Sha256>) -> ChainHash {
        self.start(b't', tenant.as_str(), adapter)
    }

    /// Where the chains start of what is public in a group.
    pub(crate) fn root_of_group(&self, group: &GroupName, adapter: Option<Sha256>) -> ChainHash {
        self.start(b'g', group.as_str(), adapter)
    }

    /// A tenant and a group of one name are of two kinds, and so is what has an adapter.
    fn start(&self, kind: u8, name: &str, adapter: Option<Sha256>) -> ChainHash {
        let kv_type = match self.kv_type {
            KvType::F16 => b"f16",
            KvType::F32 => b"f32",
            KvType::Q8_0 => b"q80",
        };
        let mut hasher = Hasher::new_with_prefix(self.secret.0);
        hasher.update(self.model.0);
        hasher.update(kv_type);
        hasher.update([kind, u8::from(adapter.is_some())]);
        if let Some(adapter) = adapter {
            hasher.update(adapter.0);
        }
        // Last and of variable length: nothing follows that it could be confused with.
        hasher.update(name);
        ChainHash(hasher.finalize().into())
    }

    /// A number nobody can predict, different for each `count`.
    pub(crate) fn draw(&self, count: u64) -> u64 {
        let mut hasher = Hasher::new_with_prefix(self.secret.0);
        hasher.update(b"seed");
        hasher.update(count.to_le_bytes());
        let digest: [u8; 32] = hasher.finalize().into();
        u64::from_le_bytes(*digest.first_chunk().expect("a digest has 32 bytes"))
    }
}

impl ChainHash {
    /// The hash of this prefix continued by one full block.
    pub(crate) fn then(self, tokens: &[u32]) -> Self {
        let mut hasher = Hasher::new_with_prefix(self.0);
        for token in tokens {
            hasher.update(token.to_le_bytes());
        }
        Self(hasher.finalize().into())
    }

    /// Where a chain that started here goes on behind the blocks of another one. What is mixed in is
    /// of a length that no tokens have, so no block has the same hash.
    fn behind(self, public: Self) -> Self {
        let mut hasher = Hasher::new_with_prefix(self.0);
        hasher.update(b"behind:");
        hasher.update(public.0);
        Self(hasher.finalize().into())
    }
}
