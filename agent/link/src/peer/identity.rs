//! The certificate by which other agents know this one, always a good one.
//!
//! The key never leaves the process. The certificate is renewed at two thirds of its life, and at
//! once when the bundle of the operator's authority changes: what peers show is then signed by an
//! authority that this agent has been told of before. Connections that live keep what they have.

use std::{
    convert::Infallible,
    hash::{BuildHasher as _, RandomState},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::SignatureScheme;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::ResolvesClientCert,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
    version::TLS13,
};
use tokio::{sync::watch, time};

use super::{
    certificate::{self, OneNode},
    error::IdentityError,
};
use crate::client::{self, Enrolled, LinkOptions, backoff::backoff, dial};

/// How often the bundle is looked at: a new authority is handed out an hour before it signs, and
/// the kubelet needs two minutes of it to bring the file.
const LOOK_EVERY: Duration = Duration::from_mins(1);

/// What this agent shows to its peers, and whom it believes.
#[derive(Debug)]
pub struct Identity {
    key: Arc<CertifiedKey>,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    server: Arc<ServerConfig>,
}

impl Identity {
    /// The TLS of connections that come.
    pub(super) fn server(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// The TLS of a connection to the agent of `node`.
    pub(super) fn client(&self, node: &str) -> Result<ClientConfig, rustls::Error> {
        let verifier = OneNode {
            node: node.to_owned(),
            roots: self.roots.clone(),
            provider: self.provider.clone(),
        };
        // Both ends are ours, so there is no older version to speak.
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(Only(self.key.clone())));
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }

    /// Takes what the operator signed for `key` into use.
    fn new(node: &str, enrolled: &Enrolled, key: &KeyPair) -> Result<Self, IdentityError> {
        let Enrolled { certificate_chain, ca, not_after: _ } = enrolled;
        let chain = certificates(certificate_chain)?;
        if chain.first().and_then(certificate::node).as_deref() != Some(node) {
            return Err(IdentityError::OtherNode { node: node.to_owned() });
        }
        let mut roots = RootCertStore::empty();
        for root in certificates(ca)? {
            roots.add(root).map_err(IdentityError::Use)?;
        }
        let roots = Arc::new(roots);
        // Named here because a process-wide default would be global state.
        let provider = Arc::new(ring::default_provider());
        let key = PrivateKeyDer::try_from(key.serialize_der())
            .map_err(|_| IdentityError::Request(rcgen::Error::CouldNotParseKeyPair))?;
        let key = CertifiedKey::from_der(chain, key, &provider).map_err(IdentityError::Use)?;
        let key = Arc::new(key);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(IdentityError::Roots)?;
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(IdentityError::Use)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(Only(key.clone())));
        server.alpn_protocols = vec![b"h2".to_vec()];
        // A ticket would let a peer come back by what it proved once, after its certificate ended.
        server.send_tls13_tickets = 0;
        Ok(Self { key, roots, provider, server: Arc::new(server) })
    }
}

/// The only certificate there is.
#[derive(Debug)]
struct Only(Arc<CertifiedKey>);

impl ResolvesClientCert for Only {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for Only {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(IdentityError::Pem)
}

/// Keeps `identity` a good one for ever; it ends by being dropped.
pub async fn keep(
    options: LinkOptions,
    identity: watch::Sender<Option<Arc<Identity>>>,
) -> Infallible {
    let random = RandomState::new();
    let mut failures = 0_u32;
    loop {
        // Read first: one that changes meanwhile is a reason to come again.
        let bundle = dial::read(&options.ca_file).await.ok();
        match enroll(&options).await {
            Ok((new, not_after)) => {
                failures = 0;
                identity.send_replace(Some(Arc::new(new)));
                tracing::info!("new certificate for other agents in use");
                let life = not_after.duration_since(SystemTime::now()).unwrap_or_default();
                until_due(&options.ca_file, bundle, life * 2 / 3).await;
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                let cause = realm_core::report::chain(&error);
                tracing::warn!(cause, "no new certificate for other agents");
                time::sleep(backoff(failures, random.hash_one(failures))).await;
            }
        }
    }
}

async fn enroll(options: &LinkOptions) -> Result<(Identity, SystemTime), IdentityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(IdentityError::Request)?;
    // Whose certificate it will be, the token says.
    let request = CertificateParams::default().serialize_request(&key);
    let request = request.map_err(IdentityError::Request)?;
    let enrolled = client::enroll(options, request.der()).await.map_err(IdentityError::Enroll)?;
    Ok((Identity::new(&options.node, &enrolled, &key)?, enrolled.not_after))
}

/// Waits until a certificate is to be renewed.
async fn until_due(ca_file: &Path, bundle: Option<Vec<u8>>, life: Duration) {
    let due = time::Instant::now() + life;
    loop {
        let look = (time::Instant::now() + LOOK_EVERY).min(due);
        time::sleep_until(look).await;
        // A file that cannot be read now says nothing.
        let found = dial::read(ca_file).await.ok();
        if due <= time::Instant::now() || found.is_some() && found != bundle {
            return;
        }
    }
}
