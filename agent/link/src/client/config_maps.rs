//! What ConfigMaps hold, asked of the operator that this agent is connected to.
//!
//! One at a time: a megabyte comes in milliseconds, and who asks for many should not be what the
//! operator is busy with. Where there is no operator nobody waits for one: whoever asks asks again,
//! later each time.

use std::{convert::Infallible, path::Path, time::Duration};

use realm_core::config_maps::{Ask, ConfigMapError, ConfigMapErrorKind, WantedEntry};
use realm_proto::link::{CONFIG_MAP_BYTES_MAX, v1 as proto};
use tokio::{
    sync::{mpsc, watch},
    time,
};
use tonic::{Code, Request, Status};

use super::dial::{self, Dialled};

/// Longest wait for an entry: ten seconds for the API server's answer, as many for a turn at the
/// operator, and the time that the operator has to send a megabyte.
const READ_WAIT: Duration = Duration::from_secs(40);

/// Answers each ask in turn, by the connection of the stream that there is then.
pub(super) async fn answer(
    mut asks: mpsc::Receiver<Ask>,
    operator: watch::Receiver<Option<Dialled>>,
    token_file: &Path,
) -> Infallible {
    while let Some(Ask { wanted, mut answer }) = asks.recv().await {
        let dialled = operator.borrow().clone();
        let read = tokio::select! {
            read = read(dialled, wanted, token_file) => read,
            () = answer.closed() => continue,
        };
        // Who asked may have gone this moment.
        let _ = answer.send(read);
    }
    // Nobody can ask any more.
    std::future::pending().await
}

async fn read(
    dialled: Option<Dialled>,
    wanted: WantedEntry,
    token_file: &Path,
) -> Result<Vec<u8>, ConfigMapError> {
    let Some(dialled) = dialled else {
        return Err(away("there is no link to an operator, which alone reads ConfigMaps"));
    };
    let read = time::timeout(READ_WAIT, receive(dialled, wanted, token_file)).await;
    read.unwrap_or_else(|_| {
        let seconds = READ_WAIT.as_secs();
        Err(away(&format!("the operator did not bring it within {seconds} seconds")))
    })
}

async fn receive(
    dialled: Dialled,
    wanted: WantedEntry,
    token_file: &Path,
) -> Result<Vec<u8>, ConfigMapError> {
    let Dialled { mut client, .. } = dialled;
    // The token that the stream began with may be over, and there is another one in its file by then.
    let bearer = dial::bearer(token_file).await.map_err(|error| away(&error.to_string()))?;
    let WantedEntry { namespace, source, sha256 } = wanted;
    let wanted = proto::ConfigMapRequest { namespace, source, sha256: sha256.0.to_vec() };
    let mut request = Request::new(wanted);
    request.metadata_mut().insert("authorization", bearer);
    let opened = client.read_config_map(request).await;
    let mut pieces = opened.map_err(|status| not_read(&status))?.into_inner();
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.message().await.map_err(|status| not_read(&status))? {
        let proto::ConfigMapPiece { content, bytes_left } = piece;
        bytes.extend_from_slice(&content);
        if bytes.len() > CONFIG_MAP_BYTES_MAX {
            let message = format!("the operator sends more than {CONFIG_MAP_BYTES_MAX} bytes");
            return Err(ConfigMapError { kind: ConfigMapErrorKind::TooLarge, message });
        }
        if bytes_left == 0 {
            return Ok(bytes);
        }
    }
    Err(away("the operator broke off before its end"))
}

fn away(message: &str) -> ConfigMapError {
    ConfigMapError { kind: ConfigMapErrorKind::Unreachable, message: message.to_owned() }
}

/// What a status of the operator means.
fn not_read(status: &Status) -> ConfigMapError {
    let kind = match status.code() {
        Code::NotFound => ConfigMapErrorKind::NotFound,
        Code::OutOfRange => ConfigMapErrorKind::TooLarge,
        Code::FailedPrecondition => ConfigMapErrorKind::OtherDigest,
        Code::PermissionDenied => ConfigMapErrorKind::NotAllowed,
        Code::Unimplemented => {
            let message = "the operator is of a release that reads no ConfigMaps".to_owned();
            return ConfigMapError { kind: ConfigMapErrorKind::NotAllowed, message };
        }
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::InvalidArgument
        | Code::DeadlineExceeded
        | Code::AlreadyExists
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss
        | Code::Unauthenticated => ConfigMapErrorKind::Unreachable,
    };
    ConfigMapError { kind, message: status.message().to_owned() }
}

#[cfg(test)]
mod tests {
    use realm_core::{config_maps, desired::Sha256};

    use super::*;

    #[test]
    fn an_operator_of_an_older_release_is_told_from_one_that_is_away() {
        let older = not_read(&Status::unimplemented(""));
        assert_eq!(older.kind, ConfigMapErrorKind::NotAllowed);
        assert!(older.message.contains("release"), "{older}");
        let gone = not_read(&Status::unavailable("this operator does not lead"));
        assert_eq!(gone.kind, ConfigMapErrorKind::Unreachable);
    }

    #[tokio::test]
    async fn without_an_operator_nobody_waits() {
        let (reader, asks) = config_maps::channel();
        let (_operator, connected) = watch::channel(None);
        let answering =
            tokio::spawn(async move { answer(asks, connected, Path::new("token")).await });
        let source = "configmap://programs/a.wasm".to_owned();
        let sha256 = Sha256([7; 32]);
        let wanted = WantedEntry { namespace: "acme".to_owned(), source, sha256 };
        for _ in 0..2 {
            let error = reader.read(wanted.clone()).await.unwrap_err();
            assert_eq!(error.kind, ConfigMapErrorKind::Unreachable, "{error}");
        }
        answering.abort();
    }
}
