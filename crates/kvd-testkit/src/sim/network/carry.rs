//! How a network card carries the bytes of one connection between the network and a process, and how late.
//!
//! Each way is a task's loop. It hands on what it reads, unless the connection is late that way: then what it reads lies
//! until the time that was set, up to a bound, and so do the connection's end and the news that the other side has gone. After
//! that what lies comes slowly for a while, piece by piece, as TCP begins again after a timeout: a request that comes late is
//! often alone for some milliseconds, before the reset or the end that its sender sent right after it.

use std::{
    collections::VecDeque,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use turmoil::net::TcpStream;

/// Read at once.
const PIECE_BYTES: usize = 16 << 10;
/// What may lie on a late connection, each way; beyond that its sender has to wait.
const LYING_BYTES_MAX: usize = 256 << 10;
/// How long a connection that its process has dropped waits for the other side to do so.
const LINGER: Duration = Duration::from_secs(10);
/// How often a connection looks whether its process takes something again.
const STOPPED_PAUSE: Duration = Duration::from_millis(2);

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the network to the process.
    In,
    /// From the process to the network.
    Out,
}

/// What all connections of a card have in common: whether their process takes nothing now, and what came late.
#[derive(Debug, Default)]
pub(crate) struct Common {
    is_stopped: AtomicBool,
    pieces: AtomicU64,
    orphans: AtomicU64,
}

impl Common {
    /// Keeps from the process all that comes, until told otherwise.
    pub(crate) fn stop(&self, is_stopped: bool) {
        self.is_stopped.store(is_stopped, Ordering::Relaxed);
    }

    /// Pieces that came late, and those of them whose sender had already closed its connection.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.pieces.load(Ordering::Relaxed), self.orphans.load(Ordering::Relaxed))
    }
}

/// One connection of a card.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The other end's machine.
    pub(crate) peer: IpAddr,
    ways: [Mutex<Delay>; 2],
    common: Arc<Common>,
}

/// How late one way is, in simulated time.
#[derive(Clone, Copy, Debug, Default)]
struct Delay {
    held_until: Duration,
    slow_until: Duration,
    /// Between two pieces, while it is slow.
    pause: Duration,
}

impl Connection {
    pub(crate) fn new(peer: IpAddr, common: Arc<Common>) -> Self {
        Self { peer, ways: Default::default(), common }
    }

    fn delay(&self, way: Way) -> &Mutex<Delay> {
        let [inward, outward] = &self.ways;
        match way {
            Way::In => inward,
            Way::Out => outward,
        }
    }

    /// Nothing passes that way until then, and for as long again what has lain comes with pauses. Never earlier than
    /// was said before.
    pub(crate) fn hold(&self, way: Way, now: Duration, lasts: Duration, pause: Duration) {
        let mut delay = self.delay(way).lock();
        delay.held_until = delay.held_until.max(now + lasts);
        delay.slow_until = delay.held_until + lasts;
        delay.pause = pause;
    }

    /// How long the next piece has to lie.
    fn wait(&self, way: Way) -> Option<Duration> {
        if self.is_stopped(way) {
            return Some(STOPPED_PAUSE);
        }
        let delay = *self.delay(way).lock();
        if delay.slow_until.is_zero() {
            return None;
        }
        let now = turmoil::sim_elapsed().unwrap_or_default();
        if now < delay.held_until {
            Some(delay.held_until - now)
        } else {
            (now < delay.slow_until).then_some(delay.pause)
        }
    }

    fn is_stopped(&self, way: Way) -> bool {
        way == Way::In && self.common.is_stopped.load(Ordering::Relaxed)
    }

    fn is_held(&self, way: Way) -> bool {
        let delay = *self.delay(way).lock();
        self.is_stopped(way)
            || !delay.held_until.is_zero() && turmoil::sim_elapsed().unwrap_or_default() < delay.held_until
    }

    async fn pass(&self, way: Way) {
        while let Some(wait) = self.wait(way) {
            tokio::time::sleep(wait).await;
            if !self.is_held(way) {
                return;
            }
        }
    }
}

/// Carries a connection until both sides have ended it.
pub(super) async fn both_ways(connection: Arc<Connection>, network: TcpStream, process: DuplexStream) {
    let (from_network, to_network) = network.into_split();
    let (from_process, to_process) = tokio::io::split(process);
    let inward = one_way(&connection, Way::In, from_network, to_process);
    let outward = one_way(&connection, Way::Out, from_process, to_network);
    tokio::pin!(inward, outward);
    tokio::select! {
        biased;
        () = &mut inward => outward.await,
        () = &mut outward => {
            // If the other side never ends it, nobody is there to hear it any more.
            drop(tokio::time::timeout(LINGER, inward).await);
        }
    }
}

