//! The first placement of shards.
//!
//! # The problem
//! Handing out replicas one by one to the least burdened node is near the mark, but the last few shards then find only
//! nodes of one zone with room, and end up either in one zone or on a burdened node.
//!
//! # The approach
//! First the totals, then who meets whom, then who leads:
//!
//! 1. *How many of a shard's replicas each zone gets.* As equal as its nodes allow: every zone `base` replicas of every
//!    shard, and the rest, the `extras`, to distinct zones, not the same for every shard.
//! 2. *How many replicas each node gets in all*, its quota. By weight (Sainte-Laguë's method), at most one per
//!    shard, and such that the quotas of each zone can be met under (1).
//! 3. *Which shard gets which node.* Shard by shard, the zone with most extras left and within it the node with most of
//!    its quota left. By the Gale-Ryser theorem this meets all quotas exactly. Among equals the node goes first that has
//!    met the shard's other nodes least often, so that what a dead node leaves behind falls on many shoulders.
//! 4. *Who leads.* The least burdened replica of each shard; then leadership is moved along chains of shards for as long
//!    as that evens it out (Harvey et al., "Semi-matchings for bipartite graphs and load balancing", 2006), which ends at
//!    the best spread that these replicas allow.

use std::collections::BTreeMap;

use kvd_types::NodeId;

use super::{NodeView, burden};

