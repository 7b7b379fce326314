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

use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::server::{Connected, Router};

use self::state::Server;
use crate::access::Access;
use crate::clock::Clock;
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
    clock: Clock,
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
    transport(KEEPALIVE, KEEPALIVE_WAIT).add_service(service)
}

fn transport(keepalive: Duration, keepalive_wait: Duration) -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(keepalive))
        .http2_keepalive_timeout(Some(keepalive_wait))
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .max_concurrent_streams(CALLS_MAX)
}

/// The calls alone, for whoever brings a transport of their own.
pub fn calls(statements: Statements, access: Access, clock: Clock) -> Result<impl FlightService> {
    Server::new(statements, access, clock)
}

async fn sweep(server: Server) {
    let mut ticks = tokio::time::interval(SWEEP_EVERY);
    loop {
        ticks.tick().await;
        server.sweep();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tonic::service::Routes;

    use super::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const PING: u8 = 6;
    const ACKNOWLEDGED: u8 = 1;

    /// One frame's type, flags and payload; `None` once the connection is closed.
    async fn frame(stream: &mut TcpStream) -> Option<(u8, u8, Vec<u8>)> {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).await.ok()?;
        Some((head[3], head[4], payload))
    }

    #[tokio::test]
    async fn an_idle_connection_lives_as_long_as_it_answers_pings() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = futures::stream::unfold(listener, |listener| async {
            Some((listener.accept().await.map(|(stream, _)| stream), listener))
        });
        let (interval, wait) = (Duration::from_millis(20), Duration::from_millis(200));
        let server = transport(interval, wait).add_routes(Routes::default());
        let served = tokio::spawn(server.serve_with_incoming(incoming));
        let mut client = TcpStream::connect(address).await.unwrap();
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        client.write_all(&[PREFACE, &settings].concat()).await.unwrap();
        let mut answered = 0;
        // Longer than an unanswered one would be borne.
        while answered < 20 {
            let (kind, flags, payload) = frame(&mut client).await.expect("it is kept open");
            if kind == PING && flags == 0 {
                let head = [0, 0, 8, PING, ACKNOWLEDGED, 0, 0, 0, 0];
                client.write_all(&[&head, payload.as_slice()].concat()).await.unwrap();
                answered += 1;
            }
        }
        // And now it is silent.
        let closed = async { while frame(&mut client).await.is_some() {} };
        tokio::time::timeout(Duration::from_secs(30), closed).await.expect("it is given up");
        served.abort();
    }
}
