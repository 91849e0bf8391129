//! The certificate by which other agents know this one, always a good one.
//!
//! The key never leaves the node. The certificate is renewed at two thirds of its life, and at once
//! when the bundle of the operator's authority changes: what peers show is then signed by an
//! authority that this agent has been told of before. Connections that live keep what they have.
//! The newest one is kept on disk: an agent that starts while its operator is away goes on with it.

use std::{
    convert::Infallible,
    hash::{BuildHasher as _, RandomState},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::SignatureScheme;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::ResolvesClientCert,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
    version::TLS13,
};
use tokio::{sync::watch, time};

use super::{
    certificate::{self, OneNode},
    error::IdentityError,
    kept::{self, Kept},
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

    /// Takes what the operator signed for a key into use.
    fn new(node: &str, kept: &Kept) -> Result<Self, IdentityError> {
        let Kept { enrolled: Enrolled { certificate_chain, ca, not_after: _ }, key_der } = kept;
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
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key_der.clone()));
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

/// Keeps `identity` a good one for ever, and the newest in the folder `state`; it ends by being
/// dropped.
pub async fn keep(
    options: LinkOptions,
    state: PathBuf,
    identity: watch::Sender<Option<Arc<Identity>>>,
) -> Infallible {
    match of_before(&options.node, &state).await {
        Ok(None) => {}
        Ok(Some(old)) => {
            identity.send_replace(Some(Arc::new(old)));
            tracing::info!("the certificate of before for other agents is in use");
        }
        Err(error) => {
            let cause = realm_core::report::chain(&error);
            tracing::warn!(cause, "no certificate of before for other agents");
        }
    }
    let random = RandomState::new();
    let mut failures = 0_u32;
    loop {
        // Read first: one that changes meanwhile is a reason to come again.
        let bundle = dial::read(&options.ca_file).await.ok();
        match enroll(&options).await {
            Ok((new, kept)) => {
                failures = 0;
                if let Err(error) = kept::write(state.clone(), &kept).await {
                    let cause = realm_core::report::chain(&error);
                    tracing::warn!(cause, "the new certificate is lost with this process");
                }
                identity.send_replace(Some(Arc::new(new)));
                tracing::info!("new certificate for other agents in use");
                let life =
                    kept.enrolled.not_after.duration_since(SystemTime::now()).unwrap_or_default();
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

/// What the agent of this node had before it was started, as long as that is good.
async fn of_before(node: &str, state: &Path) -> Result<Option<Identity>, IdentityError> {
    let kept = kept::read(state, SystemTime::now()).await?;
    kept.map(|kept| Identity::new(node, &kept)).transpose()
}

async fn enroll(options: &LinkOptions) -> Result<(Identity, Kept), IdentityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(IdentityError::Request)?;
    // Whose certificate it will be, the token says.
    let request = CertificateParams::default().serialize_request(&key);
    let request = request.map_err(IdentityError::Request)?;
    let enrolled = client::enroll(options, request.der()).await.map_err(IdentityError::Enroll)?;
    let kept = Kept { enrolled, key_der: key.serialize_der() };
    Ok((Identity::new(&options.node, &kept)?, kept))
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
