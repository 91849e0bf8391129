//! The host of a server, perhaps with a port, as a source names it.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest name of a host, as in the DNS.
const NAME_LEN_MAX: usize = 253;

/// Whether a text is a name or a literal address, perhaps with a port.
pub(super) fn is_host(text: &str) -> bool {
    let (host, port) = split(text);
    let is_port = port
        .is_none_or(|port| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok());
    is_port && (literal(host).is_some() || is_name(host))
}

/// Whether a host leads no further than its machine or link, where servers trust whoever reaches
/// them.
pub(super) fn is_local(text: &str) -> bool {
    let (host, _) = split(text);
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || literal(host).is_some_and(|ip| match ip.to_canonical() {
            // Linux takes all of 0.0.0.0/8 or its first for this machine.
            IpAddr::V4(ip) => {
                ip.is_loopback() || ip.is_link_local() || ip.octets().starts_with(&[0])
            }
            IpAddr::V6(ip) => {
                ip.is_loopback() || ip.is_unicast_link_local() || ip == Ipv6Addr::UNSPECIFIED
            }
        })
}

fn split(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !text.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    }
}

fn literal(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => host.strip_suffix('.').unwrap_or(host).parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

/// A name, whose last part is no number: clients would read `127.1` or `0x7f000001` as an address.
fn is_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let is_inner = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
    let last = text.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    let is_number = match last.strip_prefix("0x") {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_hexdigit()),
        None => last.bytes().all(|b| b.is_ascii_digit()),
    };
    text.len() <= NAME_LEN_MAX
        && !is_number
        && text.split('.').all(|label| !label.is_empty() && label.bytes().all(is_inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_that_is_written_out() {
        for good in ["a", "a-b.example.", "a_b:1", "1.2.3.4:65535", "[::1]", "[::1]:80", "0xg"] {
            assert!(is_host(good), "{good}");
        }
        for bad in [
            "",
            ".",
            ":::",
            "::1",
            "[::1",
            "[1.2.3.4]",
            "a:",
            "a:b",
            "a:65536",
            "a..b",
            "a b",
            "127.1",
            "2130706433",
            "0x7f000001",
            "a.0x",
            "1.2.3.256",
            "a@b",
            "a[b]",
        ] {
            assert!(!is_host(bad), "{bad}");
        }
    }

    #[test]
    fn a_local_host_is_known_however_it_is_written() {
        for local in [
            "localhost",
            "LocalHost.:1",
            "a.localhost",
            "127.9.9.9",
            "0.0.0.0:1",
            "169.254.1.1",
            "127.0.0.1.",
            "[::1]:1",
            "[::]",
            "[fe80::1]",
            "[::ffff:127.0.0.1]",
        ] {
            assert!(is_local(local) && is_host(local), "{local}");
        }
        for other in ["localhost.example", "notlocalhost", "10.0.0.1", "[fd00::1]", "a:1"] {
            assert!(!is_local(other), "{other}");
        }
    }
}
