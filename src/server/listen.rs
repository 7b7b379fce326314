//! Where the servers listen: which addresses they may take, and the connections that come in.
//! Knows no protocol above TLS, and nobody's name.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::Connected;

use super::gathering::Gathering;
use super::strangers::{Peer, Strangers};
use super::tls::Tls;
use crate::error::{Error, ErrorKind, Result};

/// Connections of one listener at once; more wait in the system's queue.
const CONNECTIONS_MAX: usize = 1024;
/// Of those, whose other end has not said who it is.
const STRANGERS_MAX: usize = 256;
/// What one has to say it.
const STRANGER_TIME_MAX: Duration = Duration::from_secs(30);
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
/// Wait after the system refused a connection, for want of file handles say.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// A bound socket.
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    tls: Option<Tls>,
    places: Arc<Semaphore>,
    strangers: Strangers,
    open: OpenConnections,
}

impl Listener {
    /// Binds `address`, a `host:port`, as the setting named `setting` says.
    pub async fn bind(
        setting: &str,
        address: &str,
        tls: Option<Tls>,
        asks_users: bool,
    ) -> Result<Self> {
        let resolved: Vec<SocketAddr> = tokio::net::lookup_host(address)
            .await
            .map_err(|source| {
                Error::invalid(format!("`{setting}` is `{address}`, which is no address"))
                    .hint("write host:port, such as 127.0.0.1:8080")
                    .source(source)
            })?
            .collect();
        refuse_strangers(setting, address, &resolved, tls.is_some(), asks_users)?;
        let failed = |source: io::Error| {
            Error::new(ErrorKind::Unavailable, format!("cannot listen on `{address}`"))
                .hint(format!("another program may have the port; set `{setting}`"))
                .source(source)
        };
        let socket = TcpListener::bind(resolved.as_slice()).await.map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let (strangers, open) = (Strangers::new(STRANGERS_MAX), OpenConnections::default());
        Ok(Self { socket, address, tls, places, strangers, open })
    }

    /// With the port that the system chose, if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Goes on counting after [`Self::incoming`] took the listener.
    pub fn open_connections(&self) -> OpenConnections {
        self.open.clone()
    }

    /// Connections as they become ready; dropping the stream stops listening. One whose handshake
    /// fails is never seen here.
    pub fn incoming(self) -> impl Stream<Item = io::Result<Connection>> + Send + 'static {
        futures::stream::unfold((self, JoinSet::new()), |(listener, mut handshakes)| async move {
            let connection = listener.next(&mut handshakes).await;
            Some((Ok(connection), (listener, handshakes)))
        })
    }

    async fn next(&self, handshakes: &mut JoinSet<io::Result<Connection>>) -> Connection {
        loop {
            tokio::select! {
                Some(ended) = handshakes.join_next() => match ended {
                    Ok(Ok(connection)) => return connection,
                    // Strangers do this; it must not fill the log.
                    Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                    Err(error) => tracing::warn!(%error, "a TLS handshake ended abnormally"),
                },
                accepted = self.accept() => {
                    match (accepted, &self.tls) {
                        (Ok(plain), None) => return plain.connection(),
                        (Ok(plain), Some(tls)) => drop(handshakes.spawn(plain.secure(tls.acceptor()))),
                        (Err(error), _) => {
                            tracing::warn!(%error, "a connection was not accepted");
                            tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                        }
                    }
                }
            }
        }
    }

    async fn accept(&self) -> io::Result<Accepted> {
        let place = match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                self.strangers.send_one_away();
                Arc::clone(&self.places).acquire_owned().await.map_err(io::Error::other)?
            }
        };
        let (stream, peer) = self.socket.accept().await?;
        stream.set_nodelay(true)?;
        let place = Place::taken(&self.open, place);
        let address = peer.ip().to_canonical();
        let peer = Peer { address, guest: self.strangers.enter(address) };
        Ok(Accepted { stream, peer, place })
    }
}

/// Without TLS and users, only this machine may be able to reach a server.
fn refuse_strangers(
    setting: &str,
    address: &str,
    resolved: &[SocketAddr],
    has_tls: bool,
    asks_users: bool,
) -> Result<()> {
    let is_local = resolved.iter().all(|address| address.ip().to_canonical().is_loopback());
    let missing = match (has_tls, asks_users) {
        _ if is_local => return Ok(()),
        (true, true) => return Ok(()),
        (false, true) => "without TLS",
        (true, false) => "without users",
        (false, false) => "without TLS and without users",
    };
    Err(Error::invalid(format!(
        "`{setting}` is `{address}`, which other machines can reach, {missing}"
    ))
    .hint(
        "set server.tls_certificate and server.tls_key, and add users: flowguard user add NAME; \
         or listen on 127.0.0.1",
    ))
}

/// How many connections a listener has open. Cheap to clone.
#[derive(Clone, Default)]
pub struct OpenConnections(Arc<AtomicUsize>);

