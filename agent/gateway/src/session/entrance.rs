//! Who is at the other end: the key of the upgrade request, or of the first frame.

use futures_util::{Stream, StreamExt as _};
use realm_core::{auth::Credential, refusal::Refusal};
use realm_proto::ws::{ClientFrame, close};
use tokio::{sync::mpsc, time::timeout};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::End;
use crate::{door::Door, frame, metrics::STRANGER, ws::Entrance};

/// How a socket that is not let in ends, and what it is told.
struct Turned {
    refusal: Option<Refusal>,
    end: End,
}

/// Lets a socket in, with its key and its tenant's name, or says how it ends.
pub(super) async fn pass(
    door: &Door,
    stream: &mut (impl Stream<Item = Result<Message, WsError>> + Unpin),
    outbox: &mpsc::Sender<Message>,
    entrance: Entrance,
) -> Result<(Credential, String), End> {
    let shown = match entrance {
        Entrance::Known(credential) => Ok(credential),
        Entrance::Stranger(place) => {
            let shown = show(door, stream).await;
            drop(place);
            shown
        }
    };
    let proven = shown.and_then(|credential| match door.verify(credential) {
        Ok(caller) => Ok((credential, caller.tenant().to_string())),
        Err(refusal) => Err(Turned { refusal: Some(refusal), end: UNKNOWN }),
    });
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
