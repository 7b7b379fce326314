//! Where a server is, as people write it: `grpc+tls://host:port`, or `grpc://` without TLS.

use std::net::IpAddr;
use std::str::FromStr;

use url::Url;

use crate::error::{Error, Result};

const HINT: &str = "write grpc+tls://host:port, or grpc://host:port for a server without TLS";

/// A server's address, checked and taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// In the form that HTTP clients take.
    pub uri: String,
    pub has_tls: bool,
    /// Only this machine sees what is sent there. A name other than `localhost` may be anybody's.
    pub is_local: bool,
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong =
            || Error::invalid(format!("`{text}` is not the address of a server")).hint(HINT);
        // Nothing of it is repeated before it is known to hold no password.
        let url = Url::parse(text)
            .map_err(|_| Error::invalid("`--remote` is not an address").hint(HINT))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Error::invalid(
                "`--remote` holds a user or a password, which others can see",
            )
            .hint("write --user NAME, and set FLOWGUARD_REMOTE_PASSWORD"));
        }
        let has_tls = match url.scheme() {
            "grpc+tls" => true,
            "grpc" | "grpc+tcp" => false,
            _ => return Err(wrong()),
        };
        let (Some(host), Some(port)) = (url.host_str().filter(|host| !host.is_empty()), url.port())
        else {
            return Err(wrong());
        };
        let is_bare = matches!(url.path(), "" | "/");
        if !is_bare || url.query().is_some() || url.fragment().is_some() {
            return Err(wrong());
        }
        let inner = host.trim_start_matches('[').trim_end_matches(']');
        let is_local = match inner.parse::<IpAddr>() {
            Ok(address) => address.to_canonical().is_loopback(),
            Err(_) => inner.eq_ignore_ascii_case("localhost"),
        };
        let scheme = if has_tls { "https" } else { "http" };
        Ok(Self { uri: format!("{scheme}://{host}:{port}"), has_tls, is_local })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_scheme_a_host_and_a_port() {
        let read = |text: &str| {
            let address: Address = text.parse().unwrap();
            (address.uri, address.has_tls, address.is_local)
        };
        assert_eq!(
            read("grpc+tls://lake.example:443"),
            ("https://lake.example:443".into(), true, false)
        );
        assert_eq!(read("grpc://127.0.0.1:31337"), ("http://127.0.0.1:31337".into(), false, true));
        assert_eq!(read("grpc+tcp://[::1]:1/"), ("http://[::1]:1".into(), false, true));
        assert_eq!(read("grpc://LOCALHOST:1"), ("http://LOCALHOST:1".into(), false, true));
        for far in ["grpc://[::ffff:10.0.0.1]:1", "grpc://localhost.example:1"] {
            assert!(!read(far).2, "{far}");
        }
    }

    #[test]
    fn anything_else_is_refused_without_a_password_in_the_words() {
        for text in [
            "grpc://",
            "grpc://:1",
            "grpc://lake.example",
            "http://lake.example:1",
            "grpc://a:1/b",
            "grpc://a:1?b",
            "grpc://a:1#b",
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert_eq!(error.hint.as_deref(), Some(HINT), "{text}");
        }
        for text in ["grpc://ana:sesame@a:1", "grpc+tls://ana:sesame@a:x", "sesame@a:1"] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(!format!("{error:?}").contains("sesame"), "{error:?}");
        }
    }
}
