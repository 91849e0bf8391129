//! A way to a peer that can be made to bring nothing back.

use std::net::SocketAddr;

use realm_core::desired::Peer;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// Bytes that are carried at once.
const BYTES: usize = 16 << 10;

/// Everything goes through it, except that nothing comes back while it is silent.
pub(super) struct Line {
    pub(super) peer: Peer,
    pub(super) silent: watch::Sender<bool>,
    /// Connections that there have been.
    pub(super) connections: watch::Receiver<usize>,
    task: JoinHandle<()>,
}

impl Line {
    pub(super) async fn to(peer: &Peer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (silent, is_silent) = watch::channel(false);
        let (count, connections) = watch::channel(0);
        let to: SocketAddr = peer.address.parse().unwrap();
        let task = tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let far = TcpStream::connect(to).await.unwrap();
                count.send_modify(|count| *count += 1);
                tokio::spawn(carry(near, far, is_silent.clone()));
            }
        });
        Self { peer: Peer { address, ..peer.clone() }, silent, connections, task }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Ends when either end is gone.
async fn carry(near: TcpStream, far: TcpStream, mut is_silent: watch::Receiver<bool>) {
    let (mut from_near, mut to_near) = near.into_split();
    let (mut from_far, mut to_far) = far.into_split();
    let back = async {
        let mut bytes = vec![0; BYTES];
        loop {
            let read = from_far.read(&mut bytes).await.unwrap_or(0);
            let Some(read) = bytes.get(..read).filter(|read| !read.is_empty()) else { return };
            if is_silent.wait_for(|is_silent| !is_silent).await.is_err() {
                return;
            }
            if to_near.write_all(read).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        _ = copy(&mut from_near, &mut to_far) => {}
        () = back => {}
    }
}
