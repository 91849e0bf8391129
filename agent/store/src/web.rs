//! The HTTP client of one fetch: whom it trusts, where it lets itself be led, what its errors mean.
//!
//! Led to another host, port or scheme, it goes without the `Authorization` it set out with.

mod resolver;

use std::{error::Error, io, path::Path, sync::Arc, time::Duration};

use reqwest::{
    Client, RequestBuilder, Response, Url,
    header::AUTHORIZATION,
    redirect::{Attempt, Policy},
};
use rustls::{
    ClientConfig, RootCertStore,
    client::danger::ServerCertVerifier,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, pem::PemObject},
};
use rustls_platform_verifier::Verifier;
use thiserror::Error;
use tokio::time::timeout;

use crate::{
    error::{SourceError, StoreError},
    options::{Site, StoreOptions},
    resolve::Request,
    source::{self, Address},
    web::resolver::{LocalAddress, Lookup, Resolver},
};

/// Redirects followed: model hosts use one or two, on to their object store.
const REDIRECTS_MAX: usize = 5;

/// Why a redirect was not followed.
#[derive(Debug, Error)]
#[error("{0}")]
struct RedirectRefused(String);

/// Where a client lets itself be led.
#[derive(Clone, Copy)]
struct Trust {
    /// It set out in plain `http` to this machine, and stays there.
    loopback: bool,
    site: Site,
}

/// A client for the server at one address, and for those that it leads to.
pub(crate) struct Web {
    client: Client,
    trust: Trust,
    /// How long an answer may take to begin, or a short one to come.
    patience: Duration,
}

impl Web {
    /// Makes the client for `address`.
    pub(crate) async fn open(
        address: &Address,
        options: &StoreOptions,
    ) -> Result<Self, SourceError> {
        Self::by(resolver::system, address, options).await
    }

    /// The same, by what `lookup` knows of names.
    async fn by(
        lookup: Lookup,
        address: &Address,
        options: &StoreOptions,
    ) -> Result<Self, SourceError> {
        let (loopback, ca_file) = (address.loopback, options.ca_file.clone());
        let trust = Trust { loopback, site: options.site };
        let tls = tokio::task::spawn_blocking(move || tls(loopback, ca_file.as_deref()))
            .await
            .unwrap_or(Err(SourceError::Store(StoreError::WorkerLost)))?;
        let mut builder = Client::builder()
            .tls_backend_preconfigured(tls)
            .dns_resolver(Resolver::new(options.site, lookup))
            .connect_timeout(options.connect_timeout)
            .redirect(Policy::custom(move |attempt| follow(attempt, trust)))
            .referer(false)
            .user_agent(concat!("realm/", env!("CARGO_PKG_VERSION")));
        if source::is_loopback(&address.url) {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|error| SourceError::Unreachable(error.into()))?;
        let patience = options.connect_timeout.saturating_add(options.stall_timeout);
        Ok(Self { client, trust, patience })
    }

    /// Whether a server may name `url` as the next to ask.
    pub(crate) fn check(&self, url: &Url) -> Result<(), SourceError> {
        match refuse(url, 0, self.trust) {
            Some(why) => Err(SourceError::Redirected { why }),
            None => Ok(()),
        }
    }

    pub(crate) fn get(&self, request: &Request) -> RequestBuilder {
        let builder = self.client.get(request.url.clone());
        match &request.authorization {
            Some(authorization) => builder.header(AUTHORIZATION, authorization.clone()),
            None => builder,
        }
    }

    /// Sends a request, `bytes_done` bytes into the file, and waits for the head of its answer.
    pub(crate) async fn send(
        &self,
        builder: RequestBuilder,
        bytes_done: u64,
    ) -> Result<Response, SourceError> {
        timeout(self.patience, builder.send())
            .await
            .map_err(|_| stalled(self.patience, bytes_done))?
            .map_err(|error| explain(error, bytes_done))
    }

