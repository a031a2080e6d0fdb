//! Connections that are late, each by itself, while new ones are fast: how messages overtake each other and come twice over
//! TCP. See [`crate::sim::network::card`].

use std::time::Duration;

use rand::{RngExt as _, rngs::StdRng};

use super::Fault;
use crate::sim::{cluster::Cluster, network::carry::Way};

/// Some of the connections that exist now, between some of the machines, bring nothing for up to some seconds, each for as long as
/// is drawn for it, and then slowly. It ends by itself, but for what is told at the end.
pub(super) struct Connections {
    /// The chance of each pair of machines.
    pairs: f64,
    /// The chance of each connection of such a pair.
    connections: f64,
    /// The longest that one is late.
    lasts_max: Duration,
    before: (u64, u64),
}

impl Connections {
    pub(super) fn draw(rng: &mut StdRng) -> Self {
        Self {
            pairs: [0.3, 0.6, 1.0].get(rng.random_range(0..3)).copied().unwrap_or(1.0),
            connections: rng.random_range(0.3..1.0),
            lasts_max: Duration::from_millis(rng.random_range(200..5000)),
            before: (0, 0),
        }
    }

    fn counts(cluster: &Cluster) -> (u64, u64) {
        let counts = cluster.nodes.iter().map(|node| node.card.common().counts());
        counts.fold((0, 0), |(pieces, orphans), (more, lone)| (pieces + more, orphans + lone))
    }
}

impl Fault for Connections {
    fn name(&self) -> &'static str {
        "late connections"
    }

    fn begin(&mut self, cluster: &mut Cluster) -> Option<String> {
        self.before = Self::counts(cluster);
        let now = cluster.now();
        let (mut late, mut all) = (0, 0);
        for node in cluster.nodes.clone() {
            let mut pairs = std::collections::BTreeMap::new();
            for connection in node.card.connections() {
                let rng = &mut cluster.rng;
                let pair = *pairs.entry(connection.peer).or_insert_with(|| rng.random_bool(self.pairs));
                all += 1;
                if !pair || !rng.random_bool(self.connections) {
                    continue;
                }
                late += 1;
                let lasts =
                    Duration::from_millis(100).max(self.lasts_max.mul_f64(rng.random_range(0.0..1.0)));
                let pause = Duration::from_millis(rng.random_range(0..60));
                match rng.random_range(0..4) {
                    0 => connection.hold(Way::Out, now, lasts, pause),
                    1 => [Way::In, Way::Out]
                        .into_iter()
                        .for_each(|way| connection.hold(way, now, lasts, pause)),
                    _ => connection.hold(Way::In, now, lasts, pause),
                }
            }
        }
        (late > 0).then(|| format!("{late} of {all}, by up to {:?}", self.lasts_max))
    }

    fn end(&mut self, cluster: &mut Cluster) {
        let (pieces, orphans) = Self::counts(cluster);
        cluster.note(format_args!(
            "{} pieces have come late, {} of them after their sender had gone",
            pieces - self.before.0,
            orphans - self.before.1
        ));
    }
}
