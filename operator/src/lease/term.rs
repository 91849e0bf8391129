//! How long a Lease is ours.
//!
//! Others count from when the API server wrote it, which is not before this operator began to ask
//! and may be long before it hears the answer: so it counts from when it began, for the write that
//! takes the Lease as for those that renew it.

use tokio::time::{Instant, sleep_until, timeout_at};

use super::{Held, LeaseError, RENEW_DEADLINE, RETRY};

/// A Lease that has been taken.
#[derive(Debug)]
pub(super) struct Won {
    pub(super) held: Held,
    /// When the try began that took it.
    pub(super) began: Instant,
}

/// Tries until the Lease is ours.
pub(super) async fn win(mut attempt: impl AsyncFnMut() -> Result<Option<Held>, LeaseError>) -> Won {
    loop {
        let began = Instant::now();
        match within(began + RENEW_DEADLINE, attempt()).await {
            Ok(Some(held)) => return Won { held, began },
            Ok(None) => {}
            Err(error) if error.is_conflict() => tracing::debug!("another operator was faster"),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "no word of the Lease");
            }
        }
        sleep_until(began + RETRY).await;
    }
}

/// Renews for as long as that goes well, a Lease that was taken by a try that `began` then.
pub(super) async fn keep(
    mut began: Instant,
    mut attempt: impl AsyncFnMut() -> Result<Option<Held>, LeaseError>,
) -> LeaseError {
    let mut deadline = began + RENEW_DEADLINE;
    loop {
        sleep_until(deadline.min(began + RETRY)).await;
        began = Instant::now();
        if began >= deadline {
            return LeaseError::TimedOut { waited: RENEW_DEADLINE };
        }
        match within(deadline, attempt()).await {
            Ok(Some(_)) => deadline = began + RENEW_DEADLINE,
            Ok(None) => return LeaseError::Taken,
            Err(error) if Instant::now() >= deadline => return error,
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "renewing again");
            }
        }
    }
}

/// What a try gives before `deadline`. One that ends later may have been taken by the API server,
/// but too long ago to lead by it.
async fn within(
    deadline: Instant,
    attempt: impl Future<Output = Result<Option<Held>, LeaseError>>,
) -> Result<Option<Held>, LeaseError> {
    match timeout_at(deadline, attempt).await {
        Ok(Ok(Some(held))) if Instant::now() < deadline => Ok(Some(held)),
        Ok(Ok(Some(_))) | Err(_) => Err(LeaseError::TimedOut { waited: RENEW_DEADLINE }),
        Ok(other) => other,
    }
}

#[cfg(test)]
mod tests;
