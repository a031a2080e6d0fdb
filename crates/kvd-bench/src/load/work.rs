//! The requests of a load, and who makes them in a closed loop: clients, each of which begins its next request when the last
//! one is answered.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use kvd_client::LeaseId;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::{Book, Kind, Load, choice::Keys};
use crate::{
    target::{Connection, Failure},
    values::Values,
};

/// What all clients share.
pub(super) struct Work {
    pub(super) load: Load,
    pub(super) book: Book,
    leases: Vec<LeaseId>,
    keys: Keys,
    values: Values,
}

/// One request.
pub(super) struct Request {
    pub(super) kind: Kind,
    /// Of the key, or of the keys; a batch's puts are of one shard, and need no more than one.
    numbers: Vec<u64>,
    /// Of the value that a write puts there; reads make none.
    value_number: u64,
    /// Rows of a scan.
    rows: u32,
    /// Of the client that makes it, or of the request where there are no clients.
    pub(super) maker: usize,
}

impl Work {
    pub(super) fn new(load: &Load, leases: Vec<LeaseId>) -> anyhow::Result<Self> {
        let (book, keys) = (Book::new(&load.kinds())?, Keys::new(load.choice, load.keys)?);
        Ok(Self { load: load.clone(), book, leases, keys, values: Values::new(load.value_bytes) })
    }

    /// The next request.
    pub(super) fn draw(&self, maker: usize, random: &mut SmallRng) -> Request {
        let kind = self.load.kind(random);
        let keys = if kind == Kind::BatchGet { self.load.batch } else { 1 };
        let numbers = (0..keys).map(|_| self.keys.draw(random)).collect();
        let rows = if kind == Kind::Scan { random.random_range(1..=self.load.rows_max) } else { 0 };
        Request { kind, numbers, value_number: random.random(), rows, maker }
    }

    /// Makes a request. Gives the rows that it was answered with, where there may be more than one.
    pub(super) async fn ask(&self, connection: &Connection, request: &Request) -> Result<u64, Failure> {
        let (load, number) = (&self.load, request.numbers.first().copied().unwrap_or_default());
        let value = || self.values.numbered(request.value_number);
        match request.kind {
            Kind::Put => connection.put(number, &value(), load.ttl).await?,
            Kind::Get => connection.get(number, load.reads).await?,
            Kind::ReadModifyWrite => {
                connection.get(number, load.reads).await?;
                connection.put(number, &value(), load.ttl).await?;
            }
            Kind::BatchGet => return connection.batch_get(&request.numbers, load.reads).await,
            Kind::BatchPut => return connection.batch_put(number, load.batch, &value()).await,
            Kind::Scan => return connection.scan(number, request.rows).await,
            Kind::Txn => connection.transact(number, &value()).await?,
            Kind::KeepAlive => {
                let lease = usize::try_from(number).ok().and_then(|place| self.leases.get(place));
                connection.keep_alive(lease.copied().unwrap_or_default()).await?;
            }
        }
        Ok(0)
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
        let outcome = work.ask(&connection, &request).await;
        let answered = Instant::now();
        work.book.note(maker, request.kind, answered - began, outcome);
        began = answered;
    }
}
