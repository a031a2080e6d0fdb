//! What a node stands on: network, disk, threads, clock, chance.
//!
//! # The problem
//! The faults that matter come from below: a disk that forgets, a network that cuts, a clock that jumps, at the worst of
//! moments and a thousand times over. Real ones are slow to provoke and never the same twice.
//!
//! # The approach
//! All that a node asks of the machine passes through a [`Platform`]. [`System`] is the machine. A simulation gives each
//! node a platform of its own, in which everything that happens follows from one seed.
//!
//! # What it deliberately does not do
//! Timers and tasks are tokio's, here and there: a simulation pauses tokio's clock.

use std::{any::Any, fmt, io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use kvd_proto::net::{BoxStream, Dialer, Listen};
use kvd_raft::{
    blocking::Blocking,
    clock::{Clock, SystemClock},
    observe::Observer,
};
use kvd_storage::{
    disk::{Disk, RealDisk},
    engine::Engine,
    identity::DirLock,
    log::{Driver, Writer},
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    runtime::Handle,
};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;
/// A connection that says nothing for so long is asked for a sign of life, by TCP…
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// …and so often again.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);

/// What a node stands on.
pub trait Platform: fmt::Debug + Send + Sync + 'static {
    /// Takes connections at an address.
    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listen>>>;

    /// Makes connections.
    fn dialer(&self) -> Dialer;

    /// The file system that holds the data directory.
    fn disk(&self) -> Arc<dyn Disk>;

    /// Keeps other processes out of a data directory until the lock is dropped.
    ///
    /// # Errors
    /// The directory is locked already, or can't be.
    fn lock(&self, dir: &Path) -> kvd_storage::Result<Box<dyn Any + Send + Sync>>;

    /// Identifies the boot that the machine is in; empty where the system doesn't tell, and then no stop but a clean one is
    /// believed to have lost nothing.
    fn boot_id(&self) -> String;

    /// The engine, if it isn't the one of the configuration.
    fn engine(&self) -> Option<Arc<dyn Engine>>;

    /// Tells the time of day.
    fn clock(&self) -> Arc<dyn Clock>;

    /// Where work that may wait for the disk is done.
    fn blocking(&self) -> Blocking;

    /// Where clients are served; the rest runs where the node does. Apart, what clients ask for holds up nobody's heartbeats.
    fn clients(&self) -> Handle {
        Handle::current()
    }

    /// Who writes the log.
    fn log_writer(&self) -> Writer;

    /// The log was opened. Whoever chose [`Writer::Driven`] makes it write with this.
    fn log_opened(&self, driver: Driver);

    /// Something waits to be written to the log; told only with [`Writer::Driven`].
    fn log_has_work(&self);

    /// A number that nobody else has drawn.
    fn random(&self) -> u128;

    /// Who else watches the node's replicas.
    fn observer(&self) -> Option<Arc<dyn Observer>>;
}

/// The machine itself.
#[derive(Clone, Debug, Default)]
pub struct System {
    /// The runtime for clients; none: the node's.
    pub clients: Option<Handle>,
}

impl Platform for System {
    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listen>>> {
        let listen = move || {
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            Ok(Box::new(TcpPort(socket.listen(BACKLOG)?)) as Box<dyn Listen>)
        };
        async move { listen() }.boxed()
    }

    fn dialer(&self) -> Dialer {
        Dialer::default()
    }

    fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(RealDisk)
    }

    fn lock(&self, dir: &Path) -> kvd_storage::Result<Box<dyn Any + Send + Sync>> {
        Ok(Box::new(DirLock::acquire(dir)?))
    }

    fn boot_id(&self) -> String {
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map(|id| id.trim().to_owned())
            .unwrap_or_default()
    }

    fn engine(&self) -> Option<Arc<dyn Engine>> {
        None
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(SystemClock)
    }

    fn blocking(&self) -> Blocking {
        Blocking::Pool
    }

    fn clients(&self) -> Handle {
        self.clients.clone().unwrap_or_else(Handle::current)
    }

    fn log_writer(&self) -> Writer {
        Writer::Thread
    }

    fn log_opened(&self, _driver: Driver) {}

    fn log_has_work(&self) {}

    fn random(&self) -> u128 {
        rand::random()
    }

    fn observer(&self) -> Option<Arc<dyn Observer>> {
        None
    }
}

/// A TCP port.
#[derive(Debug)]
pub struct TcpPort(pub TcpListener);

impl Listen for TcpPort {
    fn accept(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        async move {
            loop {
                let (stream, from) = self.0.accept().await?;
                match configure(&stream) {
                    Ok(()) => return Ok(Box::new(stream) as BoxStream),
                    Err(error) => tracing::debug!(%from, %error, "a connection ended before it began"),
                }
            }
        }
        .boxed()
    }
}

fn configure(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
    socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive)
}
