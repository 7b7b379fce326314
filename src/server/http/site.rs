//! What every request needs: who asks, and whether the lake answers.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant as Clock};

use axum::http::header::{AUTHORIZATION, HOST};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use tokio::sync::Mutex;

use crate::access::{Access, Principal};
use crate::error::{Error, ErrorKind, Result};
use crate::lake::Lake;
use crate::server::metrics::Metrics;
use crate::server::strangers::Peer;
use crate::statements::Statements;

/// How long an answer of the lake counts; strangers may ask for it.
const LAKE_ANSWER_AGE_MAX: Duration = Duration::from_secs(1);
/// A lake that takes longer does not answer.
const LAKE_ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

pub struct Site {
    pub statements: Statements,
    pub access: Access,
    pub lake: Lake,
    pub metrics: Metrics,
    /// Microseconds since 1970 UTC.
    pub clock: crate::clock::Clock,
    pub readiness: Readiness,
}

/// When the lake was last asked, and whether it answered.
#[derive(Default)]
pub struct Readiness(Mutex<Option<(Clock, bool)>>);

impl Site {
    /// Whoever sent the request; its connection is known from then on.
    pub async fn principal(self: &Arc<Self>, peer: &Peer, parts: &Parts) -> Result<Arc<Principal>> {
        let principal = self.authorized(peer.address, parts).await?;
        peer.guest.is_now_known(&principal)?;
        Ok(principal)
    }

    async fn authorized(self: &Arc<Self>, peer: IpAddr, parts: &Parts) -> Result<Arc<Principal>> {
        if self.access.is_open() {
            refuse_foreign_pages(parts)?;
            return Ok(Arc::new(Principal::local()));
        }
        let header = parts.headers.get(AUTHORIZATION).map(|value| value.to_str());
        let header = header.transpose().map_err(|source| {
            let error = Error::new(ErrorKind::Unauthenticated, "the authorization is not a text");
            error.source(source)
        })?;
        let (site, header) = (Arc::clone(self), header.map(str::to_owned));
        let checked = tokio::task::spawn_blocking(move || {
            site.access.authorize(header.as_deref(), peer, site.clock.micros())
        });
        checked.await.map_err(|source| {
            Error::internal("the check of an authorization stopped").source(source)
        })?
    }

    /// Whether the lake answers; many who ask at once are one question.
    pub async fn is_ready(&self) -> bool {
        let mut last = self.readiness.0.lock().await;
        if let Some((asked, is_ready)) = *last
            && asked.elapsed() < LAKE_ANSWER_AGE_MAX
        {
            return is_ready;
        }
        let answer = tokio::time::timeout(LAKE_ANSWER_TIME_MAX, self.lake.probe()).await;
        let answer = answer.unwrap_or_else(|late| {
            Err(Error::new(ErrorKind::Unavailable, "it takes too long").source(late))
        });
        if let Err(error) = &answer {
            tracing::warn!(%error, "the lake does not answer");
        }
        let is_ready = answer.is_ok();
        *last = Some((Clock::now(), is_ready));
        is_ready
    }
}

/// While nobody is asked who they are, a page from elsewhere must not reach the server through the
/// browser of this machine: it could point a name of its own at 127.0.0.1 (DNS rebinding).
fn refuse_foreign_pages(parts: &Parts) -> Result<()> {
    let host = match (parts.uri.authority(), parts.headers.get(HOST)) {
        (Some(authority), _) => Some(authority.clone()),
        (None, Some(host)) => Authority::try_from(host.as_bytes()).ok(),
        (None, None) => return Ok(()),
    };
    let is_local = host.is_some_and(|host| {
        let name = host.host().trim_start_matches('[').trim_end_matches(']');
        name.eq_ignore_ascii_case("localhost")
            || name.parse().is_ok_and(|address: IpAddr| address.to_canonical().is_loopback())
    });
    if is_local {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Denied, "the server is open to this machine's own names only")
        .hint("ask for 127.0.0.1 or localhost; or add users: flowguard user add NAME"))
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    #[test]
    fn an_open_server_is_reached_by_this_machines_own_names_only() {
        let refused = |uri: &str, host: Option<&str>| {
            let mut request = Request::builder().uri(uri);
            if let Some(host) = host {
                request = request.header(HOST, host);
            }
            let (parts, ()) = request.body(()).unwrap().into_parts();
            refuse_foreign_pages(&parts).err().map(|error| error.kind)
        };
        for host in ["127.0.0.1:8080", "localhost", "LOCALHOST:1", "[::1]:8080", "127.9.9.9"] {
            assert_eq!(refused("/metrics", Some(host)), None, "{host}");
        }
        assert_eq!(refused("/metrics", None), None);
        assert_eq!(refused("http://localhost:8080/metrics", Some("evil.example")), None);
        for host in ["evil.example", "localhost.evil.example:8080", "10.0.0.1", "a b"] {
            assert_eq!(refused("/metrics", Some(host)), Some(ErrorKind::Denied), "{host}");
        }
        assert_eq!(refused("http://evil.example/metrics", None), Some(ErrorKind::Denied));
    }
}
