//! A client that speaks HTTP/2 and does not heed the end of its connection, byte by byte: every
//! library does.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    sync::oneshot,
    task::JoinHandle,
};

use super::*;

/// Frames by their numbers in RFC 9113, and flags of headers.
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// More than every frame of the test together.
const WIRE_BYTES: usize = 64 << 10;

struct Client {
    wire: DuplexStream,
    /// Calls that went through the door.
    taken: watch::Receiver<u32>,
    end: Option<oneshot::Sender<Old>>,
    server: JoinHandle<()>,
}

impl Client {
    async fn connect() -> Self {
        let (near, far) = tokio::io::duplex(WIRE_BYTES);
        let (count, taken) = watch::channel(0);
        let service = tower::service_fn(move |_: hyper::Request<Incoming>| {
            count.send_modify(|count| *count += 1);
            std::future::ready(Ok::<_, Infallible>(Status::ok("").into_http()))
        });
        let (end, ends) = oneshot::channel();
        let server = tokio::spawn(async move {
            let peer = VerifiedPeer::vouch("n1");
            serve(far, &peer, service, async { ends.await.unwrap() }).await;
        });
        let mut client = Self { wire: near, taken, end: Some(end), server };
        client.wire.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        client.write(SETTINGS, 0, 0, &[]).await;
        client
    }

    async fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let [_, length @ ..] = length;
        let head = [&length[..], &[kind, flags], &stream.to_be_bytes()].concat();
        self.wire.write_all(&[&head, payload].concat()).await.unwrap();
    }

    /// Reads until there is such a frame.
    async fn hear(&mut self, wanted: u8, on: u32) {
        loop {
            let mut head = [0; 9];
            self.wire.read_exact(&mut head).await.unwrap();
            let [a, b, c, kind, _, stream @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.wire.read_exact(&mut payload).await.unwrap();
            if (kind, u32::from_be_bytes(stream)) == (wanted, on) {
                return;
            }
        }
    }

    /// Calls on a stream of its own until there is an answer; gives the calls taken by then.
    async fn call(&mut self, stream: u32) -> u32 {
        // Literals of new names that are not remembered, whose lengths fit seven bits.
        let field = |name: &str, value: &str| {
            let text =
                |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
            [vec![0], text(name), text(value)].concat()
        };
        let fields = [
            field(":method", "POST"),
            field(":scheme", "https"),
            field(":path", "/realm.peer.v1.Peer/Call"),
            field(":authority", "peer"),
        ];
        self.write(HEADERS, END_STREAM | END_HEADERS, stream, &fields.concat()).await;
        self.hear(HEADERS, stream).await;
        *self.taken.borrow()
    }

    /// Lets the connection grow old, and hears of it.
    async fn grow_old(&mut self, old: Old) {
        self.end.take().unwrap().send(old).unwrap();
        self.hear(GOAWAY, 0).await;
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn who_does_not_heed_the_end_of_an_old_connection_begins_no_call_once_it_must_have_heard() {
    let mut client = Client::connect().await;
    assert_eq!(client.call(1).await, 1);
    client.grow_old(Old::ByTime).await;
    assert_eq!(client.call(3).await, 2, "this one may have been on its way");
    // Beyond that moment, and before the next ping, which it would have to answer.
    time::sleep(PING_WAIT * 3 / 2).await;
    assert_eq!(client.call(5).await, 2);
    assert_eq!(client.call(7).await, 2);
}

#[tokio::test(start_paused = true)]
async fn whose_authority_is_gone_begins_no_call_from_that_moment_on() {
    let mut client = Client::connect().await;
    assert_eq!(client.call(1).await, 1);
    client.grow_old(Old::Disbelieved).await;
    assert_eq!(client.call(3).await, 1);
}
