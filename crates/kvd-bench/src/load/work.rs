//! The requests of a load, and who makes them in a closed loop: clients, each of which begins its next request when the last
//! one is answered.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use kvd_client::LeaseId;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::{Book, Kind, Load, value};
use crate::target::{Connection, Failure};

/// Values that are put: enough that a target can't make one of many.
const VALUES: usize = 16;

/// What all clients share.
pub(super) struct Work {
    pub(super) load: Load,
    pub(super) book: Book,
    leases: Vec<LeaseId>,
    values: [Bytes; VALUES],
}

/// One request.
#[derive(Clone, Copy)]
pub(super) struct Request {
    pub(super) kind: Kind,
    /// Of the key.
    number: u64,
    /// Of the client that makes it, or of the request where there are no clients.
    pub(super) maker: usize,
}

impl Work {
    pub(super) fn new(load: &Load, leases: Vec<LeaseId>) -> anyhow::Result<Self> {
        let values = std::array::from_fn(|seed| value(load.value_bytes, seed as u64));
        Ok(Self { load: load.clone(), book: Book::new(load.kinds())?, leases, values })
    }

    /// The next request.
    pub(super) fn draw(&self, maker: usize, random: &mut SmallRng) -> Request {
        Request { kind: self.load.kind(random), number: random.random_range(0..self.load.keys), maker }
    }

    /// Makes a request.
    pub(super) async fn ask(&self, connection: &Connection, request: Request) -> Result<(), Failure> {
        let Request { kind, number, maker } = request;
        let value = &self.values[maker % VALUES];
        match kind {
            Kind::Put => connection.put(number, value, self.load.ttl).await,
            Kind::Get => connection.get(number).await,
            Kind::Txn => connection.transact(number, value).await,
            Kind::KeepAlive => {
                let lease = usize::try_from(number).ok().and_then(|place| self.leases.get(place));
                connection.keep_alive(lease.copied().unwrap_or_default()).await
            }
        }
    }
}

/// When the requests end.
#[derive(Clone)]
pub(super) enum Until {
    Time(Instant),
    /// How many may still be begun.
    Left(Arc<AtomicU64>),
}

impl Until {
    /// Whether one more may be begun.
    pub(super) fn more(&self, now: Instant) -> bool {
        match self {
            Self::Time(end) => now < *end,
            Self::Left(left) => {
                left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
            }
        }
    }
}

/// Has clients make requests until the end.
pub(super) async fn closed(
    work: &Arc<Work>,
    connections: &[Connection],
    clients: u32,
    until: &Until,
) -> anyhow::Result<()> {
    let clients = (0..clients).zip(connections.iter().cycle()).map(|(number, connection)| {
        tokio::spawn(client(Arc::clone(work), connection.clone(), number, until.clone()))
    });
    for client in clients.collect::<Vec<_>>() {
        client.await?;
    }
    Ok(())
}

async fn client(work: Arc<Work>, connection: Connection, number: u32, until: Until) {
    let mut random = SmallRng::seed_from_u64(number.into());
    let maker = usize::try_from(number).unwrap_or_default();
    let mut began = Instant::now();
    while until.more(began) {
        let request = work.draw(maker, &mut random);
        let outcome = work.ask(&connection, request).await;
        let answered = Instant::now();
        work.book.note(maker, request.kind, answered - began, outcome);
        began = answered;
    }
}
