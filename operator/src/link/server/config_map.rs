//! An entry of a ConfigMap, to the agent that is to run it: who may have it, and its way there.

use std::{pin::Pin, time::Duration};

use futures_util::{Stream, stream};
use realm_plan::desired::Sha256;
use realm_proto::link::v1 as proto;
use tokio::{sync::mpsc, time::timeout};
use tonic::{Code, Status};

use super::ending;
use crate::{
    config_maps::{ConfigMapError, ConfigMaps, Entry, Place},
    link::registry::Registry,
};

/// Bytes of one piece: what a stream sends before its reader has to answer.
const PIECE_BYTES: usize = 64 << 10;

/// Longest time for all of an entry: half a megabit a second. Who is slower than that would keep a
/// turn that others wait for, and asks again.
const SEND_WAIT: Duration = Duration::from_secs(17);

/// The pieces of one entry.
pub(super) type Pieces = Pin<Box<dyn Stream<Item = Result<proto::ConfigMapPiece, Status>> + Send>>;

/// Reads what the agent of `node` asks for, if that is where a program of its node comes from.
pub(super) async fn read(
    request: proto::ConfigMapRequest,
    node: &str,
    (registry, config_maps): (&Registry, &ConfigMaps),
) -> Result<Pieces, Status> {
    let proto::ConfigMapRequest { namespace, source, sha256 } = request;
    let digest = <[u8; 32]>::try_from(sha256.as_slice()).map(Sha256);
    let digest = digest.map_err(|_| Status::invalid_argument("a SHA-256 digest has 32 bytes"))?;
    match registry.has_program(node, (&namespace, &source, digest)) {
        Some(true) => {}
        Some(false) => {
            let message = "no program that this node runs is to come from there";
            return Err(Status::permission_denied(message));
        }
        None => {
            let message = "the operator has not planned for this node yet";
            return Err(Status::unavailable(message));
        }
    }
    let place = source.strip_prefix("configmap://").and_then(|rest| rest.split_once('/'));
    let (name, key) = place.ok_or_else(|| Status::invalid_argument("no configmap://name/key"))?;
    let place = Place { namespace: &namespace, name, key };
    match config_maps.read(node, place, digest).await {
        Ok(entry) => Ok(send(entry)),
        Err(error) => Err(Status::new(code(&error), ending::chain(&error))),
    }
}

const fn code(error: &ConfigMapError) -> Code {
    match error {
        ConfigMapError::Refused { .. } => Code::PermissionDenied,
        ConfigMapError::Absent { .. }
        | ConfigMapError::NoEntry { .. }
        | ConfigMapError::Text { .. } => Code::NotFound,
        ConfigMapError::TooLarge { .. } => Code::OutOfRange,
        ConfigMapError::OtherDigest { .. } => Code::FailedPrecondition,
        ConfigMapError::Read { .. } | ConfigMapError::TimedOut | ConfigMapError::Busy => {
            Code::Unavailable
        }
    }
}

/// The entry in pieces. It is in memory, and has its turn, until it has been sent, nobody hears it
/// any more, or its time is over, whether or not anybody reads.
fn send(entry: Entry) -> Pieces {
    let (sender, pieces) = mpsc::channel(1);
    tokio::spawn(async move {
        let Entry { bytes, turn } = entry;
        let sent = timeout(SEND_WAIT, async {
            for piece in pieces_of(&bytes) {
                if sender.send(Ok(piece)).await.is_err() {
                    return;
                }
            }
        });
        if sent.await.is_err() {
            tracing::debug!("an entry of a ConfigMap was not taken in time");
        }
        drop(turn);
    });
    Box::pin(stream::unfold(pieces, |mut pieces| async move {
        let piece = pieces.recv().await?;
        Some((piece, pieces))
    }))
}

/// At least one piece, the last of which says that it is.
fn pieces_of(bytes: &[u8]) -> impl Iterator<Item = proto::ConfigMapPiece> {
    let mut rest = Some(bytes);
    std::iter::from_fn(move || {
        let (content, left) = {
            let bytes = rest.take()?;
            bytes.split_at(bytes.len().min(PIECE_BYTES))
        };
        rest = (!left.is_empty()).then_some(left);
        let bytes_left = u32::try_from(left.len()).unwrap_or(u32::MAX);
        Some(proto::ConfigMapPiece { content: content.to_vec(), bytes_left })
    })
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, StreamExt as _};

    use super::*;
    use crate::config_maps::turns::Turns;

    #[test]
    fn the_last_piece_says_that_it_is() {
        for count in [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES] {
            let bytes: Vec<u8> = (0..251).cycle().take(count).collect();
            let pieces: Vec<_> = pieces_of(&bytes).collect();
            assert_eq!(pieces.len(), count.div_ceil(PIECE_BYTES).max(1));
            let ends: Vec<_> = pieces.iter().map(|piece| piece.bytes_left == 0).collect();
            assert!(ends.iter().rev().skip(1).all(|is_end| !is_end) && ends.ends_with(&[true]));
            let sent: Vec<u8> = pieces.into_iter().flat_map(|piece| piece.content).collect();
            assert_eq!(sent, bytes);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_keeps_no_turn_for_good() {
        let turns = Turns::default();
        let turn = turns.take("slow").await.unwrap();
        let pieces = send(Entry { bytes: vec![7; 9 * PIECE_BYTES], turn });
        assert!(turns.take("slow").now_or_never().is_none());
        let freed = timeout(2 * SEND_WAIT, turns.take("slow")).await;
        assert!(freed.unwrap().is_some());
        let sent: Vec<_> = pieces.map(|piece| piece.unwrap().bytes_left).collect().await;
        assert!(sent.iter().all(|left| *left > 0), "what was not sent is not called whole");
    }
}
