//! One reading of an address where Prometheus reads too.

use std::{io, time::Duration};

use thiserror::Error;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::manifests::one_line;

/// How long an agent may take for all of it: Prometheus itself gives up after ten seconds.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Bytes of an answer: ten thousand tenants at four models each, with forty series of 120 bytes.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// Why there are no metrics.
#[derive(Debug, Error)]
pub(crate) enum ScrapeError {
    #[error("connect to {address}, where the metrics should be")]
    Connect { address: String, source: io::Error },
    #[error("read the metrics of {address}")]
    Read { address: String, source: io::Error },
    #[error("{address} did not tell its metrics within {} s", WAIT_MAX.as_secs())]
    TimedOut { address: String },
    #[error("{address} tells more than {ANSWER_BYTES_MAX} bytes of metrics")]
    TooLarge { address: String },
    #[error("{address} has no metrics: it answered `{answer}`")]
    Refused { address: String, answer: String },
}

/// The host and the port of `address`, be it written as the URL that servers print.
pub(crate) fn host_and_port(address: &str) -> &str {
    let address = address.strip_prefix("http://").unwrap_or(address);
    address.trim_end_matches('/').trim_end_matches("/metrics")
}

/// The metrics of `address`, a host and a port.
pub(crate) async fn read(address: &str) -> Result<String, ScrapeError> {
    let answer = timeout(WAIT_MAX, ask(address)).await;
    let answer =
        answer.map_err(|_elapsed| ScrapeError::TimedOut { address: address.to_owned() })??;
    body(&answer).map_err(|answer| ScrapeError::Refused { address: address.to_owned(), answer })
}

async fn ask(address: &str) -> Result<Vec<u8>, ScrapeError> {
    let connected = TcpStream::connect(address).await;
    let mut stream =
        connected.map_err(|source| ScrapeError::Connect { address: address.to_owned(), source })?;
    let failed = |source| ScrapeError::Read { address: address.to_owned(), source };
    // In this version of HTTP an answer is one piece, and ends with the connection.
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\nAccept: text/plain\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX + 1).read_to_end(&mut answer).await.map_err(failed)?;
    if answer.len() as u64 > ANSWER_BYTES_MAX {
        return Err(ScrapeError::TooLarge { address: address.to_owned() });
    }
    Ok(answer)
}

/// What comes after the head of a good answer; of another, how it begins.
fn body(answer: &[u8]) -> Result<String, String> {
    let text = String::from_utf8_lossy(answer);
    let first = text.lines().next().unwrap_or_default();
    let is_good = first.starts_with("HTTP/1.") && first.split(' ').nth(1) == Some("200");
    match text.split_once("\r\n\r\n") {
        Some((_, body)) if is_good => Ok(body.to_owned()),
        _ => Err(one_line(first)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_be_the_url_that_servers_print() {
        for address in ["a:90", "http://a:90", "http://a:90/", "http://a:90/metrics"] {
            assert_eq!(host_and_port(address), "a:90");
        }
        assert_eq!(host_and_port("https://a:90"), "https://a:90", "which nobody serves");
    }

    #[test]
    fn what_comes_after_the_head_of_a_good_answer_is_the_body() {
        let good = "HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\na 1\n\r\n\r\n";
        assert_eq!(body(good.as_bytes()).unwrap(), "a 1\n\r\n\r\n");
        let lost = "HTTP/1.1 404 Not Found\r\n\r\nnothing";
        assert_eq!(body(lost.as_bytes()).unwrap_err(), "HTTP/1.1 404 Not Found");
        assert_eq!(body(b"SSH-2.0-x\r\n").unwrap_err(), "SSH-2.0-x");
        assert_eq!(body(b"HTTP/1.0 200 OK\r\ncut").unwrap_err(), "HTTP/1.0 200 OK");
        assert_eq!(body(b"").unwrap_err(), "");
    }
}