    /// Reads a short body to its end.
    pub(crate) async fn read(
        &self,
        mut response: Response,
        bytes_max: usize,
    ) -> Result<Vec<u8>, SourceError> {
        let read = async {
            let mut bytes = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(|error| explain(error, 0))? {
                if bytes.len().saturating_add(chunk.len()) > bytes_max {
                    let why = format!("more than {bytes_max} bytes where few belong");
                    return Err(SourceError::Malformed { why });
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(bytes)
        };
        timeout(self.patience, read).await.unwrap_or_else(|_| Err(stalled(self.patience, 0)))
    }
}

pub(crate) fn stalled(waited: Duration, bytes_done: u64) -> SourceError {
    SourceError::Stalled { waited_ms: waited.as_millis(), bytes_done }
}

/// Trusts the platform's authorities and those of `ca_file`; nobody where no certificate is needed.
fn tls(loopback: bool, ca_file: Option<&Path>) -> Result<ClientConfig, SourceError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(untrusted)?;
    if loopback {
        return Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth());
    }
    let verifier = verifier(ca_file, provider)?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

fn verifier(
    ca_file: Option<&Path>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, SourceError> {
    let mut extra: Vec<CertificateDer<'static>> = Vec::new();
    if let Some(path) = ca_file {
        let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
        extra = certificates.map_err(|error| {
            let why = format!("the authorities in {} cannot be read: {error}", path.display());
            SourceError::Untrusted(why.into())
        })?;
    }
    Ok(Arc::new(Verifier::new_with_extra_roots(extra, provider).map_err(untrusted)?))
}

fn untrusted(error: impl Error + Send + Sync + 'static) -> SourceError {
    SourceError::Untrusted(Box::new(error))
}

fn follow(attempt: Attempt<'_>, trust: Trust) -> reqwest::redirect::Action {
    match refuse(attempt.url(), attempt.previous().len(), trust) {
        Some(why) => attempt.error(RedirectRefused(why)),
        None => attempt.follow(),
    }
}

/// Why a redirect to `url`, after `hops` addresses, is not followed.
fn refuse(url: &Url, hops: usize, trust: Trust) -> Option<String> {
    let Trust { loopback, site } = trust;
    let allowed = match url.scheme() {
        "https" => !loopback && (site == Site::OneMachine || !source::is_local(url)),
        "http" => loopback && source::is_loopback(url),
        _ => false,
    };
    if !allowed {
        return Some(format!("to {}", source::redact(url.as_str())));
    }
    (hops > REDIRECTS_MAX).then(|| format!("more than {REDIRECTS_MAX} times"))
}

/// What an error of the client means, `bytes_done` bytes into the file.
pub(crate) fn explain(error: reqwest::Error, bytes_done: u64) -> SourceError {
    // The address may hold a secret, and whoever reads the error knows it already.
    let error = error.without_url();
    if let Some(RedirectRefused(why)) = find(&error) {
        return SourceError::Redirected { why: why.clone() };
    }
    if find::<LocalAddress>(&error).is_some() {
        return SourceError::NotAllowed { why: "its name leads to this machine or its link" };
    }
    if find::<rustls::Error>(&error).is_some_and(is_certificate) {
        return SourceError::Untrusted(error.into());
    }
    if error.is_connect() {
        return SourceError::Unreachable(error.into());
    }
    SourceError::Interrupted { bytes_done, source: error.into() }
}

fn is_certificate(error: &rustls::Error) -> bool {
    matches!(
        error,
        rustls::Error::InvalidCertificate(_)
            | rustls::Error::InvalidCertRevocationList(_)
            | rustls::Error::NoCertificatesPresented
            | rustls::Error::UnsupportedNameType
    )
}

/// The first cause of this type. An `io::Error` may carry one without naming it as its source.
fn find<'e, E: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = inner.map(|inner| inner as &(dyn Error + 'static)).or_else(|| error.source());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{resolver::Answer, *};

    /// How a request to `url` ends by what `lookup` knows.
    async fn asked(url: &str, site: Site, lookup: Lookup) -> SourceError {
        let options = StoreOptions::new(site);
        let address = Address::parse(url).unwrap();
        let web = Web::by(lookup, &address, &options).await.unwrap();
        let request = Request { url: address.url, authorization: None };
        web.send(web.get(&request), 0).await.unwrap_err()
    }

    #[tokio::test]
    async fn no_name_leads_a_shared_node_to_itself_or_its_link() {
        let to = |_| -> Answer { Box::pin(async { Ok(vec![([127, 0, 0, 1], 0).into()]) }) };
        // Nobody listens on the first port, so that whoever may connect is refused by the system.
        let error = asked("https://rebound.example:1/a", Site::Cluster, to).await;
        assert_eq!(error.reason(), "SourceNotAllowed", "{error}");
        let error = asked("https://rebound.example:1/a", Site::OneMachine, to).await;
        assert_eq!(error.reason(), "SourceUnreachable", "{error}");
        let mixed = |_| -> Answer {
            let addresses = ["10.0.0.1:0", "[::ffff:169.254.169.254]:0"];
            Box::pin(async move { Ok(addresses.map(|a| a.parse().unwrap()).to_vec()) })
        };
        let error = asked("https://rebound.example:1/a", Site::Cluster, mixed).await;
        assert_eq!(error.reason(), "SourceNotAllowed", "{error}");
    }

    #[test]
    fn a_redirect_leads_from_https_to_https_only_and_not_for_ever() {
        let refused = |url: &str, hops, loopback| {
            let trust = Trust { loopback, site: Site::OneMachine };
            refuse(&url.parse().unwrap(), hops, trust).is_some()
        };
        assert!(!refused("https://a.example/", 1, false));
        assert!(!refused("https://a.example/", REDIRECTS_MAX, false));
        assert!(refused("https://a.example/", REDIRECTS_MAX + 1, false));
        assert!(refused("http://a.example/", 1, false));
        assert!(refused("http://127.0.0.1/", 1, false));
        assert!(refused("file:///etc/passwd", 1, false));
        assert!(!refused("http://127.0.0.1/", 1, true));
        assert!(refused("http://10.0.0.1/", 1, true));
        assert!(refused("https://a.example/", 1, true));
    }

    #[test]
    fn a_redirect_leads_to_no_server_of_a_node_that_is_shared() {
        let refused = |url: &str, site| {
            refuse(&url.parse().unwrap(), 1, Trust { loopback: false, site }).is_some()
        };
        for local in ["https://localhost/", "https://127.1/", "https://169.254.169.254/a"] {
            assert!(refused(local, Site::Cluster), "{local}");
            assert!(!refused(local, Site::OneMachine), "{local}");
        }
        assert!(!refused("https://a.example/", Site::Cluster));
    }
}
