//! Who is at the other end: the key of the upgrade request, or of the first frame.

use futures_util::{Stream, StreamExt as _};
use realm_core::{auth::Credential, name::TenantName, refusal::Refusal};
use realm_proto::ws::{ClientFrame, close};
use tokio::{sync::mpsc, time::timeout};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::End;
use crate::{door::Door, frame, metrics::STRANGER, places::Place, ws::Entrance};

/// How a socket that is not let in ends, and what it is told.
struct Turned {
    refusal: Option<Refusal>,
    end: End,
}

/// A socket that was let in.
pub(super) struct Passed {
    pub(super) credential: Credential,
    pub(super) tenant: String,
    /// Among the tenant's sockets.
    pub(super) place: Place<TenantName>,
}

/// Lets a socket in, or says how it ends.
pub(super) async fn pass(
    door: &Door,
    stream: &mut (impl Stream<Item = Result<Message, WsError>> + Unpin),
    outbox: &mpsc::Sender<Message>,
    entrance: Entrance,
) -> Result<Passed, End> {
    let shown = match entrance {
        Entrance::Known(credential, place) => Ok((credential, Some(place))),
        Entrance::Stranger(place) => {
            let shown = show(door, stream).await;
            drop(place);
            shown.map(|credential| (credential, None))
        }
    };
    let proven = shown.and_then(|(credential, place)| prove(door, credential, place));
    match proven {
        Ok(passed) => Ok(passed),
        Err(Turned { refusal, end }) => {
            if let Some(refusal) = refusal {
                door.count_refusal(STRANGER, "-", &refusal);
                // Fails only when the writer is gone, and then nobody is there to be told.
                drop(outbox.send(frame::encode_refusal(&refusal)).await);
            }
            Err(end)
        }
    }
}

/// Verifies the key, also one that was good a moment ago, and finds the socket its place.
fn prove(
    door: &Door,
    credential: Credential,
    place: Option<Place<TenantName>>,
) -> Result<Passed, Turned> {
    let turned = |refusal, end| Turned { refusal: Some(refusal), end };
    let caller = door.verify(credential).map_err(|refusal| {
        let end = if refusal == Refusal::Starting { STARTING } else { UNKNOWN };
        turned(refusal, end)
    })?;
    let place = match place {
        Some(place) => place,
        None => door.take_socket(&caller).map_err(|refusal| turned(refusal, NO_PLACE))?,
    };
    Ok(Passed { credential, tenant: caller.tenant().to_string(), place })
}

const NO_PLACE: End = End::close(close::TRY_AGAIN_LATER, "the tenant has too many sockets");

const STARTING: End = End::close(close::TRY_AGAIN_LATER, "the server is starting");

const UNKNOWN: End = End::close(close::UNAUTHENTICATED, "no good API key");

/// Waits for the frame with the key.
async fn show(
    door: &Door,
    stream: &mut (impl Stream<Item = Result<Message, WsError>> + Unpin),
) -> Result<Credential, Turned> {
    let first = tokio::select! {
        first = timeout(door.limits.auth_wait, first_message(stream)) => first,
        () = door.cut.cancelled() => {
            return Err(Turned { refusal: None, end: End::GOING_AWAY });
        }
    };
    let refusal = Some(Refusal::Unauthenticated);
    match first {
        Err(_) => Err(Turned { refusal, end: End::close(close::AUTH_TOO_LATE, "no key in time") }),
        Ok(None) => Err(Turned { refusal: None, end: End::Gone }),
        Ok(Some(message)) => match message.to_text().map(frame::decode) {
            Ok(Ok(ClientFrame::Auth { api_key })) => Ok(Credential::of(&api_key)),
            _ => Err(Turned { refusal, end: UNKNOWN }),
        },
    }
}

async fn first_message(
    stream: &mut (impl Stream<Item = Result<Message, WsError>> + Unpin),
) -> Option<Message> {
    loop {
        match stream.next().await?.ok()? {
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            Message::Close(_) => return None,
            message @ (Message::Text(_) | Message::Binary(_)) => return Some(message),
        }
    }
}
