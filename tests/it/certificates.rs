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
        made.sign("server");
        made.sign("client");
        made
    }

    /// A new certificate of that name, and its key.
    pub fn sign(&self, name: &str) {
        let (ca, key) = (self.path("ca.pem"), self.path("ca.key"));
        let signed = ["-CA", &ca, "-CAkey", &key, "-addext", "basicConstraints=CA:FALSE"];
        self.openssl(name, &signed);
    }

    /// A new certificate of that name that the authority signed, of a day that is long past.
    pub fn sign_expired(&self, name: &str) {
        let (key, request) = (self.path(&format!("{name}.key")), self.path("request"));
        let new = ["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        let subject = format!("/CN={name}");
        run(&[&new[..], &["-subj", &subject, "-keyout", &key, "-out", &request]].concat());
        let folder = self.0.path().display();
        let settings = format!(
            "[ca]\ndefault_ca = own\n[own]\ndatabase = {folder}/index\nserial = {folder}/serial\n\
             new_certs_dir = {folder}\ndefault_md = sha256\npolicy = any\n\
             x509_extensions = server\n[any]\ncommonName = supplied\n\
             [server]\nsubjectAltName = IP:127.0.0.1\nbasicConstraints = CA:FALSE\n"
        );
        std::fs::write(self.path("settings"), settings).unwrap();
        std::fs::write(self.path("index"), "").unwrap();
        std::fs::write(self.path("serial"), "01\n").unwrap();
        let (settings, ca, ca_key) =
            (self.path("settings"), self.path("ca.pem"), self.path("ca.key"));
        let certificate = self.path(&format!("{name}.pem"));
        run(
            &[
                &[
                    "ca", "-batch", "-notext", "-config", &settings, "-cert", &ca, "-keyfile",
                    &ca_key,
                ][..],
                &["-startdate", "20200101000000Z", "-enddate", "20200102000000Z"],
                &["-in", &request, "-out", &certificate],
            ]
            .concat(),
        );
    }

    pub fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn openssl(&self, name: &str, more: &[&str]) {
        let (subject, key) = (format!("/CN={name}"), self.path(&format!("{name}.key")));
        let certificate = self.path(&format!("{name}.pem"));
        run(&[
            &["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"][..],
            &["-nodes", "-days", "2", "-addext", "subjectAltName=IP:127.0.0.1"],
            &["-subj", &subject, "-keyout", &key, "-out", &certificate],
            more,
        ]
        .concat());
    }

    pub fn certificate(&self, name: &str) -> CertificateDer<'static> {
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

fn run(arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).output().expect("`openssl` is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
