//! What clients do, one file each. A new workload is a new file here and a line in [`draw`].

use std::time::Duration;

use futures::future::BoxFuture;
use kvd_client::Result;
use rand::{RngExt as _, rngs::StdRng};

use crate::history::{Process, RecordingClient};

mod counters;
mod plain;
mod registers;

/// What a process does.
pub(crate) trait Workload: Send {
    /// One thing, recorded; the error, if it was not answered.
    fn turn<'a>(&'a mut self, client: &'a RecordingClient, rng: &'a mut StdRng) -> BoxFuture<'a, Result<()>>;
}

/// A process's workload with its chance.
pub(crate) struct Turns {
    workload: Box<dyn Workload>,
    rng: StdRng,
    rest_max: Duration,
}

/// The workload of a process.
pub(crate) fn draw(rng: StdRng, process: usize, rest_max: Duration) -> Turns {
    let workload: Box<dyn Workload> = match process % 4 {
        2 => Box::new(plain::Plain::new(Process(u32::try_from(process).unwrap_or(u32::MAX)))),
        3 => Box::<counters::Counters>::default(),
        _ => Box::new(registers::Registers::new(process)),
    };
    Turns { workload, rng, rest_max }
}

impl Turns {
    pub(crate) async fn turn(&mut self, client: &RecordingClient) -> Result<()> {
        self.workload.turn(client, &mut self.rng).await
    }

    pub(crate) async fn rest(&mut self) {
        let rest = self.rest_max.mul_f64(self.rng.random_range(0.0..1.0));
        tokio::time::sleep(rest).await;
    }
}

/// The names of keys change as time passes, so that none has more operations than can be searched for an order.
fn key(kind: &str, number: u64, lasts: Duration) -> String {
    let elapsed = turmoil::sim_elapsed().unwrap_or_default();
    let age = elapsed.as_millis() / lasts.as_millis().max(1);
    format!("{kind}/{age}/{number}")
}
