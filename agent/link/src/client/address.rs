//! Where an operator is: `https://host:port`.

use std::{fmt, net::Ipv6Addr, str::FromStr};

use thiserror::Error;

/// Longest host name of DNS.
const HOST_LEN_MAX: usize = 253;

/// Why a text is not the address of an operator.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("`{0}` is not of the form https://host:port")]
pub struct AddressError(String);

/// Where an operator is. Its certificate has to be one for this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorAddress {
    host: String,
    port: u16,
}

impl OperatorAddress {
    /// A host name or an IP address, an IPv6 one without its brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for OperatorAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| AddressError(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<OperatorAddress> {
    let (host, port) = text.strip_prefix("https://")?.rsplit_once(':')?;
    let port = port.strip_suffix('/').unwrap_or(port).parse().ok()?;
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_good = inner.map_or_else(|| is_host(host), |ip| ip.parse::<Ipv6Addr>().is_ok());
    is_good.then(|| OperatorAddress { host: inner.unwrap_or(host).to_owned(), port })
}

/// Whether `text` is spelled like a host name or an IPv4 address.
fn is_host(text: &str) -> bool {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    !text.is_empty() && text.len() <= HOST_LEN_MAX && text.bytes().all(is_allowed)
}

impl fmt::Display for OperatorAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(f, "https://[{host}]:{port}")
        } else {
            write!(f, "https://{host}:{port}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_https_with_a_host_and_a_port() {
        for good in [
            "https://realm-operator.realm-system.svc:7443",
            "https://10.0.0.1:1",
            "https://[::1]:65535",
        ] {
            assert_eq!(good.parse::<OperatorAddress>().unwrap().to_string(), good);
        }
        assert_eq!("https://a:1/".parse::<OperatorAddress>().unwrap().host(), "a");
        for bad in [
            "http://a:1",
            "a:1",
            "https://a",
            "https://:1",
            "https://a:0x1",
            "https://a:65536",
            "https://a/b:1",
            "https://[a]:1",
            "https://::1:1",
        ] {
            bad.parse::<OperatorAddress>().unwrap_err();
        }
    }
}
