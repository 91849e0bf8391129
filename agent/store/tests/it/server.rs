//! A small web server that does what a test tells it, down to the byte.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

/// One request, as far as it matters here.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// How many came before it.
    pub(crate) number: usize,
    /// With its query.
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    pub(crate) accept: Option<String>,
    pub(crate) range_from: Option<usize>,
    /// The last byte that was asked for, where one was named.
    pub(crate) range_to: Option<usize>,
    pub(crate) if_range: Option<String>,
}

/// What goes back on the wire, as it is.
pub(crate) struct Reply {
    pub(crate) wire: Vec<u8>,
    pub(crate) end: End,
}

/// What follows on the wire.
#[derive(Clone, Copy)]
pub(crate) enum End {
    Close,
    Silence,
    /// A byte now and then, without end.
    Drip,
}

/// Pause between two bytes of [`End::Drip`].
const DRIP_EVERY: Duration = Duration::from_millis(10);

impl Reply {
    pub(crate) fn new(status: &str, headers: &[(&str, &str)], body: &[u8]) -> Self {
        let headers: String =
            headers.iter().map(|(name, value)| [*name, ": ", *value, "\r\n"].concat()).collect();
        let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\n{headers}\r\n");
        let mut wire = head.into_bytes();
        wire.extend_from_slice(body);
        Self { wire, end: End::Close }
    }

    /// Leads elsewhere.
    pub(crate) fn redirect(location: &str) -> Self {
        Self::new("302 Found", &[("location", location)], b"")
    }

    /// The whole file, with its length.
    pub(crate) fn whole(body: &[u8]) -> Self {
        Self::new("200 OK", &[("content-length", &body.len().to_string())], body)
    }

    /// What a good server answers: the part that was asked for, of the version that was asked for.
    pub(crate) fn good(request: &Request, body: &[u8], etag: &str) -> Self {
        let total = body.len();
        let same = request.if_range.as_deref().is_none_or(|asked| asked == etag);
        match request.range_from.filter(|_| same) {
            Some(from) if from >= total => {
                let range = format!("bytes */{total}");
                Self::new("416 Range Not Satisfiable", &[("content-range", &range)], b"")
            }
            Some(from) => {
                let end = request.range_to.map_or(total, |to| total.min(to + 1));
                let range = format!("bytes {from}-{}/{total}", end - 1);
                let length = (end - from).to_string();
                let headers =
                    [("content-range", &*range), ("content-length", &length), ("etag", etag)];
                Self::new("206 Partial Content", &headers, &body[from..end])
            }
            None => {
                let length = total.to_string();
                Self::new("200 OK", &[("content-length", &length), ("etag", etag)], body)
            }
        }
    }

    /// Ends the connection when `bytes` of the body are out.
    pub(crate) fn cut(mut self, bytes: usize) -> Self {
        let head = self.wire.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        self.wire.truncate(head + bytes);
        self
    }

    pub(crate) fn hang(self) -> Self {
        Self { end: End::Silence, ..self }
    }

    pub(crate) fn drip(self) -> Self {
        Self { end: End::Drip, ..self }
    }
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    scheme: &'static str,
    requests: Arc<Mutex<Vec<Request>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_with(None, answer).await
    }

    pub(crate) async fn start_with(
        tls: Option<TlsAcceptor>,
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer) = (Arc::clone(&requests), Arc::new(answer));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(greet(stream, tls.clone(), Arc::clone(&seen), Arc::clone(&answer)));
            }
        });
        Self { address, scheme, requests, task }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn greet(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    seen: Arc<Mutex<Vec<Request>>>,
    answer: Arc<impl Fn(&Request) -> Reply + Send + Sync>,
) {
    let Some(tls) = tls else { return serve(stream, &seen, &*answer).await };
    // A client that trusts nobody here ends the handshake.
    let Ok(stream) = tls.accept(stream).await else { return };
    serve(stream, &seen, &*answer).await;
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    seen: &Mutex<Vec<Request>>,
    answer: &(impl Fn(&Request) -> Reply + Send + Sync),
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let header = |name: &str| {
        let mut headers = head.lines().filter_map(|line| line.split_once(": "));
        headers.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    };
    let range = header("range").map(|range| {
        let (from, to) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        (from.to_owned(), to.to_owned())
    });
    let request = {
        let mut seen = seen.lock().unwrap();
        let request = Request {
            number: seen.len(),
            path: head.split(' ').nth(1).unwrap().to_owned(),
            authorization: header("authorization"),
            accept: header("accept"),
            range_from: range.as_ref().map(|(from, _)| from.parse().unwrap()),
            range_to: range.and_then(|(_, to)| to.parse().ok()),
            if_range: header("if-range"),
        };
        seen.push(request.clone());
        request
    };
    let Reply { wire, end } = answer(&request);
    // The client may be gone already, which is what some tests are about.
    let _gone = stream.write_all(&wire).await;
    match end {
        End::Close => {}
        // Both end with the client.
        End::Silence => drop(stream.read_u8().await),
        End::Drip => {
            let mut drops = tokio::time::interval(DRIP_EVERY);
            while stream.write_all(&[0]).await.is_ok() && stream.flush().await.is_ok() {
                drops.tick().await;
            }
        }
    }
    let _gone = stream.shutdown().await;
}