async fn one_way(
    connection: &Connection,
    way: Way,
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
) {
    let mut piece = vec![0; PIECE_BYTES];
    let mut is_heard = true;
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        let read = piece.get(..length).unwrap_or_default();
        if !is_heard {
            // Read on, so that the other side's end is seen.
            continue;
        }
        if connection.wait(way).is_none() {
            is_heard = to.write_all(read).await.is_ok();
            continue;
        }
        let first = read.to_vec();
        let (is_open, was_heard) = lie(connection, way, &mut from, &mut to, first).await;
        is_heard = was_heard;
        if !is_open {
            break;
        }
    }
    connection.pass_end(way).await;
    drop(to.shutdown().await);
}

impl Connection {
    fn count(&self, way: Way, is_open: bool) {
        if self.delay(way).lock().slow_until.is_zero() {
            return;
        }
        self.common.pieces.fetch_add(1, Ordering::Relaxed);
        if !is_open {
            self.common.orphans.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The end comes no earlier than what lay before it.
    async fn pass_end(&self, way: Way) {
        if self.wait(way).is_some() {
            self.pass(way).await;
        }
    }
}

/// Lets what comes lie for as long as it has to. Whether more may come, and whether the receiver is still there.
async fn lie(
    connection: &Connection,
    way: Way,
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    first: Vec<u8>,
) -> (bool, bool) {
    let mut lying_bytes = first.len();
    let mut lying = VecDeque::from([first]);
    let mut piece = vec![0; PIECE_BYTES];
    let mut is_open = true;
    while !lying.is_empty() {
        tokio::select! {
            biased;
            read = from.read(&mut piece), if is_open && lying_bytes < LYING_BYTES_MAX => {
                match read.ok().and_then(|length| piece.get(..length)) {
                    None | Some([]) => is_open = false,
                    Some(read) => {
                        lying_bytes += read.len();
                        lying.push_back(read.to_vec());
                    }
                }
            }
            () = connection.pass(way) => {
                let Some(next) = lying.pop_front() else { break };
                lying_bytes -= next.len();
                connection.count(way, is_open);
                if to.write_all(&next).await.is_err() {
                    return (is_open, false);
                }
            }
        }
    }
    (is_open, true)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use kvd_proto::net::Dial as _;
    use turmoil::net::TcpListener;

    use super::*;
    use crate::sim::network::card::{Card, CardDial};

    const PORT: u16 = 1;

    /// What a peer has heard, in the order in which it has.
    type Heard = Arc<Mutex<Vec<String>>>;

    fn simulation(heard: &Heard) -> (turmoil::Sim<'static>, Arc<Card>) {
        let mut sim = turmoil::Builder::new()
            .rng_seed(7)
            .simulation_duration(Duration::from_secs(60))
            .max_message_latency(Duration::from_millis(5))
            .build();
        let (card, heard) = (Arc::<Card>::default(), Arc::clone(heard));
        let boots = Arc::clone(&card);
        sim.host("node", move || boots.boot());
        sim.host("peer", move || {
            let heard = Arc::clone(&heard);
            async move {
                let listener = TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], PORT))).await?;
                loop {
                    let (mut stream, _) = listener.accept().await?;
                    let heard = Arc::clone(&heard);
                    tokio::spawn(async move {
                        let mut all = String::new();
                        stream.read_to_string(&mut all).await.unwrap();
                        heard.lock().push(all);
                    });
                }
            }
        });
        (sim, card)
    }

    /// Sends something over a connection of its own, and gives that up at once.
    async fn send(card: &Arc<Card>, what: &str, late: Option<Duration>) {
        let mut stream = CardDial(Arc::clone(card)).dial(format!("peer:{PORT}")).await.unwrap();
        let connection = card.connections().pop().unwrap();
        if let Some(late) = late {
            let now = turmoil::sim_elapsed().unwrap();
            connection.hold(Way::Out, now, late, Duration::from_millis(20));
        }
        stream.write_all(what.as_bytes()).await.unwrap();
    }

    #[test]
    fn a_later_connection_overtakes_a_late_one_and_what_was_given_up_arrives() {
        let heard = Heard::default();
        let (mut sim, card) = simulation(&heard);
        let sends = Arc::clone(&card);
        sim.client("process", async move {
            send(&sends, "old", Some(Duration::from_secs(2))).await;
            send(&sends, "new", None).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(sends.common().counts(), (0, 0));
            tokio::time::sleep(Duration::from_secs(2)).await;
            Ok(())
        });
        sim.run().unwrap();
        assert_eq!(*heard.lock(), ["new", "old"]);
        assert_eq!(card.common().counts(), (1, 1), "late, and after its sender had gone");
    }

    #[test]
    fn a_late_connection_loses_nothing_and_keeps_its_order() {
        let heard = Heard::default();
        let (mut sim, card) = simulation(&heard);
        let long: String = (0..100_000).map(|number| format!("{number},")).collect();
        let sent = long.clone();
        sim.client("process", async move {
            send(&card, &sent, Some(Duration::from_secs(1))).await;
            tokio::time::sleep(Duration::from_secs(10)).await;
            Ok(())
        });
        sim.run().unwrap();
        assert!(heard.lock().iter().eq([&long]));
    }
}
