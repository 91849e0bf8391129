//! The request for a layer: the registry is asked for the manifest, with a token where it wants
//! one ([`token`]), and the manifest for the layer ([`manifest`]).

mod manifest;
mod token;

use realm_core::desired::Sha256;
use reqwest::{
    Response, StatusCode, Url,
    header::{ACCEPT, HeaderValue},
};

use super::{Access, Request};
use crate::{
    error::SourceError,
    hash::Hasher,
    https::answer,
    source::{Image, OciReference},
    web::Web,
};

/// Largest manifest: the least that every registry must take, and more than any asks for.
const MANIFEST_BYTES_MAX: usize = 4 << 20;

/// The kinds of manifest that have layers, and the list of several, which is told apart.
const ACCEPTED: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.oci.image.index.v1+json";

/// Finds the layer that has the expected digest and makes the request for it.
pub(super) async fn request(
    image: &Image,
    web: &Web,
    access: &Access<'_>,
) -> Result<Request, SourceError> {
    let reference = image.reference.to_string();
    let url = place(image, "manifests", &reference);
    let (response, authorization) = ask(image, url, web, access).await?;
    let bytes = web.read(response, MANIFEST_BYTES_MAX).await?;
    check_manifest(&bytes, &image.reference)?;
    let layer = manifest::pick(&bytes, image.title.as_deref(), access.expected)?;
    let bytes_max = access.options.bytes_max;
    if layer.size > bytes_max {
        return Err(SourceError::TooLarge { bytes: layer.size, bytes_max });
    }
    let digest = format!("sha256:{}", access.expected);
    Ok(Request { url: place(image, "blobs", &digest), authorization })
}

/// The address of a manifest or a blob.
fn place(image: &Image, kind: &str, reference: &str) -> Url {
    let repository = image.repository.split('/');
    image.address.below(["v2"].into_iter().chain(repository).chain([kind, reference]))
}

/// Asks for a manifest; asks again, with an answer to its challenge, where the registry wants one.
///
/// Whoever the registry leads to may challenge too, but would name a token server of its own, to
/// which the login does not belong: that challenge is a refusal.
async fn ask(
    image: &Image,
    url: Url,
    web: &Web,
    access: &Access<'_>,
) -> Result<(Response, Option<HeaderValue>), SourceError> {
    let mut request = Request { url, authorization: None };
    let mut response = web.send(web.get(&request).header(ACCEPT, ACCEPTED), 0).await?;
    let is_registry = response.url().origin() == image.address.url.origin();
    if response.status() == StatusCode::UNAUTHORIZED && is_registry {
        let login = access.credentials.registry_logins.get(&image.registry);
        let scope = format!("repository:{}:pull", image.repository);
        let challenge = token::challenge(response.headers())?;
        request.authorization = Some(token::answer(&challenge, &scope, login, web).await?);
        response = web.send(web.get(&request).header(ACCEPT, ACCEPTED), 0).await?;
    }
    match response.status() {
        StatusCode::OK => Ok((response, request.authorization)),
        status => Err(answer::refusal(status, response.headers())),
    }
}

/// A manifest that was named by its digest must have it.
fn check_manifest(bytes: &[u8], reference: &OciReference) -> Result<(), SourceError> {
    let OciReference::Digest(expected) = *reference else { return Ok(()) };
    let found: Sha256 = {
        let mut hasher = Hasher::default();
        hasher.update(bytes);
        hasher.digest()
    };
    if found == expected {
        return Ok(());
    }
    let why = format!("the manifest has sha256 {found}, not {expected}");
    Err(SourceError::Malformed { why })
}
