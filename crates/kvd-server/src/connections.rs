//! Connections of clients: how many there may be, how long one may say nothing at first, and how they end.
//!
//! A server that accepts whoever comes runs out of file handles by the doing of a single careless client, so each
//! listener takes so many connections and closes those beyond at once, before a byte is read. A connection that doesn't
//! say what it wants within [`OPENING_TIMEOUT`] is closed too, or the silent ones would fill the places; and when they do,
//! the one that has been silent for longest makes place for whoever comes. So is one that takes nothing for
//! [`STALL_TIMEOUT`] while answers wait for it. Those whose
//! other end is gone are found by keepalive, TCP's and HTTP/2's.
//!
//! A stopping server lets its connections end by themselves for a while; then its [`Cut`] closes those that remain,
//! whatever task holds them.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{Stream, stream};
use kvd_proto::net::{BoxStream, Listen};
use parking_lot::Mutex;
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
/// A connection whose other end has taken nothing for this long, while something waits for it, is closed.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// So long may a connection take to end that has to make place for another one.
const YIELD_TIMEOUT: Duration = Duration::from_millis(500);
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
    stall_timeout: Duration,
    places: Arc<Semaphore>,
    /// The connections that have not said enough yet, oldest first. Some of them are gone; once there are too many, those
    /// are forgotten.
    silent: Mutex<VecDeque<Weak<CancellationToken>>>,
    silent_max: usize,
    /// Accepted, and without a place so far: kept here, as [`Gate::accept`] may be dropped while it waits for one.
    waiting: Mutex<Option<BoxStream>>,
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
        Self {
            name,
            listener,
            opening_bytes,
            opening_timeout: OPENING_TIMEOUT,
            stall_timeout: STALL_TIMEOUT,
            silent: Mutex::default(),
            waiting: Mutex::default(),
            silent_max: places.available_permits().saturating_mul(2),
            places,
            metrics,
            cut,
        }
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
            let waiting = self.waiting.lock().take();
            let stream = match waiting {
                Some(stream) => stream,
                None => match self.listener.accept().await {
                    Ok(stream) => stream,
                    Err(error) => {
                        tracing::warn!(listener = self.name, %error, "can't accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            *self.waiting.lock() = Some(stream);
            let place = self.place().await;
            let Some(stream) = self.waiting.lock().take() else { continue };
            let Some(place) = place else {
                self.metrics.connection_refused(self.name);
                tracing::debug!(
                    listener = self.name,
                    "closed a connection: there are limits.connections_max of them"
                );
                continue;
            };
            let yielding = Arc::new(CancellationToken::new());
            self.note_silent(&yielding);
            return Connection {
                stream,
                opening: Some(Opening {
                    bytes_missing: self.opening_bytes,
                    timeout: Box::pin(tokio::time::sleep(self.opening_timeout)),
                    yields: Box::pin(CancellationToken::clone(&yielding).cancelled_owned()),
                    _yielding: yielding,
                }),
                stalled: None,
                stall_timeout: self.stall_timeout,
                cut: Box::pin(self.cut.clone().cancelled_owned()),
                _place: place,
                _count: self.metrics.connected(self.name),
            };
        }
    }

    /// A place for one more connection. If there is none, the one that has been silent for longest makes place: whoever
    /// opens connections and says nothing keeps nobody out.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Some(place);
        }
        let oldest = {
            let mut silent = self.silent.lock();
            std::iter::from_fn(|| silent.pop_front()).find_map(|silent| silent.upgrade())
        };
        oldest?.cancel();
        let place = Arc::clone(&self.places).acquire_owned();
        tokio::time::timeout(YIELD_TIMEOUT, place).await.ok()?.ok()
    }

    fn note_silent(&self, yielding: &Arc<CancellationToken>) {
        let mut silent = self.silent.lock();
        if silent.len() >= self.silent_max {
            silent.retain(|silent| silent.strong_count() > 0);
        }
        silent.push_back(Arc::downgrade(yielding));
    }
}

/// A client's connection, which has a place.
pub(crate) struct Connection {
    stream: BoxStream,
    /// Until the client has said enough.
    opening: Option<Opening>,
    /// While the client takes nothing: until when it may.
    stalled: Option<Pin<Box<Sleep>>>,
    stall_timeout: Duration,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    _place: OwnedSemaphorePermit,
    _count: ConnectionCount,
}

struct Opening {
    bytes_missing: usize,
    timeout: Pin<Box<Sleep>>,
    /// Ready once another connection needs the place.
    yields: Pin<Box<WaitForCancellationFutureOwned>>,
    /// By which the gate finds it, as long as it lives.
    _yielding: Arc<CancellationToken>,
}

impl Connection {
    /// What a write came to; an error, if the other end has taken nothing for too long.
    fn written(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.stall_timeout)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")))
    }
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
                if opening.yields.as_mut().poll(cx).is_pending() {
                    ready!(opening.timeout.as_mut().poll(cx));
                }
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client said nothing")))
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.written(cx, written)
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
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.written(cx, written)
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
    #[tokio::test]
    async fn the_longest_silent_one_makes_place_and_those_that_have_spoken_stay() {
        let (gate, _cut, address) = gate().await;
        let places = Arc::new(Semaphore::new(2));
        let gate = Gate { places, opening_timeout: Duration::from_secs(60), ..gate };
        let mut speaker = TcpStream::connect(address).await.unwrap();
        speaker.write_all(b"abc").await.unwrap();
        let mut spoken = gate.accept().await;
        assert_eq!(spoken.read(&mut [0; 8]).await.unwrap(), 3);

        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut held = gate.accept().await;
        for _ in 0..3 {
            let yields = tokio::spawn(async move { held.read(&mut [0; 8]).await });
            let newcomer = TcpStream::connect(address).await.unwrap();
            held = gate.accept().await;
            assert_eq!(yields.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
            assert_eq!(silent.read(&mut [0; 8]).await.unwrap(), 0, "it was hung up on");
            silent = newcomer;
        }
        speaker.write_all(b"d").await.unwrap();
        assert_eq!(spoken.read(&mut [0; 8]).await.unwrap(), 1);

        // Where all have spoken, a newcomer has to go.
        silent.write_all(b"abc").await.unwrap();
        assert_eq!(held.read(&mut [0; 8]).await.unwrap(), 3);
        let mut refused = TcpStream::connect(address).await.unwrap();
        let accepting = tokio::time::timeout(Duration::from_millis(200), gate.accept()).await;
        assert!(accepting.is_err() && refused.read(&mut [0; 8]).await.unwrap_or(0) == 0);
    }

    #[tokio::test]
    async fn who_takes_nothing_is_closed() {
        let (taken, _never_read) = tokio::io::duplex(16);
        let (gate, _cut, address) = gate().await;
        let gate = Gate { stall_timeout: Duration::from_millis(30), ..gate };
        let _client = TcpStream::connect(address).await.unwrap();
        let connection = gate.accept().await;
        let mut connection = Connection { stream: Box::new(taken), ..connection };
        let written = connection.write_all(&[0; 64]).await;
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
