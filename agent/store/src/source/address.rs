//! Addresses that may be asked: `https`, or `http` of this very machine.

use std::net::{IpAddr, Ipv6Addr};

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

/// Whether an address leads no further than this machine or its link, where a shared node has
/// servers that trust whoever reaches them. A name may resolve to such a place and not show it.
pub(crate) fn is_local(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        let literal = host.trim_start_matches('[').trim_end_matches(']');
        let name = host.trim_end_matches('.');
        name == "localhost"
            || name.ends_with(".localhost")
            || literal.parse::<IpAddr>().is_ok_and(is_local_ip)
    })
}

/// Whether an address is of this machine or its link.
pub(crate) fn is_local_ip(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        // Linux takes all of 0.0.0.0/8 or its first for this machine.
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local() || ip.octets().starts_with(&[0]),
        IpAddr::V6(ip) => {
            ip.is_loopback() || ip.is_unicast_link_local() || ip == Ipv6Addr::UNSPECIFIED
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_place_is_known_however_it_is_written() {
        let is_local = |host: &str| is_local(&format!("https://{host}/a").parse().unwrap());
        for host in [
            "localhost",
            "LOCALHOST.",
            "a.localhost:1",
            "%6cocalhost",
            "127.0.0.1",
            "127.1:8443",
            "2130706433",
            "0x7f.0.0.1",
            "0.0.0.0",
            "169.254.169.254",
            "[::1]",
            "[::]",
            "[fe80::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:a9fe:a9fe]:80",
        ] {
            assert!(is_local(host), "{host}");
        }
        for host in ["localhost.example", "notlocalhost", "10.0.0.1", "[fd00::1]", "1.1.1.1"] {
            assert!(!is_local(host), "{host}");
        }
    }
}
