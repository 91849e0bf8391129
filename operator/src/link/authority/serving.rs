//! The TLS of the operator's door: short-lived certificates, changed while connections live.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{ServerConfig, crypto::ring, version::TLS13};
use thiserror::Error;
use tokio::sync::watch;

use super::{Authority, AuthorityError, issue::Leaf};

/// The wait after a certificate could not be made; what is in use is good for hours more.
const RETRY_EVERY: Duration = Duration::from_mins(1);

/// Why the door has no certificate.
#[derive(Debug, Error)]
pub enum ServingError {
    #[error("issue a certificate for the operator's door")]
    Issue(#[source] AuthorityError),
    #[error("the certificate for the operator's door cannot be used")]
    Use(#[source] rustls::Error),
}

/// The newest certificate of the door, renewed at two thirds of its life and with each change of
/// the authority.
pub struct Serving {
    authority: watch::Receiver<Arc<Authority>>,
    names: Vec<String>,
    current: watch::Sender<Arc<ServerConfig>>,
    renew_at: SystemTime,
}

impl Serving {
    /// Issues the first certificate, for a door that agents know by the host names `names`.
    pub fn start(
        mut authority: watch::Receiver<Arc<Authority>>,
        names: Vec<String>,
    ) -> Result<Self, ServingError> {
        let newest = authority.borrow_and_update().clone();
        let (config, renew_at) = issue(&newest, &names, SystemTime::now())?;
        Ok(Self { authority, names, current: watch::Sender::new(config), renew_at })
    }

    /// What new connections are served with.
    pub fn current(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.current.subscribe()
    }

    /// Renews for as long as there is an authority.
    pub async fn follow(mut self) {
        loop {
            let wait = self.renew_at.duration_since(SystemTime::now()).unwrap_or_default();
            tokio::select! {
                changed = self.authority.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(wait) => {}
            }
            let now = SystemTime::now();
            let newest = self.authority.borrow_and_update().clone();
            match issue(&newest, &self.names, now) {
                Ok((config, renew_at)) => {
                    self.current.send_replace(config);
                    self.renew_at = renew_at;
                    tracing::info!("new certificate for the agents' door in use");
                }
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::error!(%error, cause, "the old certificate stays in use");
                    self.renew_at = now + RETRY_EVERY;
                }
            }
        }
    }
}

fn issue(
    authority: &Authority,
    names: &[String],
    now: SystemTime,
) -> Result<(Arc<ServerConfig>, SystemTime), ServingError> {
    let Leaf { certificate, key, renew_at } =
        authority.issue_serving(names, now).map_err(ServingError::Issue)?;
    // The provider is named here because a process-wide default would be global state.
    // Both ends are ours, so there is no older version to speak.
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![certificate], key))
        .map_err(ServingError::Use)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok((Arc::new(config), renew_at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority() -> watch::Sender<Arc<Authority>> {
        watch::Sender::new(Arc::new(Authority::create(SystemTime::now()).unwrap()))
    }

    fn start(authority: &watch::Sender<Arc<Authority>>) -> Serving {
        Serving::start(authority.subscribe(), vec!["operator.realm.svc".to_owned()]).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn the_certificate_is_renewed_at_two_thirds_of_its_life() {
        let (authority, began) = (authority(), tokio::time::Instant::now());
        let serving = start(&authority);
        let mut current = serving.current();
        let follow = tokio::spawn(serving.follow());
        current.changed().await.unwrap();
        let hours = began.elapsed().as_secs_f64() / 3600.0;
        assert!((15.9..16.1).contains(&hours), "{hours}");
        follow.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_authority_gives_a_new_certificate_at_once_and_the_last_one_ends_it() {
        let (authority, began) = (authority(), tokio::time::Instant::now());
        let serving = start(&authority);
        let mut current = serving.current();
        let follow = tokio::spawn(serving.follow());
        let rotated = authority.borrow().rotated(SystemTime::now()).unwrap();
        authority.send_replace(Arc::new(rotated));
        current.changed().await.unwrap();
        assert_eq!(began.elapsed(), Duration::ZERO);
        drop(authority);
        follow.await.unwrap();
    }

    #[test]
    fn a_name_that_cannot_be_in_a_certificate_is_refused_at_the_start() {
        let names = vec!["opérateur".to_owned()];
        let refused = Serving::start(authority().subscribe(), names);
        assert!(matches!(refused, Err(ServingError::Issue(AuthorityError::Name { .. }))));
    }
}
