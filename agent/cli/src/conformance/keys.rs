//! Comes to every door with keys that are none.

use std::time::Duration;

use realm_conformance::{
    draw::Draw,
    keys::{self, Tried},
    report::Check,
};
use reqwest::{
    Client, Method, RequestBuilder, Response, StatusCode,
    header::{
        AUTHORIZATION, CONNECTION, CONTENT_TYPE, DATE, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
        SEC_WEBSOCKET_VERSION, UPGRADE,
    },
    redirect::Policy,
};

use super::Site;
use crate::door::{self, CONNECT_WAIT_MAX, DoorError};

/// How long a door may take to refuse a key.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(30);

/// What is read of an answer: a refusal is a few hundred bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// The doors that take a key in a header: what they are called, and what is asked of them.
const DOORS: [(&str, Method, &str); 3] = [
    ("/v1/models", Method::GET, "/models"),
    ("/v1/chat/completions", Method::POST, "/chat/completions"),
    ("/v1/ws", Method::GET, WEBSOCKET),
];

const WEBSOCKET: &str = "/ws";

/// The door that takes a key in a frame.
const FIRST_FRAME: &str = "the first frame of /v1/ws";

/// A handshake's key, of which a door that refuses makes nothing: sixteen zero bytes.
const NONCE: &str = "AAAAAAAAAAAAAAAAAAAAAA==";

/// A wrong key, and where it is put.
struct Wrong {
    name: &'static str,
    key: Option<String>,
    query: String,
}

pub(super) async fn measure(site: &Site, tenants: [&str; 2]) -> Result<Check, DoorError> {
    let client = client(site)?;
    let mut tried = Vec::new();
    for wrong in wrong_keys(site) {
        for (door, method, path) in DOORS {
            // Who upgrades without a key is asked for it in the first frame.
            if path == WEBSOCKET && wrong.key.is_none() {
                continue;
            }
            let url = format!("{}{path}{}", site.door.http(), wrong.query);
            let request = asked(client.request(method, url), path);
            tried.push(knock(site, request, door, &wrong).await?);
        }
        if let Some(key) = &wrong.key {
            tried.push(introduce(site, wrong.name, key).await?);
        }
    }
    Ok(keys::judge(tenants, &tried))
}

fn wrong_keys(site: &Site) -> Vec<Wrong> {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut draw = Draw::new(site.seed);
    let letters = (0..43).filter_map(|_| LETTERS.get(draw.below(LETTERS.len())));
    let unknown =
        letters.fold("rk_".to_owned(), |key, letter| key + &char::from(*letter).to_string());
    let mut cut = site.key.clone();
    let last = cut.pop();
    let other = if last == Some('A') { 'Q' } else { 'A' };
    let near = format!("{cut}{other}");
    let wrong = |name, key| Wrong { name, key: Some(key), query: String::new() };
    vec![
        Wrong { name: "no key", key: None, query: String::new() },
        wrong("a key that nobody has", unknown),
        wrong("a key with another last letter", near),
        wrong("a key without its last letter", cut),
        wrong("two keys at once", format!("{}, Bearer {}", site.key, site.other_key)),
        // Addresses end up in logs of proxies.
        Wrong {
            name: "a key in the address",
            key: None,
            query: format!("?api_key={0}&key={0}&access_token={0}", site.key),
        },
    ]
}

fn client(site: &Site) -> Result<Client, DoorError> {
    let builder = Client::builder()
        .tls_backend_preconfigured(site.door.tls()?)
        .connect_timeout(CONNECT_WAIT_MAX)
        .timeout(ANSWER_WAIT_MAX)
        .redirect(Policy::none())
        .no_proxy()
        .referer(false);
    builder.build().map_err(failed)
}

/// What is asked of a door whose answer does not matter.
fn asked(request: RequestBuilder, path: &str) -> RequestBuilder {
    match path {
        WEBSOCKET => request
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_VERSION, "13")
            .header(SEC_WEBSOCKET_KEY, NONCE)
            .header(SEC_WEBSOCKET_PROTOCOL, "realm.v1"),
        _ => request.header(CONTENT_TYPE, "application/json").body("{}"),
    }
}

async fn knock(
    site: &Site,
    request: RequestBuilder,
    door: &'static str,
    wrong: &Wrong,
) -> Result<Tried, DoorError> {
    let request = match &wrong.key {
        Some(key) => request.header(AUTHORIZATION, door::bearer(key)?),
        None => request,
    };
    let answer = request.send().await.map_err(failed)?;
    let status = answer.status();
    let told = told(answer).await?;
    let is_refused = status == StatusCode::UNAUTHORIZED;
    let is_repeated = is_repeated(site, wrong.key.as_deref(), &told);
    Ok(Tried { key: wrong.name, door, is_refused, told, is_repeated })
}

/// Status, headers and body, but for the time of day.
async fn told(mut answer: Response) -> Result<String, DoorError> {
    let mut headers: Vec<_> = answer
        .headers()
        .iter()
        .filter(|(name, _)| *name != DATE)
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
        .collect();
    headers.sort_unstable();
    let mut body = Vec::new();
    // What switches protocols has no body, and no end.
    while answer.status() != StatusCode::SWITCHING_PROTOCOLS && body.len() < ANSWER_BYTES_MAX {
        match answer.chunk().await.map_err(failed)? {
            Some(chunk) => body.extend_from_slice(&chunk),
            None => break,
        }
    }
    let body = String::from_utf8_lossy(&body).into_owned();
    Ok(format!("{}\n{}\n{body}", answer.status(), headers.join("\n")))
}

/// Without the address, which may hold a key.
fn failed(error: reqwest::Error) -> DoorError {
    DoorError::Http { source: error.without_url() }
}

/// Whether an answer holds the key that was shown, or a good one.
fn is_repeated(site: &Site, shown: Option<&str>, told: &str) -> bool {
    let mut keys = [shown, Some(&site.key), Some(&site.other_key)].into_iter().flatten();
    keys.any(|key| told.contains(key))
}

async fn introduce(site: &Site, name: &'static str, key: &str) -> Result<Tried, DoorError> {
    let told = match site.door.open_late(key).await {
        Ok(_) => None,
        Err(refused @ DoorError::Unauthenticated) => Some(refused.to_string()),
        Err(error) => return Err(error),
    };
    let is_refused = told.is_some();
    let told = told.unwrap_or_default();
    let is_repeated = is_repeated(site, Some(key), &told);
    Ok(Tried { key: name, door: FIRST_FRAME, is_refused, told, is_repeated })
}
