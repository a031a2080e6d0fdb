//! The node of a leader that goes and stays away, as the last thing that befalls a cluster.

use std::time::Duration;

use kvd_storage::disk::Crash;
use rand::RngExt as _;

use crate::sim::{
    cluster::{Cluster, Shape},
    network::Cut,
};

/// What the counts call it.
pub(crate) const NAME: &str = "a leader's node gone";

/// How long nobody must have asked for anything until groups may be expected to sleep, but for those with something to do by
/// themselves.
pub(crate) fn asleep_after(shape: Shape) -> Duration {
    // Clocks may be slow, and an offer to sleep may be refused a few times.
    shape.sleep_after() * 2 + Duration::from_secs(3)
}

/// Takes away a node that leads a group. The others are a majority of each group. Says which one, and what it did.
pub(crate) fn take_leader_away(cluster: &mut Cluster) -> (usize, String) {
    let node = match cluster.any_leader() {
        Some(leader) => leader,
        None => cluster.any_node(),
    };
    let how = match cluster.rng.random_range(0..3) {
        0 => {
            cluster.crash(node, Crash::Killed);
            "killed"
        }
        1 => {
            cluster.crash(node, Crash::Synced);
            "without power"
        }
        _ => {
            cluster.isolate(node, Cut::BothWays);
            "cut off"
        }
    };
    (node, format!("node {}, {how}", node + 1))
}
