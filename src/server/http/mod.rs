//! HTTP: health, metrics, and SQL for people with curl. Requests are read within limits of size and
//! time; answers stream.

mod failure;
mod form;
mod query;
mod site;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use futures::{Stream, StreamExt};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use site::{Readiness, Site};

use self::failure::Failure;
use crate::error::{Error, ErrorKind, Result};
use crate::server::health::told_to;
use crate::server::listen::Connection;
use crate::server::strangers::Peer;

/// A request's line and headers together.
const HEADER_BYTES_MAX: u32 = 64 << 10;
const HEADER_TIME_MAX: Duration = Duration::from_secs(30);
/// After which a connection of somebody who has not said who they are ends with the request that is
/// under way; the listener's patience is longer, and ends it at once.
const STRANGER_PATIENCE: Duration = Duration::from_secs(20);
/// Requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 64;
/// How often a silent HTTP/2 client is asked whether it is still there, and how long it has for that.
const PING_EVERY: Duration = Duration::from_secs(30);
const PONG_TIME_MAX: Duration = Duration::from_secs(20);

/// Serves the connections of `incoming` until `stop`; then lets those that are open end their
/// requests. Dropping it cuts them off.
pub async fn serve(
    incoming: impl Stream<Item = io::Result<Connection>> + Send + 'static,
    site: Site,
    stop: CancellationToken,
) -> Result<()> {
    let router = router(Arc::new(site));
    let mut incoming = Box::pin(incoming);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = connections.join_next() => warn_of_panic(ended),
            next = incoming.next() => match next {
                Some(Ok(connection)) => {
                    drop(connections.spawn(converse(connection, router.clone(), stop.clone())));
                }
                Some(Err(error)) => tracing::warn!(%error, "a connection was not accepted"),
                None => break,
            },
        }
    }
    drop(incoming);
    while let Some(ended) = connections.join_next().await {
        warn_of_panic(ended);
    }
    Ok(())
}

fn warn_of_panic(ended: std::result::Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection ended abnormally");
    }
}

async fn converse(connection: Connection, router: Router, stop: CancellationToken) {
    let peer = connection.peer();
    let guest = Arc::clone(&peer.guest);
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME_MAX)
        .max_buf_size(HEADER_BYTES_MAX as usize)
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HEADER_BYTES_MAX)
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PONG_TIME_MAX);
    let service = TowerToHyperService::new(router.layer(Extension(peer)));
    let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(connection), service));
    let must_end = async {
        tokio::time::sleep(STRANGER_PATIENCE).await;
        if guest.is_known() {
            std::future::pending::<()>().await;
        }
    };
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = must_end => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke off");
    }
}

fn router(site: Arc<Site>) -> Router {
    let nothing_here = || async {
        let error = Error::new(ErrorKind::NotFound, "there is nothing at this address");
        Failure(error.hint("try /api/v1/query, /metrics, /healthz or /readyz"))
    };
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/api/v1/query", get(query::by_address).post(query::by_body))
        .fallback(nothing_here)
        .with_state(site)
}

/// Whether the lake answers; with `?verbose`, to users, also which parts do not work although it
/// does.
async fn ready(
    State(site): State<Arc<Site>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> std::result::Result<Response, Failure> {
    let (parts, _) = request.into_parts();
    let (is_ready, broken) = (site.is_ready().await, site.metrics.broken());
    let query = parts.uri.query().unwrap_or_default();
    let is_verbose = query.split('&').any(|key| key.split('=').next() == Some("verbose"));
    let mut said = match (is_ready, broken.len()) {
        (false, _) => "the lake does not answer\n".to_owned(),
        (true, 1) if !is_verbose => "ready, but for 1 part: /readyz?verbose\n".to_owned(),
        (true, 2..) if !is_verbose => {
            format!("ready, but for {} parts: /readyz?verbose\n", broken.len())
        }
        (true, _) => "ready\n".to_owned(),
    };
    if is_verbose {
        let principal = site.principal(&peer, &parts).await?;
        for line in told_to(&principal, &broken) {
            said.push_str(&line);
            said.push('\n');
        }
    }
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok((status, said).into_response())
}

async fn metrics(
    State(site): State<Arc<Site>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> std::result::Result<Response, Failure> {
    let (parts, _) = request.into_parts();
    let principal = site.principal(&peer, &parts).await?;
    let content_type = [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    Ok((content_type, site.metrics.text(&principal)).into_response())
}