/// For each of `shards` shards the ids of its nodes, its leader's first, the others ascending.
///
/// `nodes` are by ascending id, and at least `replicas` in number.
pub(super) fn plan(nodes: &[NodeView<'_>], shards: usize, replicas: usize) -> Vec<Vec<NodeId>> {
    let zones = Zones::new(nodes, replicas);
    let quotas = quotas(nodes, &zones, shards);
    let lists = assign(&zones, quotas, shards);
    let leaders = choose_leaders(nodes, &lists);
    let order = |(list, leader): (Vec<usize>, usize)| {
        let mut list: Vec<_> = list.into_iter().map(|node| nodes[node].id).collect();
        list.sort_by_key(|&id| (id != nodes[leader].id, id));
        list
    };
    lists.into_iter().zip(leaders).map(order).collect()
}

/// A failure domain and what every shard has in it.
struct Zone {
    /// Its nodes, as indices.
    nodes: Vec<usize>,
    /// Replicas of every shard.
    base: usize,
}

impl Zone {
    /// Whether it can hold one replica of a shard more than the base.
    fn takes_extras(&self) -> bool {
        self.nodes.len() > self.base
    }
}

struct Zones {
    zones: Vec<Zone>,
    /// Replicas of each shard beyond the bases, each in another zone.
    extras: usize,
    /// The zone of each node.
    of_node: Vec<usize>,
}

impl Zones {
    fn new(nodes: &[NodeView<'_>], replicas: usize) -> Self {
        let mut by_domain: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (index, node) in nodes.iter().enumerate() {
            by_domain.entry(node.domain()).or_default().push(index);
        }
        let with_base = |base: usize| by_domain.values().map(|nodes| nodes.len().min(base)).sum::<usize>();
        let base = (0..=replicas).rev().find(|&base| with_base(base) <= replicas).unwrap_or(0);
        let extras = replicas - with_base(base);
        let zones: Vec<_> =
            by_domain.into_values().map(|nodes| Zone { base: nodes.len().min(base), nodes }).collect();
        let mut of_node = vec![0; nodes.len()];
        for (index, zone) in zones.iter().enumerate() {
            for &node in &zone.nodes {
                of_node[node] = index;
            }
        }
        Self { zones, extras, of_node }
    }
}

/// What is left to be handed out.
struct Quotas {
    /// Replicas of each node.
    nodes: Vec<usize>,
    /// Extras of each zone.
    extras: Vec<usize>,
}

/// Steps 1 and 2: the totals.
fn quotas(nodes: &[NodeView<'_>], zones: &Zones, shards: usize) -> Quotas {
    let mut quotas = vec![0; nodes.len()];
    let least_burdened = |quotas: &[usize], candidates: &mut dyn Iterator<Item = usize>| {
        candidates
            .filter(|&node| quotas[node] < shards)
            .min_by_key(|&node| (burden(quotas[node], nodes[node].weight), node))
    };
    for zone in &zones.zones {
        for _ in 0..zone.base * shards {
            if let Some(node) = least_burdened(&quotas, &mut zone.nodes.iter().copied()) {
                quotas[node] += 1;
            }
        }
    }
    let mut extras = vec![0; zones.zones.len()];
    for _ in 0..zones.extras * shards {
        let mut open = (0..nodes.len()).filter(|&node| {
            let zone = zones.of_node[node];
            zones.zones[zone].takes_extras() && extras[zone] < shards
        });
        if let Some(node) = least_burdened(&quotas, &mut open) {
            quotas[node] += 1;
            extras[zones.of_node[node]] += 1;
        }
    }
    Quotas { nodes: quotas, extras }
}

/// Step 3: for each shard its nodes, as indices.
fn assign(zones: &Zones, mut left: Quotas, shards: usize) -> Vec<Vec<usize>> {
    let mut met = Met::new(left.nodes.len());
    let mut lists = Vec::with_capacity(shards);
    for _ in 0..shards {
        let mut list = Vec::new();
        for zone in &zones.zones {
            for _ in 0..zone.base {
                if let Some(node) = next_in_zone(zone, &left, &met, &list) {
                    list.push(node);
                    left.nodes[node] -= 1;
                }
            }
        }
        let mut open: Vec<usize> = (0..zones.zones.len()).filter(|&zone| left.extras[zone] > 0).collect();
        for _ in 0..zones.extras {
            let best = open
                .iter()
                .filter_map(|&zone| Some((zone, next_in_zone(&zones.zones[zone], &left, &met, &list)?)))
                .min_by_key(|&(zone, node)| (usize::MAX - left.extras[zone], met.times(node, &list), zone));
            if let Some((zone, node)) = best {
                list.push(node);
                left.nodes[node] -= 1;
                left.extras[zone] -= 1;
                open.retain(|&other| other != zone);
            }
        }
        met.note(&list);
        lists.push(list);
    }
    lists
}

/// The node of a zone that should get the next replica of a shard that has `list` so far.
fn next_in_zone(zone: &Zone, left: &Quotas, met: &Met, list: &[usize]) -> Option<usize> {
    let open = zone.nodes.iter().copied().filter(|node| left.nodes[*node] > 0 && !list.contains(node));
    open.min_by_key(|&node| (usize::MAX - left.nodes[node], met.times(node, list), node))
}

/// How many shards each two nodes share.
struct Met {
    nodes: usize,
    times: Vec<u32>,
}

impl Met {
    fn new(nodes: usize) -> Self {
        Self { nodes, times: vec![0; nodes * nodes] }
    }

    fn times(&self, node: usize, others: &[usize]) -> u32 {
        others.iter().map(|other| self.times[node * self.nodes + other]).sum()
    }

    fn note(&mut self, list: &[usize]) {
        for node in list {
            for other in list {
                self.times[node * self.nodes + other] += 1;
            }
        }
    }
}

/// Step 4: the leader of each shard.
fn choose_leaders(nodes: &[NodeView<'_>], lists: &[Vec<usize>]) -> Vec<usize> {
    let mut leads =
        Leads { nodes, lists, counts: vec![0; nodes.len()], leaders: Vec::with_capacity(lists.len()) };
    for list in lists {
        if let Some(leader) = list.iter().copied().min_by_key(|&node| (leads.burden_of_next(node), node)) {
            leads.counts[leader] += 1;
            leads.leaders.push(leader);
        }
    }
    // Each relief lowers the sum of all burdens, so this ends.
    let mut relieved = true;
    while relieved {
        relieved = false;
        for node in 0..nodes.len() {
            relieved |= leads.relieve(node);
        }
    }
    leads.leaders
}

struct Leads<'a> {
    nodes: &'a [NodeView<'a>],
    lists: &'a [Vec<usize>],
    /// Shards that each node leads.
    counts: Vec<usize>,
    /// Who leads each shard.
    leaders: Vec<usize>,
}

impl Leads<'_> {
    fn burden_of_next(&self, node: usize) -> u64 {
        burden(self.counts[node], self.nodes[node].weight)
    }

    /// Moves one leadership away from a node, along the chain of shards that ends at the least burdened node that can be
    /// reached, if that evens things out. Says whether it did.
    fn relieve(&mut self, from: usize) -> bool {
        let Some(fewer) = self.counts[from].checked_sub(1) else { return false };
        let burden_of_last = burden(fewer, self.nodes[from].weight);
        let reached = self.reachable(from);
        let best = reached.keys().copied().min_by_key(|&node| (self.burden_of_next(node), node));
        let Some(to) = best.filter(|&node| self.burden_of_next(node) < burden_of_last) else { return false };
        self.counts[from] -= 1;
        self.counts[to] += 1;
        let mut node = to;
        while let Some(&(previous, shard)) = reached.get(&node) {
            self.leaders[shard] = node;
            node = previous;
        }
        true
    }

    /// The nodes that a leadership can be moved to from a node, each with the step before it and the shard that this step
    /// moves. Breadth first, so that chains are short.
    fn reachable(&self, from: usize) -> BTreeMap<usize, (usize, usize)> {
        let mut led: Vec<Vec<usize>> = vec![Vec::new(); self.nodes.len()];
        for (shard, &leader) in self.leaders.iter().enumerate() {
            led[leader].push(shard);
        }
        let mut reached = BTreeMap::new();
        let mut queue = std::collections::VecDeque::from([from]);
        while let Some(node) = queue.pop_front() {
            for &shard in &led[node] {
                for &next in self.lists[shard].iter().filter(|&&next| next != from) {
                    if let std::collections::btree_map::Entry::Vacant(entry) = reached.entry(next) {
                        entry.insert((node, shard));
                        queue.push_back(next);
                    }
                }
            }
        }
        reached
    }
}
