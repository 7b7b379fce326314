//! Certificates for tests of TLS, and a client that says what they are worth.

use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;

use tempfile::TempDir;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, DEFAULT_VERSIONS, RootCertStore, StreamOwned,
};

use crate::served::Served;

/// An authority, and certificates that it signed, made by `openssl`.
pub struct Certificates(TempDir);

impl Certificates {
    pub fn new() -> Self {
        let made = Self(TempDir::new().unwrap());
        made.openssl("ca", &[]);
        for name in ["server", "client"] {
            let (ca, key) = (made.path("ca.pem"), made.path("ca.key"));
            let signed = ["-CA", &ca, "-CAkey", &key, "-addext", "basicConstraints=CA:FALSE"];
            made.openssl(name, &signed);
        }
        made
    }

    pub fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn openssl(&self, name: &str, more: &[&str]) {
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        command.args(["-nodes", "-days", "2", "-addext", "subjectAltName=IP:127.0.0.1"]);
        command.args(["-subj", &format!("/CN={name}")]);
        command.args(["-keyout", &self.path(&format!("{name}.key"))]);
        command.args(["-out", &self.path(&format!("{name}.pem"))]).args(more);
        let output = command.output().expect("`openssl` is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn certificate(&self, name: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.path(&format!("{name}.pem"))).unwrap()
    }

    /// A client that trusts the authority, and shows a certificate if it has one.
    pub fn connect(
        &self,
        served: &Served,
        own: Option<&str>,
    ) -> StreamOwned<ClientConnection, TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate("ca")).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(DEFAULT_VERSIONS)
            .unwrap()
            .with_root_certificates(roots);
        let config = match own {
            None => config.with_no_client_auth(),
            Some(name) => {
                let key = PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key"))).unwrap();
                config.with_client_auth_cert(vec![self.certificate(name)], key).unwrap()
            }
        };
        let name = "127.0.0.1".try_into().unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        StreamOwned::new(connection, served.connect())
    }
}
