//! The names under which full blocks are found: a chain of hashes from a secret root.

use realm_core::{desired::Sha256, name::TenantName};
use realm_kernels::backend::KvType;
use sha2::{Digest as _, Sha256 as Hasher};

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

    /// Where a tenant's chains start.
    pub(crate) fn root(&self, tenant: &TenantName) -> ChainHash {
        let kv_type = match self.kv_type {
            KvType::F16 => b"f16",
            KvType::F32 => b"f32",
            KvType::Q8_0 => b"q80",
        };
        let mut hasher = Hasher::new_with_prefix(self.secret.0);
        hasher.update(self.model.0);
        hasher.update(kv_type);
        // Last and of variable length: nothing follows that it could be confused with.
        hasher.update(tenant.as_str());
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
}
