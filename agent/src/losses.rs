//! Models whose engines have given up.

use realm_core::name::ModelName;
use tokio::sync::{Mutex, mpsc, watch};

/// Losses that wait to be taken. Whoever finds no room waits too, one task for each loaded model.
const LOSSES_BUFFERED_MAX: usize = 16;

/// Collects what the watches of all engines see.
#[derive(Debug)]
pub(crate) struct Losses {
    sender: mpsc::Sender<ModelName>,
    receiver: Mutex<mpsc::Receiver<ModelName>>,
}

impl Losses {
    pub(crate) fn new() -> Self {
        let (sender, receiver) = mpsc::channel(LOSSES_BUFFERED_MAX);
        Self { sender, receiver: Mutex::new(receiver) }
    }

    /// Watches an engine until it has failed or is gone.
    pub(crate) fn watch(&self, name: ModelName, mut failed: watch::Receiver<bool>) {
        let sender = self.sender.clone();
        tokio::spawn(async move {
            if failed.wait_for(|has_failed| *has_failed).await.is_ok() {
                // The agent itself may be gone.
                let _ = sender.send(name).await;
            }
        });
    }

    /// The next model that was lost.
    pub(crate) async fn next(&self) -> ModelName {
        match self.receiver.lock().await.recv().await {
            Some(name) => name,
            // This holds a sender, so the channel never closes.
            None => std::future::pending().await,
        }
    }
}
