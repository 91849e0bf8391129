//! Which pages may talk to the door from a browser.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue, Uri, header, uri::Authority};

use crate::config::ConfigError;

/// The origins that are allowed.
#[derive(Clone, Debug)]
pub(crate) struct Origins {
    every: bool,
    listed: Vec<Origin>,
    /// Whether pages of the host that was asked may talk, where that host is this machine.
    own_loopback: bool,
}

/// A scheme and an authority with its port where that is not the scheme's usual one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    scheme: String,
    authority: String,
}

impl Origins {
    /// The origins in `texts`, for a door that listens on `ip`.
    pub(crate) fn parse(texts: &[String], ip: IpAddr) -> Result<Self, ConfigError> {
        let own_loopback = ip.is_loopback();
        let mut origins = Self { every: false, listed: Vec::new(), own_loopback };
        for text in texts {
            if text == "*" {
                origins.every = true;
            } else {
                let origin = Origin::parse(text);
                let refused = || ConfigError::Origin { origin: text.clone() };
                origins.listed.push(origin.ok_or_else(refused)?);
            }
        }
        Ok(origins)
    }

    /// Whether the page that sent these headers may talk here. Clients that are not browsers
    /// send no `Origin` and may.
    pub(crate) fn allow(&self, headers: &HeaderMap) -> bool {
        let Some(value) = headers.get(header::ORIGIN) else { return true };
        if self.every {
            return true;
        }
        let Some(origin) = value.to_str().ok().and_then(Origin::parse) else { return false };
        let host = headers.get(header::HOST);
        self.listed.contains(&origin) || (self.own_loopback && is_own_loopback(&origin, host))
    }
}

/// Whether the page came from where it now asks, by a name that can only mean this machine.
///
/// Any other name proves nothing: whoever owns it can let it point here once their page is
/// loaded, and then `Host` and `Origin` agree.
fn is_own_loopback(origin: &Origin, host: Option<&HeaderValue>) -> bool {
    // A proxy may have taken the TLS off, so the page's own scheme decides which port is usual.
    let host = host.and_then(|host| host.to_str().ok());
    host.is_some_and(|host| {
        is_loopback(host) && without_usual_port(&origin.scheme, host) == origin.authority
    })
}

fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host();
    let literal = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || literal.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

impl Origin {
    fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let scheme = uri.scheme_str()?.to_ascii_lowercase();
        let authority = uri.authority()?.as_str();
        let is_bare = uri.path() == "/" && uri.query().is_none() && !text.ends_with('/');
        (is_bare && !authority.contains('@'))
            .then(|| Self { authority: without_usual_port(&scheme, authority), scheme })
    }
}

fn without_usual_port(scheme: &str, authority: &str) -> String {
    let usual = match scheme {
        "https" | "wss" => ":443",
        _ => ":80",
    };
    authority.strip_suffix(usual).unwrap_or(authority).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn check(allowed: &[&str], host: &str, origin: Option<&str>, expected: bool) {
        check_at(LOOPBACK, allowed, host, origin, expected);
    }

    fn check_at(ip: IpAddr, allowed: &[&str], host: &str, origin: Option<&str>, expected: bool) {
        let allowed: Vec<String> = allowed.iter().map(|&text| text.to_owned()).collect();
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        let origins = Origins::parse(&allowed, ip).unwrap();
        assert_eq!(origins.allow(&headers), expected, "{allowed:?} {host} {origin:?}");
    }

    #[test]
    fn a_client_without_an_origin_and_a_page_of_this_machine_may_talk() {
        check(&[], "realm.local:8080", None, true);
        check(&[], "localhost:8080", Some("http://localhost:8080"), true);
        check(&[], "localhost", Some("https://LOCALHOST:443"), true);
        check(&[], "127.0.0.1:8080", Some("http://127.0.0.1:8080"), true);
        check(&[], "[::1]:8080", Some("http://[::1]:8080"), true);
        check(&[], "127.0.0.1:8080", Some("http://127.0.0.1:8081"), false);
        check(&[], "127.0.0.1:8080", Some("http://localhost:8080"), false);
    }

    #[test]
    fn a_name_that_points_at_this_machine_does_not_make_a_page_its_own() {
        check(&[], "rebound.example:8080", Some("http://rebound.example:8080"), false);
        check(&[], "127.0.0.1.example:80", Some("http://127.0.0.1.example"), false);
        let listed = &["http://rebound.example:8080"];
        check(listed, "rebound.example:8080", Some("http://rebound.example:8080"), true);
    }

    #[test]
    fn a_door_beyond_loopback_takes_no_page_for_its_own() {
        for ip in ["0.0.0.0", "::", "192.0.2.1"] {
            let ip = ip.parse().unwrap();
            check_at(ip, &[], "localhost:80", Some("http://localhost"), false);
            check_at(ip, &[], "realm.local", Some("https://realm.local"), false);
        }
    }

    #[test]
    fn a_page_of_another_host_may_talk_only_when_it_is_listed() {
        let page = Some("https://app.example.com");
        check(&[], "realm.local", page, false);
        check(&["https://app.example.com"], "realm.local", page, true);
        check(&["https://app.example.com:443"], "realm.local", page, true);
        check(&["http://app.example.com"], "realm.local", page, false);
        check(
            &["https://app.example.com"],
            "realm.local",
            Some("https://app.example.com:1"),
            false,
        );
        check(&["https://example.com"], "realm.local", page, false);
        check(&["*"], "realm.local", page, true);
    }

    #[test]
    fn the_null_origin_and_bytes_that_are_no_origin_are_refused() {
        check(&["https://a.example"], "realm.local", Some("null"), false);
        check(&[], "realm.local", Some("realm.local"), false);
        check(&[], "realm.local", Some("http://user@realm.local"), false);
        check(&[], "realm.local", Some("http://realm.local/path"), false);
    }
}
