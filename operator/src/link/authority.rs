//! The certificate authority of one installation: whom the agents believe to be their operator,
//! and what they show to each other.
//!
//! Made by the operator itself and kept by its caller in a Secret, as [`AuthorityPem`]. A value
//! of [`Authority`] never changes: [`Authority::advanced`] and [`Authority::rotated`] give the
//! next one, to be stored before it is used.
//!
//! Rotation overlaps at both ends. A new certificate of authority is in the bundle for
//! [`SETTLE`] before it signs anything, so that every agent trusts it by then; an old one stays
//! in the bundle until the last certificate that it signed has ended.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject as _},
};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

mod issue;
mod serving;

pub use issue::{Issued, node_uri};
pub use serving::{Serving, ServingError};

const DAY: Duration = Duration::from_hours(24);

/// How long a certificate of authority is valid.
///
/// It is renewed at two thirds, so an operator may be away for eight months and still come back
/// to agents that trust it. Not the ten years that are usual: its key lies in a Secret, and what
/// is renewed by itself need not be valid for longer than anybody would be away.
const CA_LIFE: Duration = DAY.saturating_mul(730);

/// How long everything that an authority signs is valid.
///
/// Whoever asks for a certificate again does so at two thirds, which leaves eight hours of an
/// operator that is away. There is no revocation, so a stolen key is good for a day at most.
pub(crate) const LEAF_LIFE: Duration = DAY;

/// How long a new certificate of authority is handed out before it signs.
///
/// A mounted ConfigMap follows within about two minutes and agents read their bundle at each
/// connect; an hour forgives a kubelet that is restarted meanwhile.
const SETTLE: Duration = Duration::from_hours(1);

/// How far the clocks of two nodes may be apart.
const SKEW: Duration = Duration::from_mins(5);

/// Certificates of authority at once: one that goes, one that signs, one that comes.
const CAS_MAX: usize = 3;

