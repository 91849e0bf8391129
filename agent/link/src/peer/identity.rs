//! The certificate by which other agents know this one, always a good one.
//!
//! The key never leaves the node. The certificate is renewed at two thirds of its life, and at once
//! when the bundle of the operator's authority changes: what peers show is then signed by an
//! authority that this agent has been told of before. Connections that live keep what they have.
//! The newest one is kept on disk: an agent that starts while its operator is away goes on with it,
//! until it ends and not for longer.
//!
//! Who is believed, the operator says twice: with each certificate, and in the bundle that the
//! kubelet brings even while the operator is away. What the bundle says since then counts: an
//! authority that is gone from it is believed no more, whoever kept it, and one that is new in it is.

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
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::CertifiedKey,
    version::TLS13,
};
use tokio::{sync::watch, time};

use super::{
    certificate::{self, OneNode},
    error::IdentityError,
    kept::{self, Kept},
};
use crate::client::{self, Enrolled, LinkOptions, LinkState, backoff::backoff, dial};

/// How often the bundle is looked at: a new authority is handed out an hour before it signs, and
/// the kubelet needs two minutes of it to bring the file.
const LOOK_EVERY: Duration = Duration::from_mins(1);

/// What this agent shows to its peers, and whom it believes.
#[derive(Debug)]
pub struct Identity {
    key: Arc<CertifiedKey>,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    verifier: Arc<dyn ClientCertVerifier>,
    server: Arc<ServerConfig>,
}

