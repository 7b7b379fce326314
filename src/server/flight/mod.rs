//! Flight SQL: what drivers of the Arrow world, JDBC and ADBC speak. Calls become statements, and
//! their batches messages; nothing is planned, read or decided here. Where it listens, and TLS, are
//! the caller's.

mod actions;
mod auth;
mod catalog;
mod columns;
mod encode;
mod handles;
pub mod messages;
mod polls;
mod prepared;
mod queries;
mod results;
mod server_info;
mod service;
mod sessions;
mod state;
mod status;

use std::io;
use std::time::Duration;

use arrow_flight::flight_service_server::FlightServiceServer;
use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::server::{Connected, Router};

use self::state::Server;
use crate::access::Access;
use crate::error::{Error, ErrorKind, Result};
use crate::statements::Statements;

/// Of one call: 64 KiB of a client's own, and what drivers and proxies add.
const HEADER_BYTES_MAX: u32 = 80 << 10;
/// Of one message that a client sends: parameters, mostly.
const RECEIVED_BYTES_MAX: usize = 16 << 20;
/// Of one message that goes out; `encode` says when one comes near it.
const SENT_BYTES_MAX: usize = 17 << 20;
/// Calls of one connection at once.
const CALLS_MAX: u32 = 1_024;
/// A connection that says nothing for so long is asked whether it is there, and closed if it does
/// not answer.
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_WAIT: Duration = Duration::from_secs(20);
/// How long calls may take to end once the server is stopped.
const GRACE: Duration = Duration::from_secs(5);
const SWEEP_EVERY: Duration = Duration::from_secs(30);

/// Serves `incoming` until `stop`, and then calls under way for a moment longer.
pub async fn serve<C>(
    incoming: impl Stream<Item = io::Result<C>> + Send,
    statements: Statements,
    access: Access,
    clock: fn() -> i64,
    stop: CancellationToken,
) -> Result<()>
where
    C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let server = Server::new(statements, access, clock)?;
    let _sweeper = AbortOnDropHandle::new(tokio::spawn(sweep(server.clone())));
    let served = router(server).serve_with_incoming_shutdown(incoming, stop.cancelled());
    let past_grace = async {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        served = served => served.map_err(|source| {
            Error::new(ErrorKind::Unavailable, "Flight SQL stopped listening").source(source)
        }),
        () = past_grace => Ok(()),
    }
}

fn router(server: Server) -> Router {
    let service = FlightServiceServer::new(server)
        .max_decoding_message_size(RECEIVED_BYTES_MAX)
        .max_encoding_message_size(SENT_BYTES_MAX);
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_WAIT))
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .max_concurrent_streams(CALLS_MAX)
        .add_service(service)
}

async fn sweep(server: Server) {
    let mut ticks = tokio::time::interval(SWEEP_EVERY);
    loop {
        ticks.tick().await;
        server.sweep();
    }
}
