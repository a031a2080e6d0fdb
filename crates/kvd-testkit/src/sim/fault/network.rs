//! Cuts, slowness and loss.

use std::time::Duration;

use rand::{RngExt as _, rngs::StdRng};

use super::Fault;
use crate::sim::{cluster::Cluster, network::Cut};

fn draw_cut(rng: &mut StdRng) -> Cut {
    match rng.random_range(0..4) {
        0 => Cut::OneWay,
        1 => Cut::Held,
        _ => Cut::BothWays,
    }
}

/// One node reaches nobody, or nobody hears it, or all that it says and hears comes late, as if it had been paused.
pub(super) struct Isolated {
    cut: Cut,
    node: Option<usize>,
}

impl Isolated {
    pub(super) fn draw(rng: &mut StdRng) -> Self {
        Self { cut: draw_cut(rng), node: None }
    }
}

impl Fault for Isolated {
    fn name(&self) -> &'static str {
        "a node isolated"
    }

    fn begin(&mut self, cluster: &mut Cluster) -> Option<String> {
        let node = cluster.any_node();
        cluster.isolate(node, self.cut);
        self.node = Some(node);
        Some(format!("node {}, {:?}", node + 1, self.cut))
    }

    fn end(&mut self, cluster: &mut Cluster) {
        if let Some(node) = self.node.take() {
            cluster.rejoin(node, self.cut);
        }
    }
}

/// Some links between nodes are cut: all those between two halves, or any.
pub(super) struct Parted {
    cut: Cut,
    halves: bool,
    links: Vec<(usize, usize)>,
}

impl Parted {
    pub(super) fn draw(rng: &mut StdRng) -> Self {
        Self { cut: draw_cut(rng), halves: rng.random(), links: Vec::new() }
    }
}

impl Fault for Parted {
    fn name(&self) -> &'static str {
        "a partition"
    }

    fn begin(&mut self, cluster: &mut Cluster) -> Option<String> {
        let nodes = cluster.nodes.len();
        let sides: Vec<bool> = (0..nodes).map(|_| cluster.rng.random()).collect();
        for from in 0..nodes {
            for to in 0..nodes {
                let apart = if self.halves {
                    sides.get(from) == Some(&true) && sides.get(to) == Some(&false)
                } else {
                    from < to && cluster.rng.random_bool(0.4)
                };
                if apart {
                    self.links.push((from, to));
                }
            }
        }
        for &(from, to) in &self.links {
            cluster.cut(from, to, self.cut);
        }
        (!self.links.is_empty()).then(|| format!("{:?} of {:?}", self.cut, self.links))
    }

    fn end(&mut self, cluster: &mut Cluster) {
        for (from, to) in self.links.drain(..) {
            cluster.mend(from, to, self.cut);
        }
    }
}

/// A node that leads reaches no other node, and its clients still reach it: it is the last one to learn that it leads no more.
pub(super) struct LeaderApart {
    cut: Cut,
    links: Vec<(usize, usize)>,
}

impl LeaderApart {
    pub(super) fn draw(rng: &mut StdRng) -> Self {
        Self { cut: draw_cut(rng), links: Vec::new() }
    }
}

impl Fault for LeaderApart {
    fn name(&self) -> &'static str {
        "a leader parted from its followers"
    }

    fn begin(&mut self, cluster: &mut Cluster) -> Option<String> {
        let leader = cluster.any_leader()?;
        for other in (0..cluster.nodes.len()).filter(|&other| other != leader) {
            cluster.cut(leader, other, self.cut);
            self.links.push((leader, other));
        }
        Some(format!("node {}, {:?}", leader + 1, self.cut))
    }

    fn end(&mut self, cluster: &mut Cluster) {
        for (from, to) in self.links.drain(..) {
            cluster.mend(from, to, self.cut);
        }
    }
}

/// Two halves that hear each other only through the one node that is in both.
pub(super) struct Bridge {
    links: Vec<(usize, usize)>,
}

impl Bridge {
    pub(super) fn draw(_rng: &mut StdRng) -> Self {
        Self { links: Vec::new() }
    }
}

impl Fault for Bridge {
    fn name(&self) -> &'static str {
        "a bridge"
    }

    fn begin(&mut self, cluster: &mut Cluster) -> Option<String> {
        let bridge = cluster.any_node();
        let others: Vec<usize> = (0..cluster.nodes.len()).filter(|&node| node != bridge).collect();
        let (left, right) = others.split_at(others.len() / 2);
        for &from in left {
            for &to in right {
                cluster.cut(from, to, Cut::BothWays);
                self.links.push((from, to));
            }
        }
        Some(format!("node {} between {left:?} and {right:?}", bridge + 1))
    }

    fn end(&mut self, cluster: &mut Cluster) {
        for (from, to) in self.links.drain(..) {
            cluster.mend(from, to, Cut::BothWays);
        }
    }
}

/// Messages from and to a node take long.
pub(super) struct Slow {
    latency: Duration,
    node: usize,
}

impl Slow {
    pub(super) fn draw(rng: &mut StdRng) -> Self {
        Self { latency: Duration::from_millis(rng.random_range(30..600)), node: 0 }
    }

    fn set(&self, cluster: &mut Cluster, latency: Duration) {
        let name = cluster.cell(self.node).name.clone();
        for other in cluster.nodes.iter().filter(|other| other.index != self.node) {
            cluster.sim.set_link_max_message_latency(&*name, &*other.name, latency);
        }
    }
}

impl Fault for Slow {
    fn name(&self) -> &'static str {
        "slow links"
    }

    fn begin(&mut self, cluster: &mut Cluster) -> Option<String> {
        self.node = cluster.any_node();
        self.set(cluster, self.latency);
        Some(format!("node {}, up to {:?}", self.node + 1, self.latency))
    }

    fn end(&mut self, cluster: &mut Cluster) {
        self.set(cluster, cluster.shape.latency_max);
    }
}

/// Messages from and to a node are lost now and then, and with them the connections that they were on.
pub(super) struct Lossy {
    rate: f64,
    node: usize,
}

impl Lossy {
    pub(super) fn draw(rng: &mut StdRng) -> Self {
        Self { rate: rng.random_range(0.0005..0.02), node: 0 }
    }

    fn set(&self, cluster: &mut Cluster, rate: f64) {
        let name = cluster.cell(self.node).name.clone();
        let others: Vec<_> = cluster
            .nodes
            .iter()
            .filter(|other| other.index != self.node)
            .map(|other| other.name.clone())
            .collect();
        for other in others {
            cluster.sim.set_link_fail_rate(&*name, &*other, rate);
        }
    }
}

impl Fault for Lossy {
    fn name(&self) -> &'static str {
        "lossy links"
    }

    fn begin(&mut self, cluster: &mut Cluster) -> Option<String> {
        self.node = cluster.any_node();
        self.set(cluster, self.rate);
        Some(format!("node {}, {:.4} of the messages", self.node + 1, self.rate))
    }

    fn end(&mut self, cluster: &mut Cluster) {
        self.set(cluster, 0.0);
    }
}
