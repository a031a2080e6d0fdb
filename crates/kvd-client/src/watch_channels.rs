//! The connections to a node that watches go over.
//!
//! Watches have connections of their own: a slow reader of events must not fill the window of the one that all else goes
//! over. A node serves a bounded number of calls on one connection, and a watch is a call that stays, so there are as many
//! connections as the watches need: another one is opened when all are full, and goes with its last watch.

use std::sync::Arc;

use kvd_proto::net::Dialer;
use parking_lot::Mutex;
use tonic::transport::{Channel, Endpoint};

/// Watches on one connection, at most. A node serves twice as many calls on one.
pub(crate) const WATCHES_PER_CONNECTION: usize = 512;

/// The connections to one node.
#[derive(Debug)]
pub(crate) struct WatchChannels {
    endpoint: Endpoint,
    dialer: Dialer,
    open: Mutex<Vec<Shared>>,
}

#[derive(Debug)]
struct Shared {
    channel: Channel,
    /// Each watch holds one more.
    seats: Arc<()>,
}

/// A watch's place on a connection, for as long as it goes on.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) channel: Channel,
    _seat: Arc<()>,
}

impl WatchChannels {
    pub(crate) fn new(endpoint: Endpoint, dialer: Dialer) -> Self {
        Self { endpoint, dialer, open: Mutex::default() }
    }

    /// A place for a watch. Connects when it is first used.
    pub(crate) fn seat(&self) -> Seat {
        let mut open = self.open.lock();
        open.retain(|shared| shared.watches() > 0);
        let place = open.iter().position(|shared| shared.watches() < WATCHES_PER_CONNECTION);
        let place = place.unwrap_or_else(|| {
            open.push(Shared { channel: self.dialer.connect_lazily(&self.endpoint), seats: Arc::default() });
            open.len() - 1
        });
        let shared = &open[place];
        Seat { channel: shared.channel.clone(), _seat: Arc::clone(&shared.seats) }
    }
}

impl Shared {
    fn watches(&self) -> usize {
        Arc::strong_count(&self.seats) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn there_are_as_many_connections_as_the_watches_need() {
        let channels = WatchChannels::new(Endpoint::from_static("http://127.0.0.1:1"), Dialer::default());
        let mut seats: Vec<_> = (0..2 * WATCHES_PER_CONNECTION).map(|_| channels.seat()).collect();
        assert_eq!(channels.open.lock().len(), 2);
        seats.swap_remove(0);
        seats.push(channels.seat());
        assert_eq!(channels.open.lock().len(), 2, "a place that has become free is taken");
        seats.push(channels.seat());
        assert_eq!(channels.open.lock().len(), 3);
        seats.clear();
        let _only = channels.seat();
        assert_eq!(channels.open.lock().len(), 1, "connections without watches are closed");
    }
}
