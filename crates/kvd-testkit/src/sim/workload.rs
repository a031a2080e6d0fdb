//! What clients do, one file each. A new workload is a new file here and a line in [`draw`].

use std::time::Duration;

use futures::future::BoxFuture;
use kvd_client::Result;
use rand::{RngExt as _, rngs::StdRng};

use crate::history::RecordingClient;

mod counters;
mod registers;

/// The longest that a process rests between two operations.
const REST_MAX: Duration = Duration::from_millis(60);

/// What a process does.
pub(crate) trait Workload: Send {
    /// One thing, recorded; the error, if it was not answered.
    fn turn<'a>(&'a mut self, client: &'a RecordingClient, rng: &'a mut StdRng) -> BoxFuture<'a, Result<()>>;
}

/// A process's workload with its chance.
pub(crate) struct Turns {
    workload: Box<dyn Workload>,
    rng: StdRng,
}

/// The workload of a process.
pub(crate) fn draw(rng: StdRng, process: usize) -> Turns {
    let workload: Box<dyn Workload> = match process % 4 {
        3 => Box::<counters::Counters>::default(),
        _ => Box::new(registers::Registers::new(process)),
    };
    Turns { workload, rng }
}

impl Turns {
    pub(crate) async fn turn(&mut self, client: &RecordingClient) -> Result<()> {
        self.workload.turn(client, &mut self.rng).await
    }

    pub(crate) async fn rest(&mut self) {
        let rest_ms = self.rng.random_range(0..=u64::try_from(REST_MAX.as_millis()).unwrap_or(u64::MAX));
        tokio::time::sleep(Duration::from_millis(rest_ms)).await;
    }
}

/// The names of keys change as time passes, so that none has more operations than can be searched for an order.
fn key(kind: &str, number: u64, lasts: Duration) -> String {
    let elapsed = turmoil::sim_elapsed().unwrap_or_default();
    let age = elapsed.as_millis() / lasts.as_millis().max(1);
    format!("{kind}/{age}/{number}")
}
