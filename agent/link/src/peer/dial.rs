//! From a peer's address to a connection to the agent that its certificate proves.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use realm_core::desired::Peer;
use rustls::pki_types::ServerName;
use tokio::{net::TcpStream, time};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{error::PeerError, identity::Identity};

/// Longest wait for a connection with TLS on it. Peers are in one cluster, where it takes
/// milliseconds; who needs longer has more to do than it can, and another one may not.
const CONNECT_WAIT: Duration = Duration::from_secs(2);

pub(super) async fn dial(
    identity: Option<&Identity>,
    peer: &Peer,
) -> Result<TlsStream<TcpStream>, PeerError> {
    let Peer { node, address } = peer;
    let identity = identity.ok_or(PeerError::NoIdentity)?;
    let tls = identity.client(node).map_err(PeerError::Tls)?;
    let parsed: SocketAddr = address
        .parse()
        .map_err(|source| PeerError::Address { address: address.clone(), source })?;
    let failed = |source| PeerError::Connect { address: address.clone(), source };
    let connected = async {
        let stream = TcpStream::connect(parsed).await.map_err(failed)?;
        // Small messages that wait for nothing; a system that cannot do it is slower.
        let _ = stream.set_nodelay(true);
        let name = ServerName::IpAddress(parsed.ip().into());
        TlsConnector::from(Arc::new(tls)).connect(name, stream).await.map_err(failed)
    };
    let slow = |_| PeerError::Slow { address: address.clone(), wait: CONNECT_WAIT };
    time::timeout(CONNECT_WAIT, connected).await.map_err(slow)?
}
