//! What an authority signs: the operator's own certificate and those of the agents.

use std::time::SystemTime;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};

use super::{Authority, AuthorityError, Ca, LEAF_LIFE, SKEW, two_thirds, validity};
use crate::link::identity::AgentIdentity;

/// Largest request for a certificate: one with an RSA key of 8192 bits has a third of it.
const REQUEST_BYTES_MAX: usize = 8 << 10;

/// A certificate for an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// PEM, the agent's own certificate first.
    pub chain: String,
    /// PEM, every certificate of authority to be trusted.
    pub ca: String,
    pub not_after: SystemTime,
}

/// A certificate for the operator's own door.
#[derive(Debug)]
pub(super) struct Leaf {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) key: PrivateKeyDer<'static>,
    pub(super) renew_at: SystemTime,
}

impl Authority {
    /// A certificate for the door of the operator, which agents know by `names`.
    pub(super) fn issue_serving(
        &self,
        names: &[String],
        now: SystemTime,
    ) -> Result<Leaf, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(AuthorityError::Sign)?;
        let mut params = params(&key, now);
        for name in names {
            let only = CertificateParams::new([name.clone()])
                .map_err(|source| AuthorityError::Name { name: name.clone(), source })?;
            params.subject_alt_names.extend(only.subject_alt_names);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let (certificate, not_after) = self.sign(params, &key, now)?;
        let key = PrivateKeyDer::try_from(key.serialize_der())
            .map_err(|_| AuthorityError::Sign(rcgen::Error::CouldNotParseKeyPair))?;
        Ok(Leaf { certificate, key, renew_at: two_thirds(now, not_after) })
    }

    /// A certificate for the agent that `identity` proves, over the key of its request.
    ///
    /// Everything else in the request is ignored. The certificate has no DNS name, so it cannot
    /// be taken for the operator's by agents that know their operator by name.
    pub fn issue_node(
        &self,
        identity: &AgentIdentity,
        csr_der: &[u8],
        now: SystemTime,
    ) -> Result<Issued, AuthorityError> {
        let bytes = csr_der.len();
        if bytes > REQUEST_BYTES_MAX {
            return Err(AuthorityError::RequestTooLarge { bytes, bytes_max: REQUEST_BYTES_MAX });
        }
        let request =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr_der))
                .map_err(AuthorityError::Request)?;
        let uri = node_uri(&identity.node);
        let san = uri.as_str().try_into();
        let san = san.map_err(|source| AuthorityError::Name { name: uri.clone(), source })?;
        let mut params = params(&request.public_key, now);
        params.subject_alt_names.push(SanType::URI(san));
        params.subject_alt_names.extend(identity.pod_ip.map(SanType::IpAddress));
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let (certificate, not_after) = self.sign(params, &request.public_key, now)?;
        Ok(Issued { chain: pem(&certificate), ca: self.bundle(), not_after })
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        key: &impl PublicKeyData,
        now: SystemTime,
    ) -> Result<(CertificateDer<'static>, SystemTime), AuthorityError> {
        let Ca { certificate, key: ca_key, created: _, ends } = self.signer(now);
        params.not_after = (now + LEAF_LIFE).min(*ends).into();
        let issuer = Issuer::from_ca_cert_der(certificate, ca_key).map_err(AuthorityError::Sign)?;
        let signed = params.signed_by(key, &issuer).map_err(AuthorityError::Sign)?;
        let signed = signed.der().clone();
        let (_, not_after) = validity(&signed)
            .ok_or(AuthorityError::Sign(rcgen::Error::CouldNotParseCertificate))?;
        Ok((signed, not_after))
    }
}

/// The name of a node in the certificate of its agent.
pub fn node_uri(node: &str) -> String {
    format!("spiffe://realm.dev/node/{node}")
}

/// What all that is signed has in common.
fn params(key: &impl PublicKeyData, now: SystemTime) -> CertificateParams {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, "realm");
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.serial_number = Some(serial(key, now));
    params.not_before = (now - SKEW).into();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params
}

/// A number that no other certificate has: an agent may come again with the same key, but not at
/// the same nanosecond.
fn serial(key: &impl PublicKeyData, now: SystemTime) -> SerialNumber {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let digest: [u8; 32] = Sha256::new()
        .chain_update(key.der_bytes())
        .chain_update(now.as_nanos().to_le_bytes())
        .finalize()
        .into();
    // 16 bytes, the first bit clear: a serial number is positive and at most 20 bytes long.
    let mut serial: Vec<u8> = digest.into_iter().take(16).collect();
    if let Some(first) = serial.first_mut() {
        *first &= 0x7f;
    }
    SerialNumber::from_slice(&serial)
}

/// PEM of one certificate.
pub(super) fn pem(certificate: &CertificateDer<'_>) -> String {
    let text = STANDARD.encode(certificate);
    // Lines of 64, as RFC 7468 asks of those who write.
    let lines: Vec<&str> = (0..text.len())
        .step_by(64)
        .filter_map(|start| text.get(start..text.len().min(start + 64)))
        .collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}
