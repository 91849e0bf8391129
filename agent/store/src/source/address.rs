//! Addresses that may be asked: `https`, or `http` of this very machine.

use std::net::IpAddr;

use reqwest::Url;

use super::invalid;
use crate::error::SourceError;

/// An `https` address, or an `http` one of this very machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) url: Url,
    /// Plain `http` to this machine, which needs neither certificates nor a proxy.
    pub(crate) loopback: bool,
}

impl Address {
    pub(crate) fn parse(text: &str) -> Result<Self, SourceError> {
        let url = Url::parse(text).or_else(|error| invalid(format!("not an address ({error})")))?;
        if !url.username().is_empty() || url.password().is_some() {
            return invalid("an address may not hold a user or password".to_owned());
        }
        let loopback = match url.scheme() {
            "https" => false,
            "http" if is_loopback(&url) => true,
            "http" => {
                return Err(SourceError::NotAllowed {
                    why: "plain http is for this machine only, use https",
                });
            }
            _ => return invalid("not an address of a web server".to_owned()),
        };
        Ok(Self { url, loopback })
    }

    /// Reads what may be no more than a server: `https://host[:port]`, and perhaps a path to begin
    /// with.
    pub(crate) fn parse_base(text: &str) -> Result<Self, SourceError> {
        let address = Self::parse(text)?;
        if address.url.query().is_some() || address.url.fragment().is_some() {
            return invalid("the address of a server has no ? and no #".to_owned());
        }
        Ok(address)
    }

    /// The server at `host` or `host:port`, asked in plain `http` where it is this machine.
    pub(crate) fn of_host(host: &str) -> Result<Self, SourceError> {
        let is_host = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
        if host.is_empty() || !host.bytes().all(is_host) {
            return invalid("it names no host".to_owned());
        }
        Self::parse(&format!("http://{host}/"))
            .or_else(|_| Self::parse(&format!("https://{host}/")))
    }

    /// The address of a file below this one; none of `parts` is empty, `.` or `..`.
    pub(crate) fn below<'a>(&self, parts: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(parts);
        }
        url
    }
}

/// Host, and port if it is named, as in a source.
pub(crate) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Whether an address leads to this very machine. Any name but `localhost` (RFC 6761) could
/// resolve to anything by the time it is used.
pub(crate) fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        let literal = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || literal.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    })
}
