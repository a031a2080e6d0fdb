//! A node as this client reaches it: one connection, one pipeline over it, those that watches need beside, and whether it
//! is worth trying.
//!
//! A node that can't be reached, or that let a try time out, is *shunned* for a while, longer with each failure in a row:
//! requests then go to the other nodes first, and those that would need a new connection to it fail at once instead of
//! each waiting for the same dead host.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use kvd_proto::v1::{cluster_client::ClusterClient, kv_client::KvClient};
use kvd_types::{Error, Result, limits::MESSAGE_BYTES_MAX};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};
use tonic::transport::{Channel, Endpoint};

use crate::{
    config::Config,
    pipeline::Pipeline,
    watch_channels::{Seat, WatchChannels},
};

/// A ping goes out after this long without a sign of life...
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// ... and the connection is given up after this long without an answer, so that a node that died silently is noticed
/// within some two seconds.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_millis(1250);
/// Bytes that a server may send ahead on one stream, and on all of a connection's.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// See [`STREAM_WINDOW_BYTES`].
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Bytes that a server may send ahead on one watch.
const WATCH_WINDOW_BYTES: u32 = 256 << 10;
/// How long a node is shunned after its first failure, and at most.
const SHUN_FIRST: Duration = Duration::from_millis(100);
/// See [`SHUN_FIRST`].
const SHUN_MAX: Duration = Duration::from_secs(2);

/// A node as this client reaches it.
#[derive(Debug)]
pub(crate) struct Peer {
    address: Arc<str>,
    channel: Channel,
    watches: WatchChannels,
    connect_timeout: Duration,
    pipeline: ArcSwapOption<Pipeline>,
    /// Held by whoever opens the pipeline: the others wait for the same attempt.
    opening: tokio::sync::Mutex<()>,
    health: Mutex<Health>,
    /// Whether there were failures since the node last answered: saves a lock on the usual path.
    troubled: AtomicBool,
}

#[derive(Debug, Default)]
struct Health {
    failures: u32,
    shunned_until: Option<Instant>,
    reason: String,
}

impl Peer {
    /// A node at an address. Connects when first used.
    ///
    /// # Errors
    /// Invalid argument, for something that isn't `host:port`.
    pub(crate) fn new(address: Arc<str>, config: &Config) -> Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| {
            Error::invalid(format!("{address} is not a node's address (host:port): {error}"))
        })?;
        let endpoint = endpoint
            .connect_timeout(config.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        let watch_endpoint = endpoint.clone().initial_stream_window_size(WATCH_WINDOW_BYTES);
        Ok(Self {
            address,
            channel: config.dialer.connect_lazily(&endpoint),
            watches: WatchChannels::new(watch_endpoint, config.dialer.clone()),
            connect_timeout: config.connect_timeout,
            pipeline: ArcSwapOption::empty(),
            opening: tokio::sync::Mutex::default(),
            health: Mutex::default(),
            troubled: AtomicBool::new(false),
        })
    }

    pub(crate) const fn address(&self) -> &Arc<str> {
        &self.address
    }

    /// The node's cluster service.
    pub(crate) fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The node's data service, for a watch, which keeps the place as long as it goes on.
    pub(crate) fn watches(&self) -> (KvClient<Channel>, Seat) {
        let seat = self.watches.seat();
        (KvClient::new(seat.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX), seat)
    }

    /// The pipeline to the node, opened if need be.
    ///
    /// # Errors
    /// Unavailable: the node can't be reached, or couldn't a moment ago.
    pub(crate) async fn pipeline(&self, until: Instant) -> Result<Arc<Pipeline>> {
        if let Some(pipeline) = self.open_pipeline() {
            return Ok(pipeline);
        }
        let Ok(_opening) = timeout_at(until, self.opening.lock()).await else {
            return Err(Error::unavailable(format!("node {}: no connection in time", self.address)));
        };
        if let Some(pipeline) = self.open_pipeline() {
            return Ok(pipeline);
        }
        self.check_shunned()?;
        let until = until.min(Instant::now() + self.connect_timeout);
        let opened = timeout_at(until, Pipeline::open(self.channel.clone(), &self.address)).await;
        let opened = opened.unwrap_or_else(|_elapsed| {
            Err(Error::unavailable(format!("node {}: no answer while connecting", self.address)))
        });
        match opened {
            Ok(pipeline) => {
                let pipeline = Arc::new(pipeline);
                self.pipeline.store(Some(Arc::clone(&pipeline)));
                self.well();
                Ok(pipeline)
            }
            Err(error) => {
                self.shun(&error);
                Err(error)
            }
        }
    }

    fn open_pipeline(&self) -> Option<Arc<Pipeline>> {
        self.pipeline.load_full().filter(|pipeline| pipeline.is_open())
    }

    /// Whether other nodes should be tried first.
    pub(crate) fn is_shunned(&self) -> bool {
        self.troubled.load(Ordering::Relaxed)
            && self.health.lock().shunned_until.is_some_and(|until| until > Instant::now())
    }

    fn check_shunned(&self) -> Result<()> {
        let health = self.health.lock();
        match health.shunned_until {
            Some(until) if until > Instant::now() => Err(Error::unavailable(health.reason.clone())),
            _ => Ok(()),
        }
    }

    /// The node failed: try others first for a while.
    pub(crate) fn shun(&self, error: &Error) {
        let mut health = self.health.lock();
        let now = Instant::now();
        // Many requests see the same failure: it counts once.
        if health.shunned_until.is_none_or(|until| until <= now) {
            let pause = SHUN_FIRST.saturating_mul(1 << health.failures.min(8)).min(SHUN_MAX);
            health.failures += 1;
            health.shunned_until = Some(now + pause);
            health.reason.clone_from(&error.message);
            self.troubled.store(true, Ordering::Relaxed);
        }
    }

    /// The node has answered.
    pub(crate) fn well(&self) {
        if !self.troubled.load(Ordering::Relaxed) {
            return;
        }
        let mut health = self.health.lock();
        self.troubled.store(false, Ordering::Relaxed);
        health.failures = 0;
        health.shunned_until = None;
    }
}
