//! A node's ports.

use std::net::SocketAddr;

use anyhow::Context as _;
use kvd_proto::{net::Listen, peer::v1::peer_server::PeerServer};
use kvd_raft::peer::{PeerHandler, PeerService};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use super::Duration;
use crate::{
    config::Config,
    connections::{Cut, Gate, HTTP2_OPENING_BYTES, ServiceLimits},
    metrics::SharedMetrics,
    platform::Platform,
};

/// A silent peer is asked for a sign of life this often…
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// …and given up after this long without one.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// HTTP/2 windows, as the callers'.
const WINDOW_BYTES: u32 = 8 << 20;
/// Streams on one connection of a peer: it uses one.
const STREAMS_MAX: u32 = 64;

/// A node's listening ports.
pub(super) struct Listeners {
    pub(super) client: Box<dyn Listen>,
    pub(super) peer: Box<dyn Listen>,
    pub(super) http: Box<dyn Listen>,
}

impl Listeners {
    /// Binds them all, or none.
    pub(super) async fn bind(platform: &dyn Platform, config: &Config) -> anyhow::Result<Self> {
        Ok(Self {
            client: bind(platform, config.listen_client, "listen_client").await?,
            peer: bind(platform, config.listen_peer, "listen_peer").await?,
            http: bind(platform, config.listen_http, "listen_http").await?,
        })
    }
}

async fn bind(
    platform: &dyn Platform,
    address: SocketAddr,
    setting: &str,
) -> anyhow::Result<Box<dyn Listen>> {
    let listening = platform.listen(address).await;
    listening
        .with_context(|| format!("can't listen on {address} ({setting}): is another process using the port?"))
}

/// Serves other nodes until told to stop; what is under way then is cut. As many connections are taken as on each of the
/// other ports, and silent ones are closed: whoever has no token must not use up the node's file handles either.
pub(super) async fn serve_peers<H: PeerHandler>(
    listener: Box<dyn Listen>,
    service: PeerServer<PeerService<H>>,
    limits: ServiceLimits,
    metrics: SharedMetrics,
    serving: CancellationToken,
) {
    let cut = Cut::new();
    let gate = Gate::new("peer", listener, HTTP2_OPENING_BYTES, &limits, metrics, &cut);
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_MAX)
        .add_service(service)
        .serve_with_incoming(gate.connections());
    tokio::select! {
        () = serving.cancelled() => {}
        served = server => if let Err(error) = served {
            tracing::error!(%error, "the peer port has stopped serving");
        },
    }
    drop(cut);
}
