//! The certificate and key of the door, read again when their files change.

use std::{path::PathBuf, sync::Arc};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
};
use thiserror::Error;
use tokio::{fs, io::AsyncReadExt as _, sync::watch, time::MissedTickBehavior};

use crate::config::TlsFiles;

/// Largest certificate or key file: a chain of ten 4096-bit certificates has a tenth of it.
const FILE_BYTES_MAX: u64 = 256 << 10;

/// Why a certificate and key cannot be used.
#[derive(Debug, Error)]
pub enum TlsError {
    #[error("reading `{path}`")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("`{path}` is larger than {bytes_max} bytes")]
    TooLarge { path: PathBuf, bytes_max: u64 },
    #[error("`{path}` holds no PEM certificates")]
    Certificate { path: PathBuf, source: pem::Error },
    #[error("`{path}` holds no PEM private key")]
    Key { path: PathBuf, source: pem::Error },
    #[error("the certificate `{certificate}` and the key `{key}` cannot be used together")]
    Pair { certificate: PathBuf, key: PathBuf, source: rustls::Error },
}

/// The files and what was made of them last.
pub(crate) struct Tls {
    files: TlsFiles,
    seen: Bytes,
    current: watch::Sender<Arc<ServerConfig>>,
}

/// The contents of both files.
#[derive(PartialEq, Eq)]
struct Bytes {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Tls {
    pub(crate) async fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let seen = read(&files).await?;
        let config = server_config(&files, &seen)?;
        Ok(Self { files, seen, current: watch::Sender::new(Arc::new(config)) })
    }

    /// What new connections are served with.
    pub(crate) fn current(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.current.subscribe()
    }

    /// Looks at the files for ever. Files that are no good leave the last good ones in use and
    /// are complained about once.
    pub(crate) async fn follow(mut self) {
        let mut looks = tokio::time::interval(self.files.look_every);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut complaint = None;
        loop {
            looks.tick().await;
            match self.look().await {
                Ok(true) => {
                    complaint = None;
                    tracing::info!(certificate = %self.files.certificate.display(), "new TLS certificate in use");
                }
                Ok(false) => {}
                Err(error) => {
                    let text = error.to_string();
                    if complaint.as_ref() != Some(&text) {
                        let source = std::error::Error::source(&error).map(ToString::to_string);
                        tracing::error!(%error, source, "the old TLS certificate stays in use");
                        complaint = Some(text);
                    }
                }
            }
        }
    }

    /// Takes changed files into use; says whether there were any.
    async fn look(&mut self) -> Result<bool, TlsError> {
        let found = read(&self.files).await?;
        if found == self.seen {
            return Ok(false);
        }
        let config = server_config(&self.files, &found)?;
        self.seen = found;
        self.current.send_replace(Arc::new(config));
        Ok(true)
    }
}

async fn read(files: &TlsFiles) -> Result<Bytes, TlsError> {
    Ok(Bytes {
        certificate: read_file(&files.certificate).await?,
        key: read_file(&files.key).await?,
    })
}

async fn read_file(path: &PathBuf) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Read { path: path.clone(), source };
    let file = fs::File::open(path).await.map_err(failed)?;
    let mut bytes = Vec::new();
    let read = file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).await.map_err(failed)?;
    if u64::try_from(read).is_ok_and(|read| read <= FILE_BYTES_MAX) {
        Ok(bytes)
    } else {
        Err(TlsError::TooLarge { path: path.clone(), bytes_max: FILE_BYTES_MAX })
    }
}

fn server_config(files: &TlsFiles, bytes: &Bytes) -> Result<ServerConfig, TlsError> {
    let TlsFiles { certificate, key, look_every: _ } = files;
    let no_chain = |source| TlsError::Certificate { path: certificate.clone(), source };
    let chain = CertificateDer::pem_slice_iter(&bytes.certificate)
        .collect::<Result<Vec<_>, _>>()
        .map_err(no_chain)?;
    if chain.is_empty() {
        return Err(no_chain(pem::Error::NoItemsFound));
    }
    let private = PrivateKeyDer::from_pem_slice(&bytes.key)
        .map_err(|source| TlsError::Key { path: key.clone(), source })?;
    // The provider is named here because a process-wide default would be global state.
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private))
        .map_err(|source| TlsError::Pair {
            certificate: certificate.clone(),
            key: key.clone(),
            source,
        })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[tokio::test]
    async fn changed_files_are_taken_and_bad_ones_leave_the_old_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let files = TlsFiles::new(folder.path().join("c.pem"), folder.path().join("k.pem"));
        let write = |certificate: &str, key: &str| {
            fs::write(&files.certificate, certificate).unwrap();
            fs::write(&files.key, key).unwrap();
        };
        let (first, second) = (pair(), pair());
        write(&first.0, &first.1);
        let mut tls = Tls::load(files.clone()).await.unwrap();
        let mut current = tls.current();
        let old = current.borrow_and_update().clone();
        assert!(!tls.look().await.unwrap());

        write(&second.0, &first.1);
        assert!(matches!(tls.look().await.unwrap_err(), TlsError::Pair { .. }));
        write("", &first.1);
        assert!(matches!(tls.look().await.unwrap_err(), TlsError::Certificate { .. }));
        write(&second.0, "no key");
        assert!(matches!(tls.look().await.unwrap_err(), TlsError::Key { .. }));
        fs::remove_file(&files.key).unwrap();
        assert!(matches!(tls.look().await.unwrap_err(), TlsError::Read { .. }));
        assert!(Arc::ptr_eq(&old, &current.borrow()));

        write(&second.0, &second.1);
        assert!(tls.look().await.unwrap());
        assert!(current.has_changed().unwrap());
    }
}