/// Why an authority cannot do something.
#[derive(Debug, Error)]
pub enum AuthorityError {
    #[error("make a key and a certificate of authority")]
    Create(#[source] rcgen::Error),
    #[error("the certificates of authority are not PEM")]
    Certificates(#[source] pem::Error),
    #[error("the keys of authority are not PEM")]
    Keys(#[source] pem::Error),
    #[error("there are {certificates} certificates of authority and {keys} keys")]
    Count { certificates: usize, keys: usize },
    #[error("certificate of authority {index} cannot be read")]
    Unreadable { index: usize },
    #[error("certificate {index} is not one of an authority")]
    NotACa { index: usize },
    #[error("key of authority {index} cannot be used")]
    Key {
        index: usize,
        #[source]
        source: rcgen::Error,
    },
    #[error("key of authority {index} does not belong to its certificate")]
    Mismatch { index: usize },
    #[error("{CAS_MAX} certificates of authority are in use; the oldest has not ended")]
    Rotating,
    #[error("the name `{name}` cannot be in a certificate")]
    Name {
        name: String,
        #[source]
        source: rcgen::Error,
    },
    #[error("the request for a certificate has {bytes} bytes; {bytes_max} are the most")]
    RequestTooLarge { bytes: usize, bytes_max: usize },
    #[error("the request for a certificate cannot be read, or is not signed by its key")]
    Request(#[source] rcgen::Error),
    #[error("sign a certificate")]
    Sign(#[source] rcgen::Error),
}

/// The certificates of authority, oldest first, never none.
#[derive(Clone, Debug)]
pub struct Authority {
    cas: Vec<Arc<Ca>>,
}

/// One certificate of authority and its key.
struct Ca {
    certificate: CertificateDer<'static>,
    key: KeyPair,
    created: SystemTime,
    ends: SystemTime,
}

/// An authority as its caller keeps it: both texts hold as many items, in the same order.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthorityPem {
    pub certificates: String,
    pub keys: String,
}

impl Authority {
    /// A new authority, whose only certificate signs at once: nobody trusts another one yet.
    pub fn create(now: SystemTime) -> Result<Self, AuthorityError> {
        Ok(Self { cas: vec![Arc::new(Ca::create(now)?)] })
    }

    /// Reads what [`Authority::to_pem`] gave.
    pub fn from_pem(pem: &AuthorityPem) -> Result<Self, AuthorityError> {
        let AuthorityPem { certificates, keys } = pem;
        let certificates = CertificateDer::pem_slice_iter(certificates.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(AuthorityError::Certificates)?;
        let keys = PrivateKeyDer::pem_slice_iter(keys.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(AuthorityError::Keys)?;
        if certificates.is_empty() || certificates.len() != keys.len() {
            let (certificates, keys) = (certificates.len(), keys.len());
            return Err(AuthorityError::Count { certificates, keys });
        }
        let pairs = certificates.into_iter().zip(keys).enumerate();
        let cas = pairs.map(|(index, (certificate, key))| Ca::read(index, certificate, &key));
        Ok(Self { cas: cas.map(|ca| ca.map(Arc::new)).collect::<Result<_, _>>()? })
    }

    /// What [`Authority::from_pem`] reads. Holds the keys: belongs in a Secret.
    pub fn to_pem(&self) -> AuthorityPem {
        AuthorityPem {
            certificates: self.bundle(),
            keys: self.cas.iter().map(|ca| ca.key.serialize_pem()).collect(),
        }
    }

    /// The certificates that everybody should trust, in PEM: no secret.
    pub fn bundle(&self) -> String {
        self.cas.iter().map(|ca| issue::pem(&ca.certificate)).collect()
    }

    /// This authority as it should be at `now`, if that is another one: certificates that nobody
    /// needs any more are gone, and one past two thirds of its life has a successor.
    pub fn advanced(&self, now: SystemTime) -> Result<Option<Self>, AuthorityError> {
        let mut cas = self.needed(now);
        let is_due = cas.last().is_none_or(|newest| newest.renew_at() <= now);
        if is_due && cas.len() < CAS_MAX {
            cas.push(Arc::new(Ca::create(now)?));
        } else if cas.len() == self.cas.len() {
            return Ok(None);
        }
        Ok(Some(Self { cas }))
    }

    /// This authority with a successor to its newest certificate, though none is due.
    pub fn rotated(&self, now: SystemTime) -> Result<Self, AuthorityError> {
        let mut cas = self.needed(now);
        if cas.len() >= CAS_MAX {
            return Err(AuthorityError::Rotating);
        }
        cas.push(Arc::new(Ca::create(now)?));
        Ok(Self { cas })
    }

    /// The certificates that somebody may still have to trust at `now`.
    fn needed(&self, now: SystemTime) -> Vec<Arc<Ca>> {
        let followed = self.cas.iter().zip(self.cas.iter().skip(1));
        let is_needed = |ca: &Ca, successor: &Ca| {
            now <= ca.ends && now <= successor.signs_from() + LEAF_LIFE + SKEW
        };
        followed
            .filter(|(ca, successor)| is_needed(ca, successor))
            .map(|(ca, _)| ca)
            .chain(self.cas.last())
            .cloned()
            .collect()
    }

    /// The certificate whose key signs at `now`: the newest that has settled, and while none has,
    /// the oldest, which everybody trusts. One that has ended signs nothing that another can.
    fn signer(&self, now: SystemTime) -> &Ca {
        let settled = self.cas.iter().rev().find(|ca| ca.signs_from() <= now);
        let signer = settled.or_else(|| self.cas.first()).filter(|ca| now < ca.ends);
        signer.or_else(|| self.cas.last()).expect("an authority has a certificate")
    }
}

impl Ca {
    fn create(now: SystemTime) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(AuthorityError::Create)?;
        let [a, b, c, d, ..] = <[u8; 32]>::from(Sha256::digest(key.public_key_raw()));
        let mut name = DistinguishedName::new();
        // Another name for each key, so that a chain is never tried with the wrong one.
        name.push(DnType::CommonName, format!("Realm authority {a:02x}{b:02x}{c:02x}{d:02x}"));
        let mut params = CertificateParams::default();
        params.distinguished_name = name;
        params.not_before = (now - SKEW).into();
        params.not_after = (now + CA_LIFE).into();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(AuthorityError::Create)?;
        let certificate = certificate.der().clone();
        let (created, ends) =
            validity(&certificate).ok_or(AuthorityError::Unreadable { index: 0 })?;
        Ok(Self { certificate, key, created, ends })
    }

    fn read(
        index: usize,
        certificate: CertificateDer<'static>,
        key: &PrivateKeyDer<'_>,
    ) -> Result<Self, AuthorityError> {
        let unreadable = AuthorityError::Unreadable { index };
        let Ok((_, parsed)) = x509_parser::parse_x509_certificate(&certificate) else {
            return Err(unreadable);
        };
        if !parsed.is_ca() {
            return Err(AuthorityError::NotACa { index });
        }
        let key = KeyPair::try_from(key).map_err(|source| AuthorityError::Key { index, source })?;
        if parsed.public_key().subject_public_key.data != key.public_key_raw() {
            return Err(AuthorityError::Mismatch { index });
        }
        let (created, ends) = validity(&certificate).ok_or(unreadable)?;
        Ok(Self { certificate, key, created, ends })
    }

    fn signs_from(&self) -> SystemTime {
        self.created + SETTLE
    }

    fn renew_at(&self) -> SystemTime {
        two_thirds(self.created, self.ends)
    }
}

/// When a certificate was made and when it ends, to the second.
fn validity(certificate: &CertificateDer<'_>) -> Option<(SystemTime, SystemTime)> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let at = |time: x509_parser::time::ASN1Time| {
        let seconds = u64::try_from(time.timestamp()).ok()?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
    };
    let validity = parsed.validity();
    Some((at(validity.not_before)?.checked_add(SKEW)?, at(validity.not_after)?))
}

/// When something that lives from `from` to `to` is to be renewed.
fn two_thirds(from: SystemTime, to: SystemTime) -> SystemTime {
    from + to.duration_since(from).unwrap_or_default() * 2 / 3
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { certificate: _, key: _, created, ends } = self;
        f.debug_struct("Ca").field("created", created).field("ends", ends).finish_non_exhaustive()
    }
}

impl fmt::Debug for AuthorityPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { certificates, keys: _ } = self;
        f.debug_struct("AuthorityPem").field("certificates", certificates).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
