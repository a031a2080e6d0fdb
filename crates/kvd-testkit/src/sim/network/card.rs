//! The network as a node's process has it: through a card of the machine's, which goes on without the process.
//!
//! # The problem
//! What a process has written to a connection is out of its hands. It is delivered even if the process gives the connection up,
//! stops or is killed in the next moment; and it may be delivered late, since every connection has buffers, losses and
//! retransmissions of its own. So although TCP keeps the bytes of one connection in order, the messages of two
//! processes are neither in order nor single: a caller gives up, connects anew, sends its request again, sends later ones
//! over the new connection, and only then the old connection's bytes come through. That is how reordering and duplication
//! look over TCP, and all that TCP permits of them.
//!
//! # The approach
//! The simulation's host of a node is its network card (what the kernel does of it, too): it owns the simulated network's
//! streams. The node's process runs on a runtime of its own (see [`crate::sim::process`]) and holds one end of a bounded
//! pipe for each connection, and tasks of the card's carry the bytes across ([`super::carry`]), as late as the connection's state
//! says. All delays are set from outside, by faults, drawn from the seed.
//!
//! # Invariants
//! - Bytes of one connection are never lost, doubled or put in another order by the card.
//! - What the process wrote before it dropped a connection is delivered, and then the connection's end, unless the machine
//!   loses its power.
//!
//! # What it deliberately does not do
//! A process that is gone doesn't answer with a reset; its peer is told by the connection's end alone.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Weak},
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use kvd_proto::net::{BoxStream, Dial, Listen};
use parking_lot::Mutex;
use tokio::{
    io::DuplexStream,
    sync::{mpsc, oneshot},
};
use turmoil::net::{TcpListener, TcpStream};

use super::carry::{self, Common, Connection};

/// What a process asks of its card and the card has not yet looked at.
const ORDERS_MAX: usize = 1024;
/// Connections that the process has yet to accept, as a listening socket's backlog.
const BACKLOG: usize = 128;
/// What a pipe between a process and its card holds, each way, as a socket's buffer.
const PIPE_BYTES: usize = 128 << 10;
/// How often a port is tried that the process's predecessor may have yet to leave, and the pause between.
const BIND_TRIES: u32 = 50;
const BIND_PAUSE: Duration = Duration::from_millis(2);

enum Order {
    Dial(String, oneshot::Sender<io::Result<DuplexStream>>),
    Listen(SocketAddr, oneshot::Sender<io::Result<mpsc::Receiver<DuplexStream>>>),
}

/// See the module. One for each node, through all its starts.
#[derive(Default)]
pub(crate) struct Card(Mutex<State>);

#[derive(Default)]
struct State {
    orders: Option<mpsc::Sender<Order>>,
    connections: Vec<Weak<Connection>>,
    common: Arc<Common>,
}

impl std::fmt::Debug for Card {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Card")
    }
}

impl Card {
    /// The card of a machine that boots: what its simulated host is to run. Orders are taken from now on.
    pub(crate) fn boot(self: &Arc<Self>) -> impl Future<Output = turmoil::Result> + use<> {
        let (orders, mut inbox) = mpsc::channel(ORDERS_MAX);
        self.0.lock().orders = Some(orders);
        let card = Arc::clone(self);
        async move {
            while let Some(order) = inbox.recv().await {
                let card = Arc::clone(&card);
                match order {
                    Order::Dial(address, reply) => tokio::spawn(card.dial(address, reply)),
                    Order::Listen(address, reply) => tokio::spawn(card.listen(address, reply)),
                };
            }
            Ok(())
        }
    }

    /// The connections that are open now, in the order in which they were made.
    pub(crate) fn connections(&self) -> Vec<Arc<Connection>> {
        self.0.lock().connections.iter().filter_map(Weak::upgrade).collect()
    }

    /// What holds for all of them.
    pub(crate) fn common(&self) -> Arc<Common> {
        Arc::clone(&self.0.lock().common)
    }

