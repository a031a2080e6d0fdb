//! The seam between the wire and the network: how byte streams come to be.
//!
//! gRPC runs over any byte stream. Production makes them of TCP; a simulation makes them of memory, and cuts, delays and
//! loses them as its seed says. Nothing above this module names a socket.
//!
//! # What it deliberately does not do
//! It knows nothing of who calls whom, of retries or of deadlines.

use std::{fmt, io, sync::Arc};

use futures::{FutureExt as _, future::BoxFuture};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::transport::{Channel, Endpoint, Uri};

/// A connection's bytes, both ways.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for S {}

/// Any such stream.
pub type BoxStream = Box<dyn Stream>;

/// Makes connections.
pub trait Dial: fmt::Debug + Send + Sync + 'static {
    /// Connects to `host:port`.
    fn dial(&self, address: String) -> BoxFuture<'static, io::Result<BoxStream>>;
}

/// Takes connections.
pub trait Listen: fmt::Debug + Send + Sync + 'static {
    /// The next connection. May be dropped and called again.
    fn accept(&self) -> BoxFuture<'_, io::Result<BoxStream>>;
}

/// How channels get their connections: over TCP, unless told otherwise.
#[derive(Clone, Debug, Default)]
pub struct Dialer(Option<Arc<dyn Dial>>);

impl Dialer {
    /// Connections made like this.
    #[must_use]
    pub fn new(dial: Arc<dyn Dial>) -> Self {
        Self(Some(dial))
    }

    /// A channel that connects when it is first used.
    #[must_use]
    pub fn connect_lazily(&self, endpoint: &Endpoint) -> Channel {
        match &self.0 {
            None => endpoint.connect_lazy(),
            Some(dial) => endpoint.connect_with_connector_lazy(connector(Arc::clone(dial))),
        }
    }

    /// A connected channel.
    ///
    /// # Errors
    /// What the network says.
    pub async fn connect(&self, endpoint: &Endpoint) -> Result<Channel, tonic::transport::Error> {
        match &self.0 {
            None => endpoint.connect().await,
            Some(dial) => endpoint.connect_with_connector(connector(Arc::clone(dial))).await,
        }
    }
}

fn connector(
    dial: Arc<dyn Dial>,
) -> impl tower::Service<
    Uri,
    Response = TokioIo<BoxStream>,
    Error = io::Error,
    Future = BoxFuture<'static, io::Result<TokioIo<BoxStream>>>,
> + Send
+ 'static {
    tower::service_fn(move |uri: Uri| {
        let address = uri.authority().map(ToString::to_string).unwrap_or_default();
        let dialled = dial.dial(address);
        async move { dialled.await.map(TokioIo::new) }.boxed()
    })
}
