//! Reads and writes of a few keys that everybody uses: get, put, delete, and both writes on a condition. No value is
//! ever written twice.

use std::time::Duration;

use futures::{FutureExt as _, future::BoxFuture};
use kvd_client::{Result, Revision};
use rand::{RngExt as _, rngs::StdRng};

use super::{Workload, key};
use crate::history::RecordingClient;

const KEYS: u64 = 8;
const KEY_LASTS: Duration = Duration::from_secs(5);
/// Longest padding of a value, in bytes: large enough to make checkpoints, small enough to keep.
const PADDING_MAX: usize = 600;

pub(crate) struct Registers {
    process: usize,
    written: u64,
    /// The key and revision that was seen last, for conditions.
    seen: Option<(String, Revision)>,
}

impl Registers {
    pub(crate) const fn new(process: usize) -> Self {
        Self { process, written: 0, seen: None }
    }

    fn value(&mut self, rng: &mut StdRng) -> String {
        self.written += 1;
        let padding = if rng.random_bool(0.2) { rng.random_range(0..PADDING_MAX) } else { 0 };
        // A process that starts anew begins to count anew: the drawn part keeps its values apart from those before.
        format!("{}.{}.{:x}{}", self.process, self.written, rng.random::<u32>(), ".".repeat(padding))
    }

    async fn act(&mut self, client: &RecordingClient, rng: &mut StdRng) -> Result<()> {
        let key = any(rng);
        match rng.random_range(0..100) {
            0..40 => {
                let found = client.get(&key).await?;
                self.seen = found.map(|record| (key, record.revision));
            }
            40..70 => {
                let value = self.value(rng);
                let put = client.put(&key, value).await?;
                self.seen = Some((key, put.revision));
            }
            70..80 => drop(client.put_if_absent(&key, self.value(rng)).await?),
            80..90 => drop(client.delete(&key).await?),
            90..96 => {
                let value = self.value(rng);
                if let Some((key, revision)) = self.seen.take() {
                    drop(client.put_if_revision(&key, value, revision).await?);
                }
            }
            _ => {
                if let Some((key, revision)) = self.seen.take() {
                    drop(client.delete_if_revision(&key, revision).await?);
                }
            }
        }
        Ok(())
    }
}

impl Workload for Registers {
    fn turn<'a>(&'a mut self, client: &'a RecordingClient, rng: &'a mut StdRng) -> BoxFuture<'a, Result<()>> {
        self.act(client, rng).boxed()
    }
}

/// A key of theirs.
pub(super) fn any(rng: &mut StdRng) -> String {
    key("r", rng.random_range(0..KEYS), KEY_LASTS)
}