    fn order(&self, order: Order) -> io::Result<()> {
        let Some(orders) = self.0.lock().orders.clone() else {
            return Err(io::Error::new(io::ErrorKind::NetworkDown, "the machine is down"));
        };
        orders.try_send(order).map_err(|error| io::Error::other(format!("the card takes no orders: {error}")))
    }

    async fn dial(self: Arc<Self>, address: String, mut reply: oneshot::Sender<io::Result<DuplexStream>>) {
        let dialled = tokio::select! {
            biased;
            () = reply.closed() => return,
            dialled = TcpStream::connect(address.as_str()) => dialled,
        };
        let dialled = dialled.and_then(|stream| {
            let peer = stream.peer_addr()?.ip();
            Ok(self.carry(stream, peer))
        });
        // One who no longer wants it drops its end, and the carrier sees that.
        drop(reply.send(dialled));
    }

    async fn listen(
        self: Arc<Self>,
        address: SocketAddr,
        reply: oneshot::Sender<io::Result<mpsc::Receiver<DuplexStream>>>,
    ) {
        let mut tries = 0;
        let listener = loop {
            match TcpListener::bind(address).await {
                Ok(listener) => break listener,
                Err(error) if tries == BIND_TRIES => {
                    drop(reply.send(Err(error)));
                    return;
                }
                Err(_) => tokio::time::sleep(BIND_PAUSE).await,
            }
            tries += 1;
        };
        let (accepted, backlog) = mpsc::channel(BACKLOG);
        drop(reply.send(Ok(backlog)));
        loop {
            let stream = tokio::select! {
                biased;
                () = accepted.closed() => return,
                stream = listener.accept() => stream,
            };
            let Ok((stream, peer)) = stream else { return };
            let Ok(place) = accepted.reserve().await else { return };
            place.send(self.carry(stream, peer.ip()));
        }
    }

    /// Carries a connection's bytes from now on. The process's end of it.
    fn carry(&self, stream: TcpStream, peer: IpAddr) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let connection = {
            let mut state = self.0.lock();
            state.connections.retain(|connection| connection.strong_count() > 0);
            let connection = Arc::new(Connection::new(peer, Arc::clone(&state.common)));
            state.connections.push(Arc::downgrade(&connection));
            connection
        };
        tokio::spawn(carry::both_ways(connection, stream, ours));
        theirs
    }
}

/// Connects a node's process by way of its card.
#[derive(Clone, Debug)]
pub(crate) struct CardDial(pub(crate) Arc<Card>);

impl Dial for CardDial {
    fn dial(&self, address: String) -> BoxFuture<'static, io::Result<BoxStream>> {
        let card = Arc::clone(&self.0);
        async move {
            let (reply, answer) = oneshot::channel();
            card.order(Order::Dial(address, reply))?;
            let stream = answer.await.map_err(|_| io::Error::from(io::ErrorKind::NetworkDown))??;
            Ok(Box::new(stream) as BoxStream)
        }
        .boxed()
    }
}

/// A port of a node's process.
pub(crate) struct CardPort(tokio::sync::Mutex<mpsc::Receiver<DuplexStream>>);

impl std::fmt::Debug for CardPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CardPort")
    }
}

impl CardPort {
    pub(crate) async fn bind(card: &Card, address: SocketAddr) -> io::Result<Box<dyn Listen>> {
        let (reply, answer) = oneshot::channel();
        card.order(Order::Listen(address, reply))?;
        let backlog = answer.await.map_err(|_| io::Error::from(io::ErrorKind::NetworkDown))??;
        Ok(Box::new(Self(tokio::sync::Mutex::new(backlog))))
    }
}

impl Listen for CardPort {
    fn accept(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        async move {
            let Some(stream) = self.0.lock().await.recv().await else {
                return Err(io::Error::from(io::ErrorKind::NetworkDown));
            };
            Ok(Box::new(stream) as BoxStream)
        }
        .boxed()
    }
}
