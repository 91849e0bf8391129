//! What ConfigMaps of the cluster hold, asked of whoever may read them: an agent may not.
//!
//! Who needs an entry [asks](ConfigMaps::read), and waits where others have asked before; who has a
//! link to somebody that reads them answers each [`Ask`] in turn.

use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use crate::desired::Sha256;

/// Asks that wait: as many as programs are fetched at once. Whoever finds no room waits for it.
const ASKS_MAX: usize = 16;

/// A way to ask. Clones are the same way.
#[derive(Clone, Debug)]
pub struct ConfigMaps(mpsc::Sender<Ask>);

/// Somebody who waits for an entry.
#[derive(Debug)]
pub struct Ask {
    pub wanted: WantedEntry,
    pub answer: oneshot::Sender<Result<Vec<u8>, ConfigMapError>>,
}

/// The entry of a ConfigMap that a program is to come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedEntry {
    /// Of the program's tenant, and so of the ConfigMap.
    pub namespace: String,
    /// As the program's artifact has it.
    pub source: String,
    pub sha256: Sha256,
}

/// Why an entry was not read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{message}")]
pub struct ConfigMapError {
    pub kind: ConfigMapErrorKind,
    /// A sentence.
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigMapErrorKind {
    /// Nobody is there who could read it, or could now.
    Unreachable,
    NotAllowed,
    NotFound,
    TooLarge,
    OtherDigest,
}

/// A way to ask, and the asks that come by it.
pub fn channel() -> (ConfigMaps, mpsc::Receiver<Ask>) {
    let (sender, asks) = mpsc::channel(ASKS_MAX);
    (ConfigMaps(sender), asks)
}

impl ConfigMaps {
    /// The bytes of an entry. Their digest is the reader's to check.
    pub async fn read(&self, wanted: WantedEntry) -> Result<Vec<u8>, ConfigMapError> {
        let (answer, answered) = oneshot::channel();
        // Where nobody takes the ask, nobody answers it either.
        let _ = self.0.send(Ask { wanted, answer }).await;
        answered.await.unwrap_or_else(|_| {
            let message = "nobody reads ConfigMaps for this agent".to_owned();
            Err(ConfigMapError { kind: ConfigMapErrorKind::Unreachable, message })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> WantedEntry {
        let source = "configmap://programs/a.wasm".to_owned();
        WantedEntry { namespace: "acme".to_owned(), source, sha256: Sha256([7; 32]) }
    }

    #[tokio::test]
    async fn an_ask_is_answered_by_whoever_takes_it_and_refused_where_nobody_does() {
        let (config_maps, mut asks) = channel();
        let answering = async {
            let Ask { wanted: asked, answer } = asks.recv().await.expect("somebody asks");
            assert_eq!(asked, wanted());
            answer.send(Ok(vec![1, 2])).expect("who asked waits");
        };
        let (read, ()) = tokio::join!(config_maps.read(wanted()), answering);
        assert_eq!(read, Ok(vec![1, 2]));
        let dropping = async { drop(asks.recv().await) };
        let (read, ()) = tokio::join!(config_maps.read(wanted()), dropping);
        assert_eq!(read.map_err(|error| error.kind), Err(ConfigMapErrorKind::Unreachable));
        drop(asks);
        let read = config_maps.read(wanted()).await;
        assert_eq!(read.map_err(|error| error.kind), Err(ConfigMapErrorKind::Unreachable));
    }
}
