//! Connections of clients: how many there may be, how long one may say nothing at first, and how they end.
//!
//! A server that accepts whoever comes runs out of file handles by the doing of a single careless client, so each
//! listener takes so many connections and closes those beyond at once, before a byte is read. A connection that doesn't
//! say what it wants within [`OPENING_TIMEOUT`] is closed too, or the silent ones would fill the places. Those whose
//! other end is gone are found by keepalive, TCP's and HTTP/2's.
//!
//! A stopping server lets its connections end by themselves for a while; then its [`Cut`] closes those that remain,
//! whatever task holds them.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{Stream, stream};
use kvd_proto::net::{BoxStream, Listen};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Sleep,
};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use crate::{
    config::Config,
    metrics::{ConnectionCount, SharedMetrics},
};

/// What an HTTP/2 client opens with: the preface.
pub(crate) const HTTP2_OPENING_BYTES: usize = 24;
/// A connection must have said this within that time: what a listener's protocol opens with.
const OPENING_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause after a failed accept, most likely for want of file handles.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the services for clients take on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceLimits {
    /// Largest value, in bytes.
    pub value_bytes_max: usize,
    /// Most connections on one listener.
    pub connections_max: u32,
    /// How long requests may take to end once the server stops.
    pub grace: Duration,
}

impl From<&Config> for ServiceLimits {
    fn from(config: &Config) -> Self {
        Self {
            value_bytes_max: config.limits.value_bytes_max,
            connections_max: config.limits.connections_max,
            grace: config.shutdown.grace(),
        }
    }
}

/// Closes all of a server's connections when it goes.
pub(crate) struct Cut(DropGuard);

impl Cut {
    pub(crate) fn new() -> Self {
        Self(CancellationToken::new().drop_guard())
    }
}

/// Accepts connections of one listener.
pub(crate) struct Gate {
    name: &'static str,
    listener: Box<dyn Listen>,
    opening_bytes: usize,
    opening_timeout: Duration,
    places: Arc<Semaphore>,
    metrics: SharedMetrics,
    cut: CancellationToken,
}

impl Gate {
    /// `opening_bytes` is what a client must have sent before [`OPENING_TIMEOUT`] has passed.
    pub(crate) fn new(
        name: &'static str,
        listener: Box<dyn Listen>,
        opening_bytes: usize,
        limits: &ServiceLimits,
        metrics: SharedMetrics,
        cut: &Cut,
    ) -> Self {
        let places =
            usize::try_from(limits.connections_max).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let cut = cut.0.token().clone();
        let places = Arc::new(Semaphore::new(places));
        Self { name, listener, opening_bytes, opening_timeout: OPENING_TIMEOUT, places, metrics, cut }
    }

    /// The connections, one after the other, for as long as there is a listener.
    pub(crate) fn connections(self) -> impl Stream<Item = io::Result<Connection>> {
        stream::unfold(self, |gate| async move {
            let connection = gate.accept().await;
            Some((Ok(connection), gate))
        })
    }

    /// The next connection that there is a place for. May be dropped and called again.
    pub(crate) async fn accept(&self) -> Connection {
        loop {
            let stream = match self.listener.accept().await {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!(listener = self.name, %error, "can't accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
                self.metrics.connection_refused(self.name);
                tracing::debug!(
                    listener = self.name,
                    "closed a connection: there are limits.connections_max of them"
                );
                continue;
            };
            return Connection {
                stream,
                opening: Some(Opening {
                    bytes_missing: self.opening_bytes,
                    timeout: Box::pin(tokio::time::sleep(self.opening_timeout)),
                }),
                cut: Box::pin(self.cut.clone().cancelled_owned()),
                _place: place,
                _count: self.metrics.connected(self.name),
            };
        }
    }
}

/// A client's connection, which has a place.
pub(crate) struct Connection {
    stream: BoxStream,
    /// Until the client has said enough.
    opening: Option<Opening>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    _place: OwnedSemaphorePermit,
    _count: ConnectionCount,
}

struct Opening {
    bytes_missing: usize,
    timeout: Pin<Box<Sleep>>,
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the server has stopped",
            )));
        }
        let filled = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        let Some(opening) = &mut this.opening else { return read };
        match read {
            Poll::Ready(done) => {
                opening.bytes_missing = opening.bytes_missing.saturating_sub(buf.filled().len() - filled);
                if opening.bytes_missing == 0 {
                    this.opening = None;
                }
                Poll::Ready(done)
            }
            Poll::Pending => {
                ready!(opening.timeout.as_mut().poll(cx));
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client said nothing")))
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::{metrics::Metrics, platform::TcpPort, testing::LIMITS};

    async fn gate() -> (Gate, Cut, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cut = Cut::new();
        let listener = Box::new(TcpPort(listener));
        let gate = Gate::new("test", listener, 3, &LIMITS, Arc::new(Metrics::new("test")), &cut);
        (Gate { opening_timeout: Duration::from_millis(30), ..gate }, cut, address)
    }

    #[tokio::test]
    async fn who_says_too_little_at_first_is_closed() {
        let (gate, _cut, address) = gate().await;
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"ab").await.unwrap();
        let mut connection = gate.accept().await;
        let mut buffer = [0; 8];
        assert_eq!(connection.read(&mut buffer).await.unwrap(), 2);
        assert_eq!(connection.read(&mut buffer).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn who_has_said_enough_may_be_silent_until_the_cut() {
        let (gate, cut, address) = gate().await;
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"abc").await.unwrap();
        let mut connection = gate.accept().await;
        let mut buffer = [0; 8];
        assert_eq!(connection.read(&mut buffer).await.unwrap(), 3);
        assert!(connection.opening.is_none());
        let read = tokio::spawn(async move { connection.read(&mut buffer).await });
        drop(cut);
        assert_eq!(read.await.unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }
}
