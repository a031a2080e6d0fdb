//! What clients do, one file each. A new workload is a new file here, a [`Kind`] and a line in [`draw`].

use std::{sync::Arc, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use kvd_client::Result;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};

use super::records::Records;
use crate::history::{Process, RecordingClient};

mod counters;
mod lapsing;
mod locks;
mod moments;
mod plain;
mod ranges;
mod reader;
mod registers;
mod stale;
mod transactions;
mod watches;

/// What a process does.
pub(crate) trait Workload: Send {
    /// One thing, recorded; the error, if it was not answered.
    fn turn<'a>(&'a mut self, client: &'a RecordingClient, rng: &'a mut StdRng) -> BoxFuture<'a, Result<()>>;

    /// Comes to an end, with no fault left and everybody else about to do the same.
    fn finish<'a>(&'a mut self, client: &'a RecordingClient, rng: &'a mut StdRng) -> BoxFuture<'a, ()> {
        let _ = (client, rng);
        async {}.boxed()
    }
}

/// What processes do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Registers,
    /// In every run, beside the mix.
    Reader,
    Counters,
    Plain,
    Moments,
    Stale,
    Watches,
    Transactions,
    Lapsing,
    Locks,
    Ranges,
}

/// How many processes there may be.
pub(crate) const PROCESSES_MAX: usize = 8;

/// What the processes of a run do: a hand of what there is, some of it twice as likely.
pub(crate) fn mix(rng: &mut StdRng) -> [Kind; PROCESSES_MAX] {
    let mut all = [
        Kind::Registers,
        Kind::Registers,
        Kind::Counters,
        Kind::Plain,
        Kind::Moments,
        Kind::Moments,
        Kind::Stale,
        Kind::Stale,
        Kind::Watches,
        Kind::Watches,
        Kind::Transactions,
        Kind::Lapsing,
        Kind::Lapsing,
        Kind::Locks,
        Kind::Ranges,
    ];
    all.shuffle(rng);
    let [a, b, c, d, e, f, g, h, ..] = all;
    [a, b, c, d, e, f, g, h]
}

/// A process's workload with its chance.
pub(crate) struct Turns {
    workload: Box<dyn Workload>,
    rng: StdRng,
    rest_max: Duration,
}

/// What a process is, for its workload.
pub(crate) struct Person {
    pub(crate) kind: Kind,
    pub(crate) process: usize,
    /// The number of its client.
    pub(crate) client: u64,
    pub(crate) records: Arc<Records>,
    pub(crate) seed: u64,
    pub(crate) rest_max: Duration,
}

/// The workload of a process.
pub(crate) fn draw(person: Person) -> Turns {
    let Person { kind, process: number, client, records, seed, rest_max } = person;
    let process = Process(u32::try_from(number).unwrap_or(u32::MAX));
    let workload: Box<dyn Workload> = match kind {
        Kind::Registers => Box::new(registers::Registers::new(number)),
        Kind::Reader => Box::new(reader::Reader::new(records, process, client)),
        Kind::Counters => Box::<counters::Counters>::default(),
        Kind::Plain => Box::new(plain::Plain::new(process)),
        Kind::Moments => Box::new(moments::Moments::new(records, process, client)),
        Kind::Stale => Box::new(stale::Stale::new(records, process, client)),
        Kind::Watches => Box::new(watches::Watches::new(records, process, client)),
        Kind::Transactions => Box::new(transactions::Transactions::new(records)),
        Kind::Lapsing => Box::new(lapsing::Lapsing::new(records, process)),
        Kind::Locks => Box::new(locks::Locks::new(&records)),
        Kind::Ranges => Box::new(ranges::Ranges::new(records, process)),
    };
    Turns { workload, rng: StdRng::seed_from_u64(seed), rest_max }
}

impl Turns {
    pub(crate) async fn turn(&mut self, client: &RecordingClient) -> Result<()> {
        self.workload.turn(client, &mut self.rng).await
    }

    pub(crate) async fn finish(&mut self, client: &RecordingClient) {
        self.workload.finish(client, &mut self.rng).await;
    }

    pub(crate) async fn rest(&mut self) {
        let rest = self.rest_max.mul_f64(self.rng.random_range(0.0..1.0));
        tokio::time::sleep(rest).await;
    }
}

/// The names of keys change as time passes, so that none has more operations than can be searched for an order.
fn key(kind: &str, number: u64, lasts: Duration) -> String {
    format!("{kind}/{}/{number}", age(lasts))
}

/// How many times so much time has passed.
fn age(lasts: Duration) -> u128 {
    let elapsed = turmoil::sim_elapsed().unwrap_or_default();
    elapsed.as_millis() / lasts.as_millis().max(1)
}