impl Identity {
    /// Whether an agent that proved itself by these certificates at that time would be believed
    /// now: the authority that vouched for it may be gone.
    pub(super) fn believes(&self, chain: &[CertificateDer<'_>], at: UnixTime) -> bool {
        let Some((own, rest)) = chain.split_first() else { return false };
        self.verifier.verify_client_cert(own, rest, at).is_ok()
    }

    /// Whether the same authorities are believed as by `roots`.
    pub(super) fn has_roots(&self, roots: &RootCertStore) -> bool {
        self.roots.roots == roots.roots
    }

    pub(super) fn roots(&self) -> Arc<RootCertStore> {
        self.roots.clone()
    }

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

    /// Takes what the operator signed for a key into use, and believes `roots`.
    fn new(node: &str, kept: &Kept, roots: RootCertStore) -> Result<Self, IdentityError> {
        let Kept { enrolled: Enrolled { certificate_chain, ca: _, not_after: _ }, key_der } = kept;
        let chain = certificates(certificate_chain.as_bytes())?;
        if chain.first().and_then(certificate::node).as_deref() != Some(node) {
            return Err(IdentityError::OtherNode { node: node.to_owned() });
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
            .with_client_cert_verifier(verifier.clone())
            .with_cert_resolver(Arc::new(Only(key.clone())));
        server.alpn_protocols = vec![b"h2".to_vec()];
        // A ticket would let a peer come back by what it proved once, after its certificate ended.
        server.send_tls13_tickets = 0;
        Ok(Self { key, roots, provider, verifier, server: Arc::new(server) })
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

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(IdentityError::Pem)
}

/// The authorities of a bundle.
fn authorities(pem: &[u8]) -> Result<RootCertStore, IdentityError> {
    let mut roots = RootCertStore::empty();
    for root in certificates(pem)? {
        roots.add(root).map_err(IdentityError::Use)?;
    }
    Ok(roots)
}

/// Keeps `identity` a good one for as long as there is one, and the newest in the folder `state`;
/// it ends by being dropped. `link` says when the operator is there again.
pub async fn keep(
    options: LinkOptions,
    state: PathBuf,
    identity: watch::Sender<Option<Arc<Identity>>>,
    mut link: watch::Receiver<LinkState>,
) -> Infallible {
    let mut newest = of_before(&state).await;
    let mut said = Said::default();
    let random = RandomState::new();
    let mut failures = 0_u32;
    loop {
        // Read first: one that changes meanwhile is a reason to come again.
        let bundle = dial::read(&options.ca_file).await.ok();
        said.hear(bundle.as_deref());
        if let Some(kept) = &newest {
            stand_in(&options.node, kept, &said, &identity);
        }
        let before = linked_at(&link.borrow_and_update());
        match enroll(&options).await {
            Ok((new, kept)) => {
                failures = 0;
                if let Err(error) = kept::write(state.clone(), &kept).await {
                    let cause = realm_core::report::chain(&error);
                    tracing::warn!(cause, "the new certificate is lost with this process");
                }
                identity.send_replace(Some(Arc::new(new)));
                tracing::info!("new certificate for other agents in use");
                let life = left(&kept);
                newest = Some(kept);
                said = Said::default();
                until_due(&options.ca_file, bundle, life * 2 / 3).await;
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                let cause = realm_core::report::chain(&error);
                tracing::warn!(cause, "no new certificate for other agents");
                let wait = backoff(failures, random.hash_one(failures));
                let end = newest.as_ref().map(left).filter(|left| !left.is_zero());
                tokio::select! {
                    () = time::sleep(end.map_or(wait, |end| end.min(wait))) => {}
                    () = linked_again(&mut link, before) => {}
                }
            }
        }
    }
}

/// What the agent of this node had before it was started, as long as that is good.
async fn of_before(state: &Path) -> Option<Kept> {
    let kept = kept::read(state, SystemTime::now()).await;
    kept.unwrap_or_else(|error| {
        let cause = realm_core::report::chain(&error);
        tracing::warn!(cause, "no certificate of before for other agents");
        None
    })
}

/// Whom the bundle has named since the newest certificate came. One that cannot be read, or names
/// nobody, says nothing, and what it said last goes on to hold.
#[derive(Default)]
struct Said(Option<RootCertStore>);

impl Said {
    fn hear(&mut self, bundle: Option<&[u8]>) {
        let named = bundle.and_then(|bundle| authorities(bundle).ok());
        if let Some(named) = named.filter(|named| !named.is_empty()) {
            self.0 = Some(named);
        }
    }
}

/// Lets `identity` be what `kept` still is until there is a new one.
fn stand_in(node: &str, kept: &Kept, said: &Said, identity: &watch::Sender<Option<Arc<Identity>>>) {
    let old = match old(node, kept, said, SystemTime::now()) {
        Ok(old) => old.map(Arc::new),
        Err(error) => {
            let cause = realm_core::report::chain(&error);
            tracing::warn!(cause, "the last certificate for other agents is of no use");
            return;
        }
    };
    let has_ended = old.is_none();
    let roots = |identity: Option<&Identity>| identity.map(|known| known.roots.roots.clone());
    let is_new = identity.send_if_modified(|known| {
        let is_new = roots(known.as_deref()) != roots(old.as_deref());
        if is_new {
            *known = old;
        }
        is_new
    });
    match (is_new, has_ended) {
        (false, _) => {}
        (true, false) => tracing::info!("the last certificate for other agents is in use"),
        (true, true) => tracing::warn!("the last certificate for other agents has ended"),
    }
}

/// What is left at `now` of an identity that the operator gave before: nothing when its certificate
/// has ended, and as long as it lasts the authorities of the bundle are believed. Where that has
/// said nothing, those count that came with the certificate.
fn old(
    node: &str,
    kept: &Kept,
    said: &Said,
    now: SystemTime,
) -> Result<Option<Identity>, IdentityError> {
    if kept.enrolled.not_after <= now {
        return Ok(None);
    }
    let roots = match &said.0 {
        Some(roots) => roots.clone(),
        None => authorities(kept.enrolled.ca.as_bytes())?,
    };
    Identity::new(node, kept, roots).map(Some)
}

/// How long the certificate is still good.
fn left(kept: &Kept) -> Duration {
    kept.enrolled.not_after.duration_since(SystemTime::now()).unwrap_or_default()
}

fn linked_at(link: &LinkState) -> Option<time::Instant> {
    link.connected.as_ref().map(|connected| connected.since)
}

/// Returns when there is a link to an operator that is another than that of `before`.
async fn linked_again(link: &mut watch::Receiver<LinkState>, before: Option<time::Instant>) {
    let is_new = |link: &LinkState| linked_at(link).is_some_and(|since| Some(since) != before);
    // An error means that nobody will ever say so.
    if link.wait_for(is_new).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn enroll(options: &LinkOptions) -> Result<(Identity, Kept), IdentityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(IdentityError::Request)?;
    // Whose certificate it will be, the token says.
    let request = CertificateParams::default().serialize_request(&key);
    let request = request.map_err(IdentityError::Request)?;
    let enrolled = client::enroll(options, request.der()).await.map_err(IdentityError::Enroll)?;
    let kept = Kept { enrolled, key_der: key.serialize_der() };
    if left(&kept).is_zero() {
        return Err(IdentityError::Ended);
    }
    let roots = authorities(kept.enrolled.ca.as_bytes())?;
    Ok((Identity::new(&options.node, &kept, roots)?, kept))
}

/// Waits until a certificate is to be renewed. One that ends soon is no reason to ask the operator
/// without a pause.
async fn until_due(ca_file: &Path, bundle: Option<Vec<u8>>, life: Duration) {
    let due = time::Instant::now() + life.max(LOOK_EVERY);
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

#[cfg(test)]
mod tests;