impl OpenConnections {
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Held by a connection while it is open.
struct Place {
    open: OpenConnections,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    fn taken(open: &OpenConnections, permit: OwnedSemaphorePermit) -> Self {
        open.0.fetch_add(1, Ordering::Relaxed);
        Self { open: open.clone(), _permit: permit }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Accepted {
    stream: TcpStream,
    peer: Peer,
    place: Place,
}

impl Accepted {
    fn connection(self) -> Connection {
        let Self { stream, peer, place } = self;
        Connection::new(Either::Left(stream), peer, place)
    }

    async fn secure(self, tls: TlsAcceptor) -> io::Result<Connection> {
        let Self { stream, peer, place } = self;
        let stream = tokio::select! {
            stream = tokio::time::timeout(HANDSHAKE_TIME_MAX, tls.accept(stream)) => stream??,
            () = peer.guest.must_leave() => return Err(io::ErrorKind::ConnectionAborted.into()),
        };
        Ok(Connection::new(Either::Right(Box::new(stream)), peer, place))
    }
}

/// One client's connection, plain or under TLS.
pub struct Connection {
    io: Gathering<Io>,
    peer: Peer,
    /// Until the other end has said who it is.
    stay: Option<Stay>,
    _place: Place,
}

type Io = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// How long a stranger may stay: a connection of one holds a place that others wait for.
struct Stay {
    deadline: Pin<Box<Sleep>>,
    must_leave: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Stay {
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<io::ErrorKind> {
        if self.deadline.as_mut().poll(context).is_ready() {
            return Poll::Ready(io::ErrorKind::TimedOut);
        }
        self.must_leave.as_mut().poll(context).map(|()| io::ErrorKind::ConnectionAborted)
    }
}

impl Connection {
    fn new(io: Io, peer: Peer, place: Place) -> Self {
        let stay = Stay {
            deadline: Box::pin(tokio::time::sleep(STRANGER_TIME_MAX)),
            must_leave: Box::pin(peer.guest.must_leave()),
        };
        Self { io: Gathering::new(io), peer, stay: Some(stay), _place: place }
    }

    /// Whose connection it is; calls say when they know more.
    pub fn peer(&self) -> Peer {
        self.peer.clone()
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.peer.guest.is_known() {
            self.stay = None;
        }
        if let Some(stay) = &mut self.stay
            && let Poll::Ready(end) = stay.poll_end(context)
        {
            return Poll::Ready(Err(end.into()));
        }
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::access::Principal;

    #[test]
    fn only_this_machine_may_reach_what_asks_nobody() {
        let may = |address: &str, has_tls, asks_users| {
            let resolved = [address.parse().unwrap()];
            let refused = refuse_strangers("server.a", address, &resolved, has_tls, asks_users);
            refused.err().map(|error| error.message)
        };
        for local in ["127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(may(local, false, false), None, "{local}");
        }
        for (has_tls, asks_users, missing) in [
            (false, false, "without TLS and without users"),
            (true, false, "without users"),
            (false, true, "without TLS"),
        ] {
            for far in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[::ffff:10.0.0.1]:1"] {
                assert_eq!(
                    may(far, has_tls, asks_users),
                    Some(format!(
                        "`server.a` is `{far}`, which other machines can reach, {missing}"
                    ))
                );
            }
        }
        assert_eq!(may("0.0.0.0:1", true, true), None);
    }

    #[tokio::test]
    async fn a_stranger_is_given_up_and_one_that_is_known_is_not() {
        let listener = Listener::bind("server.a", "127.0.0.1:0", None, false).await.unwrap();
        let (address, open) = (listener.address(), listener.open_connections());
        let mut incoming = Box::pin(listener.incoming());
        let mut client = TcpStream::connect(address).await.unwrap();
        let mut connection = incoming.next().await.unwrap().unwrap();
        assert_eq!((connection.peer().address, open.count()), (address.ip(), 1));
        client.write_all(&[b'a'; 100]).await.unwrap();
        let mut buffer = [0; 1024];
        assert_eq!(connection.read(&mut buffer).await.unwrap(), 100);
        let over = |connection: &mut Connection| {
            let stay = connection.stay.as_mut().unwrap();
            stay.deadline.as_mut().reset(tokio::time::Instant::now());
        };
        over(&mut connection);
        tokio::time::sleep(Duration::from_millis(20)).await;
        client.write_all(b"more").await.unwrap();
        let ended = connection.read(&mut buffer).await.unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut, "whatever else it says");
        drop(connection);

        let mut client = TcpStream::connect(address).await.unwrap();
        let mut connection = incoming.next().await.unwrap().unwrap();
        over(&mut connection);
        connection.peer().guest.is_now_known(&Principal::local()).unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        client.write_all(b"more").await.unwrap();
        assert_eq!(connection.read(&mut buffer).await.unwrap(), 4);
        drop(connection);
        assert_eq!(open.count(), 0);
    }
}
