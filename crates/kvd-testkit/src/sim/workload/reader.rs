//! Gets of what others write, and nothing else. Whoever writes goes to another leader as soon as the one that it knows can
//! commit nothing any more; only one that never writes would stay with a leader that went on to answer reads.

use std::sync::Arc;

use futures::{FutureExt as _, future::BoxFuture};
use kvd_client::Result;
use rand::{RngExt as _, rngs::StdRng};

use super::{Workload, moments, registers};
use crate::{
    check::versions::Level,
    history::{Process, RecordingClient},
    sim::records::Records,
};

pub(crate) struct Reader {
    user: moments::User,
}

impl Reader {
    pub(crate) const fn new(records: Arc<Records>, process: Process, client: u64) -> Self {
        Self { user: moments::User::new(records, process, client) }
    }

    async fn act(&self, client: &RecordingClient, rng: &mut StdRng) -> Result<()> {
        if rng.random() {
            return client.get(&registers::any(rng)).await.map(drop);
        }
        let key = moments::any(rng)?;
        self.user.read("gets", key.clone(), client.client().get(&key), Level::Current).await
    }
}

impl Workload for Reader {
    fn turn<'a>(&'a mut self, client: &'a RecordingClient, rng: &'a mut StdRng) -> BoxFuture<'a, Result<()>> {
        self.act(client, rng).boxed()
    }
}
