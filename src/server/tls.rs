//! The certificate that the servers show, and whom they let in by theirs. The files of the
//! certificate and its key are looked at again while the server runs, so that renewing them takes
//! no restart; authorities of clients are read once.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{DEFAULT_VERSIONS, RootCertStore, ServerConfig};

use crate::error::{Error, Result};

/// Ready for handshakes. Cheap to clone; clones show the same certificate.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    identity: Arc<Identity>,
}

/// The certificate in force, and the files that it came from.
struct Identity {
    certificate: PathBuf,
    key: PathBuf,
    provider: Arc<CryptoProvider>,
    shown: RwLock<Arc<CertifiedKey>>,
    seen: Mutex<Option<Files>>,
    problem: Mutex<Option<String>>,
}

/// What the two files hold.
#[derive(PartialEq)]
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Tls {
    /// Reads PEM files. With `client_ca`, clients must show a certificate that it signed.
    pub fn read(certificate: &Path, key: &Path, client_ca: Option<&Path>) -> Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(DEFAULT_VERSIONS)
            .map_err(|source| Error::internal("TLS has no version").source(source))?;
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for root in certificates(path, &content(path)?)? {
                    roots.add(root).map_err(|source| unusable("server.tls_client_ca", source))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(
                    Arc::new(roots),
                    Arc::clone(&provider),
                );
                let verifier = verifier.build();
                builder.with_client_cert_verifier(
                    verifier.map_err(|source| unusable("server.tls_client_ca", source))?,
                )
            }
        };
        let identity = Arc::new(Identity::read(certificate, key, provider)?);
        let resolver: Arc<dyn ResolvesServerCert> = Arc::clone(&identity) as _;
        let mut config = builder.with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), identity })
    }

    /// Shows the certificate that was read last, also to connections of earlier clones.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.clone()
    }

    /// Takes a certificate that was renewed. One that cannot be used is said in the log, and the
    /// one before stays.
    pub fn look_again(&self) {
        self.identity.look_again();
    }

    /// Why the files cannot be used as they were when they were last looked at.
    pub fn problem(&self) -> Option<String> {
        self.identity.problem().clone()
    }
}

impl Identity {
    fn read(certificate: &Path, key: &Path, provider: Arc<CryptoProvider>) -> Result<Self> {
        let files = Files { certificate: content(certificate)?, key: content(key)? };
        let shown = files.certified(certificate, key, &provider)?;
        Ok(Self {
            certificate: certificate.to_path_buf(),
            key: key.to_path_buf(),
            provider,
            shown: RwLock::new(Arc::new(shown)),
            seen: Mutex::new(Some(files)),
            problem: Mutex::default(),
        })
    }

    fn problem(&self) -> MutexGuard<'_, Option<String>> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look_again(&self) {
        let (certificate, key) = (&self.certificate, &self.key);
        let found = content(certificate)
            .and_then(|certificate| Ok(Files { certificate, key: content(key)? }));
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let certified = match &found {
            Ok(files) if seen.as_ref() == Some(files) => return,
            Ok(files) => files.certified(certificate, key, &self.provider),
            // Said once, until they can be read again.
            Err(_) if seen.is_none() => return,
            Err(error) => Err(Error::invalid(error.message.clone())),
        };
        *seen = found.ok();
        let path = certificate.display();
        match certified {
            Ok(certified) => {
                *self.problem() = None;
                tracing::info!(%path, "the certificate was renewed");
                *self.shown.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(certified);
            }
            Err(error) => {
                *self.problem() = Some(error.line());
                tracing::error!(%path, %error, "the certificate cannot be renewed; the one before stays");
            }
        }
    }
}

impl Files {
    fn certified(
        &self,
        certificate: &Path,
        key: &Path,
        provider: &CryptoProvider,
    ) -> Result<CertifiedKey> {
        let chain = certificates(certificate, &self.certificate)?;
        let private = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|source| not_pem(key, "private key").source(source))?;
        CertifiedKey::from_der(chain, private, provider).map_err(|source| {
            unusable("server.tls_certificate", source)
                .hint("the key must be that of the first certificate in the file")
        })
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.shown.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let found: Vec<CertificateDer> = CertificateDer::pem_slice_iter(pem)
        .collect::<std::result::Result<_, _>>()
        .map_err(|source| not_pem(path, "certificate").source(source))?;
    if found.is_empty() {
        return Err(not_pem(path, "certificate"));
    }
    Ok(found)
}

fn content(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|source| {
        Error::invalid(format!("cannot read `{}`", path.display())).source(source)
    })
}

fn not_pem(path: &Path, what: &str) -> Error {
    Error::invalid(format!("`{}` holds no {what} in PEM form", path.display()))
}

fn unusable(setting: &str, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::invalid(format!("cannot use `{setting}` for TLS")).source(source)
}
