//! Counters that everybody increases, by reading and then writing on the condition that nobody else has. An increment that
//! is lost or made twice breaks the chain of conditions, which the checkers of the history see.

use std::time::Duration;

use futures::{FutureExt as _, future::BoxFuture};
use kvd_client::Result;
use rand::{RngExt as _, rngs::StdRng};

use super::{Workload, key};
use crate::history::RecordingClient;

const COUNTERS: u64 = 3;
const KEY_LASTS: Duration = Duration::from_secs(8);

#[derive(Default)]
pub(crate) struct Counters;

impl Counters {
    async fn increase(client: &RecordingClient, rng: &mut StdRng) -> Result<()> {
        let key = key("c", rng.random_range(0..COUNTERS), KEY_LASTS);
        let nonce: u32 = rng.random();
        match client.get(&key).await? {
            None => drop(client.put_if_absent(&key, format!("1 {nonce:x}")).await?),
            Some(record) => {
                let text = String::from_utf8_lossy(&record.value).into_owned();
                let count: u64 =
                    text.split(' ').next().and_then(|count| count.parse().ok()).unwrap_or_default();
                let next = format!("{} {nonce:x}", count + 1);
                drop(client.put_if_revision(&key, next, record.revision).await?);
            }
        }
        Ok(())
    }
}

impl Workload for Counters {
    fn turn<'a>(&'a mut self, client: &'a RecordingClient, rng: &'a mut StdRng) -> BoxFuture<'a, Result<()>> {
        Self::increase(client, rng).boxed()
    }
}
