//! What a registry wants to see: its challenge, and the answer to it.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http_auth::parser::ChallengeParser;
use realm_core::credentials::{RegistryLogin, Secret};
use reqwest::{
    StatusCode, Url,
    header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE},
};
use serde::Deserialize;

use super::super::{Request, authorization, bearer};
use crate::{error::SourceError, https::answer, web::Web};

/// Largest answer of a token server: servers take no header nearly as long as that.
const TOKEN_BYTES_MAX: usize = 64 << 10;

/// How a registry wants to be answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// With a token that the server at `realm` gives.
    Bearer { realm: Url, service: Option<String> },
    /// With user and password.
    Basic,
}

/// What a token server answers: the one name or the other.
#[derive(Deserialize)]
struct Granted {
    token: Option<String>,
    access_token: Option<String>,
}

/// The first challenge that can be answered.
pub(crate) fn challenge(headers: &HeaderMap) -> Result<Challenge, SourceError> {
    let texts = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    let challenges = texts.flat_map(|text| ChallengeParser::new(text).map_while(Result::ok));
    for challenge in challenges {
        let param = |name: &str| {
            let mut params = challenge.params.iter();
            params.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| v.to_unescaped())
        };
        if challenge.scheme.eq_ignore_ascii_case("bearer")
            && let Some(Ok(realm)) = param("realm").map(|realm| Url::parse(&realm))
        {
            return Ok(Challenge::Bearer { realm, service: param("service") });
        }
        if challenge.scheme.eq_ignore_ascii_case("basic") {
            return Ok(Challenge::Basic);
        }
    }
    Err(SourceError::Unauthorized { status: StatusCode::UNAUTHORIZED.as_u16() })
}

/// Makes the header that answers the challenge, for as much as `scope` and no more.
pub(crate) async fn answer(
    challenge: &Challenge,
    scope: &str,
    login: Option<&RegistryLogin>,
    web: &Web,
) -> Result<HeaderValue, SourceError> {
    let basic = login.map(basic).transpose()?;
    match challenge {
        Challenge::Basic => {
            let status = StatusCode::UNAUTHORIZED.as_u16();
            basic.ok_or(SourceError::Unauthorized { status })
        }
        Challenge::Bearer { realm, service } => {
            let mut url = realm.clone();
            web.check(&url)?;
            if let Some(service) = service {
                url.query_pairs_mut().append_pair("service", service);
            }
            url.query_pairs_mut().append_pair("scope", scope);
            token(&Request { url, authorization: basic }, web).await
        }
    }
}

async fn token(request: &Request, web: &Web) -> Result<HeaderValue, SourceError> {
    let response = web.send(web.get(request), 0).await?;
    if response.status() != StatusCode::OK {
        return Err(answer::refusal(response.status(), response.headers()));
    }
    let bytes = web.read(response, TOKEN_BYTES_MAX).await?;
    // What cannot be read is not shown either: it may hold a token all the same.
    let malformed = || SourceError::Malformed { why: "the token server gave no token".to_owned() };
    let granted: Granted = serde_json::from_slice(&bytes).map_err(|_| malformed())?;
    let token = granted.token.or(granted.access_token).ok_or_else(malformed)?;
    bearer(&Secret::new(token))
}

fn basic(login: &RegistryLogin) -> Result<HeaderValue, SourceError> {
    let plain = [login.user.expose(), ":", login.password.expose()].concat();
    authorization(&format!("Basic {}", BASE64_STANDARD.encode(plain)), "the login")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(values: &[&str]) -> Result<Challenge, SourceError> {
        let values = values.iter().filter_map(|value| HeaderValue::from_str(value).ok());
        challenge(&values.map(|value| (WWW_AUTHENTICATE, value)).collect())
    }

    #[test]
    fn the_first_challenge_that_can_be_answered_is_taken() {
        let bearer = |service: Option<&str>| Challenge::Bearer {
            realm: "https://auth.example/token".parse().unwrap(),
            service: service.map(str::to_owned),
        };
        let token = r#"Bearer realm="https://auth.example/token",service="a, b",scope="x""#;
        assert_eq!(read(&[token]).unwrap(), bearer(Some("a, b")));
        assert_eq!(read(&["bearer Realm=\"https://auth.example/token\""]).unwrap(), bearer(None));
        assert_eq!(read(&["Negotiate", token]).unwrap(), bearer(Some("a, b")));
        assert_eq!(read(&["Basic realm=\"a\""]).unwrap(), Challenge::Basic);
        assert_eq!(
            read(&["Bearer realm=\"/token\"", "Basic realm=\"\""]).unwrap(),
            Challenge::Basic
        );
        assert_eq!(read(&[]).unwrap_err().reason(), "SourceUnauthorized");
        for bad in ["Digest realm=\"a\"", "Bearer", "\"\""] {
            assert_eq!(read(&[bad]).unwrap_err().reason(), "SourceUnauthorized", "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_challenge_is_read_or_refused(text in "(Bearer|Basic|\\PC{0,9}) \\PC{0,60}") {
            let _ = read(&[&text]).is_ok();
        }
    }
}
