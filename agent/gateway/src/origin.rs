//! Which pages may talk to the door from a browser.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use http::{HeaderMap, HeaderValue, Uri, header};

use crate::config::ConfigError;

/// The origins that are allowed besides the door's own host.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origins {
    every: bool,
    listed: Vec<Origin>,
}

/// A scheme and an authority with its port where that is not the scheme's usual one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    scheme: String,
    authority: String,
}

impl Origins {
    pub(crate) fn parse(texts: &[String]) -> Result<Self, ConfigError> {
        let mut origins = Self::default();
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
        self.listed.contains(&origin) || is_own_host(&origin, headers.get(header::HOST))
    }
}

fn is_own_host(origin: &Origin, host: Option<&HeaderValue>) -> bool {
    // A proxy may have taken the TLS off, so the page's own scheme decides which port is usual.
    let host = host.and_then(|host| host.to_str().ok());
    host.is_some_and(|host| without_usual_port(&origin.scheme, host) == origin.authority)
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
    use super::*;

    fn check(allowed: &[&str], host: &str, origin: Option<&str>, expected: bool) {
        let allowed: Vec<String> = allowed.iter().map(|&text| text.to_owned()).collect();
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        let origins = Origins::parse(&allowed).unwrap();
        assert_eq!(origins.allow(&headers), expected, "{allowed:?} {host} {origin:?}");
    }

    #[test]
    fn a_client_without_an_origin_and_a_page_of_the_same_host_may_talk() {
        check(&[], "realm.local:8080", None, true);
        check(&[], "realm.local:8080", Some("http://realm.local:8080"), true);
        check(&[], "realm.local", Some("https://REALM.local:443"), true);
        check(&[], "[::1]:8080", Some("http://[::1]:8080"), true);
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
