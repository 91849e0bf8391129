//! From an operator's name to a connection to the operator that its certificate proves.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hyper_util::rt::TokioIo;
use realm_proto::link::{
    AGENT_MESSAGE_BYTES_MAX, OPERATOR_MESSAGE_BYTES_MAX, v1::link_client::LinkClient,
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{
        CertificateDer, ServerName,
        pem::{self, PemObject as _},
    },
    version::TLS13,
};
use tokio::{
    fs,
    io::AsyncReadExt as _,
    net::{TcpStream, lookup_host},
    time,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

use super::{LinkError, LinkOptions, OperatorAddress};

/// Largest bundle or token: a bundle of three authorities has 2 KiB, a token 1.5 KiB.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Addresses of one host that are tried: a headless Service has one for each operator, and more
/// than a leader and a few standbys help nobody.
const ADDRESSES_MAX: usize = 16;

/// Longest wait for each step towards a connection: three round trips around the world and a
/// slow machine.
const STEP_WAIT: Duration = Duration::from_secs(5);

/// HTTP/2 pings: an operator that is gone is noticed after both, fifteen seconds.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_WAIT: Duration = Duration::from_secs(5);

/// Bytes under way to this agent: a state of 3 MB needs three round trips.
const WINDOW_BYTES: u32 = 1 << 20;

/// A connection to an operator, and what proves this agent to it. Clones are the same connection.
#[derive(Clone)]
pub(super) struct Dialled {
    pub(super) client: LinkClient<Channel>,
    pub(super) bearer: MetadataValue<Ascii>,
}

/// The addresses of an operator's host, as the system orders them.
pub(super) async fn resolve(operator: &OperatorAddress) -> Result<Vec<SocketAddr>, LinkError> {
    let failed = |source| LinkError::Resolve { host: operator.host().to_owned(), source };
    let found = step(lookup_host((operator.host(), operator.port()))).await?.map_err(failed)?;
    Ok(found.take(ADDRESSES_MAX).collect())
}

/// Connects to one address of an operator.
pub(super) async fn dial(
    options: &LinkOptions,
    operator: &OperatorAddress,
    address: SocketAddr,
) -> Result<Dialled, LinkError> {
    // Both files are rotated by somebody else, so what was read last time may be stale.
    let tls = tls(&options.ca_file).await?;
    let bearer = bearer(&options.token_file).await?;
    let failed = |source| LinkError::Connect { address, source };
    let stream = step(TcpStream::connect(address)).await?.map_err(failed)?;
    // Small messages that wait for nothing; a system that cannot do it is slower.
    let _ = stream.set_nodelay(true);
    let failed = |source| LinkError::Handshake { address, source };
    let name = ServerName::try_from(operator.host().to_owned())
        .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
    let handshake = TlsConnector::from(Arc::new(tls)).connect(name, stream);
    let stream = step(handshake).await?.map_err(failed)?;
    // In a box, for it is large, and a part of everything that waits for a link.
    let channel = step(Box::pin(http(operator, stream))).await?;
    let channel = channel.map_err(|source| LinkError::Http { address, source })?;
    let client = LinkClient::new(channel)
        .max_decoding_message_size(OPERATOR_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(AGENT_MESSAGE_BYTES_MAX);
    Ok(Dialled { client, bearer })
}

async fn step<T>(step: impl Future<Output = T>) -> Result<T, LinkError> {
    time::timeout(STEP_WAIT, step).await.map_err(|_| LinkError::Slow { wait: STEP_WAIT })
}

async fn http(
    operator: &OperatorAddress,
    stream: TlsStream<TcpStream>,
) -> Result<Channel, tonic::transport::Error> {
    let mut stream = Some(TokioIo::new(stream));
    // The channel may ask again when the connection has broken; what comes next is ours to say.
    let only_once = tower::service_fn(move |_| {
        let stream = stream.take();
        async move { stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
    });
    Endpoint::from_shared(operator.to_string())?
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_WAIT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .connect_with_connector(only_once)
        .await
}

async fn tls(ca_file: &Path) -> Result<ClientConfig, LinkError> {
    let bytes = read(ca_file).await?;
    let path = || ca_file.to_owned();
    let no_certificates = |source| LinkError::Bundle { path: path(), source };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        roots
            .add(certificate.map_err(no_certificates)?)
            .map_err(|source| LinkError::Root { path: path(), source })?;
    }
    if roots.is_empty() {
        return Err(no_certificates(pem::Error::NoItemsFound));
    }
    // The provider is named here because a process-wide default would be global state.
    // Both ends are ours, so there is no older version to speak.
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(LinkError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

pub(super) async fn bearer(token_file: &Path) -> Result<MetadataValue<Ascii>, LinkError> {
    let no_token = || LinkError::NoToken { path: token_file.to_owned() };
    let bytes = read(token_file).await?;
    let token = str::from_utf8(&bytes).map_err(|_| no_token())?.trim();
    if token.is_empty() {
        return Err(no_token());
    }
    let mut bearer = MetadataValue::try_from(format!("Bearer {token}")).map_err(|_| no_token())?;
    // Keeps it out of what is printed and out of the compression table.
    bearer.set_sensitive(true);
    Ok(bearer)
}

/// A small file that somebody else replaces.
pub(crate) async fn read(path: &Path) -> Result<Vec<u8>, LinkError> {
    let failed = |source| LinkError::Read { path: PathBuf::from(path), source };
    let file = fs::File::open(path).await.map_err(failed)?;
    let mut bytes = Vec::new();
    let read = file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).await.map_err(failed)?;
    if u64::try_from(read).is_ok_and(|read| read <= FILE_BYTES_MAX) {
        Ok(bytes)
    } else {
        Err(LinkError::TooLarge { path: path.to_owned(), bytes_max: FILE_BYTES_MAX })
    }
}
