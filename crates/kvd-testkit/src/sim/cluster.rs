//! The simulated cluster: nodes, clients and links, and what faults can do to them.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kvd_server::config::{Cluster as ClusterConfig, Config, Engine, Raft, Shutdown, Storage, Switch, Token};
use kvd_storage::disk::{Crash, Disk as _, SimDisk};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use turmoil::Sim;

use super::{
    clients::Clients,
    failpoints::Passed,
    network::{Cut, Links},
    node::{NodeCell, name},
    process::Process,
    witness::Witness,
    workload::{self, Kind, PROCESSES_MAX},
};

const CLIENT_PORT: u16 = 7400;
const PEER_PORT: u16 = 7401;
const HTTP_PORT: u16 = 7402;
/// A node that has ended by itself is started again after so long, as a supervisor would.
const SUPERVISOR_PAUSE: Duration = Duration::from_millis(300);
/// How long a node may take to stop in good order.
const STOPS_WITHIN: Duration = Duration::from_secs(8);
/// A disk with a sector that can't be read is replaced after so long.
const DISK_REPLACED_AFTER: Duration = Duration::from_secs(4);
/// After data was destroyed it takes so long until a look at the cluster tells for sure what became of it.
const DESTRUCTION_PAUSE: Duration = Duration::from_secs(5);

/// Nodes of a cluster, at most.
const NODES_MAX: usize = 5;

/// How large a simulation is, drawn from its seed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Nodes, all in all.
    pub(crate) nodes: usize,
    /// Those of them that join while faults rain.
    pub(crate) late_nodes: usize,
    /// Shards of the keyspace.
    pub(crate) shards: u32,
    /// Replicas of each shard.
    pub(crate) replication_factor: u32,
    /// Hosts with clients.
    pub(crate) clients: usize,
    /// Clients on each of them.
    pub(crate) processes_per_client: usize,
    /// How much time passes from one look at the network to the next: the grain of everything.
    pub(crate) tick: Duration,
    /// The longest that a message is under way, when all is well.
    pub(crate) latency_max: Duration,
    segment_bytes: u64,
    checkpoint_bytes: u64,
    flush_ms: u64,
    raft: Raft,
    /// How fast the clock of each node runs that measures elections and leases, in percent: a clock that is slow makes its node's
    /// times longer. The fastest is to the slowest as 11 to 9: within the margin of leases.
    clock_rates: [u64; NODES_MAX],
    /// The longest that a client rests between two operations.
    pub(crate) rest_max: Duration,
    /// What clients do.
    pub(crate) mix: [Kind; PROCESSES_MAX],
    /// How long shards keep their history.
    pub(crate) retention: Duration,
    /// Reads by the leader's lease are allowed.
    pub(crate) lease_reads: bool,
}

impl Shape {
    /// Draws one.
    pub(crate) fn draw(rng: &mut StdRng) -> Self {
        let nodes = pick(rng, &[3, 3, 3, 4, 5]);
        let timing = pick(rng, &[(120, 400, 600), (120, 400, 600), (250, 800, 1200), (500, 1500, 3000)]);
        let (heartbeat_ms, election_timeout_min_ms, election_timeout_max_ms) = timing;
        // Mostly so short that a pause between two operations is enough.
        let sleep_after_ms = pick(rng, &[0, 40, 40, 150, 150, 600, 3000]);
        Self {
            nodes,
            late_nodes: if nodes == 4 { pick(rng, &[0, 1]) } else { 0 },
            shards: pick(rng, &[1, 2, 3]),
            replication_factor: if nodes == 5 { pick(rng, &[3, 5]) } else { 3 },
            clients: pick(rng, &[1, 2, 2]),
            processes_per_client: pick(rng, &[2, 3, 4]),
            tick: Duration::from_millis(pick(rng, &[2, 4, 6])),
            latency_max: Duration::from_millis(pick(rng, &[4, 8, 20])),
            segment_bytes: pick(rng, &[64 << 10, 128 << 10, 512 << 10]),
            checkpoint_bytes: pick(rng, &[32 << 10, 96 << 10, 1 << 20]),
            flush_ms: pick(rng, &[500, 3000, 20_000]),
            raft: Raft { heartbeat_ms, election_timeout_min_ms, election_timeout_max_ms, sleep_after_ms },
            rest_max: Duration::from_millis(pick(rng, &[20, 60, 150, 400])),
            mix: workload::mix(rng),
            retention: Duration::from_secs(pick(rng, &[3, 15, 600, 600])),
            lease_reads: pick(rng, &[false, false, true]),
            clock_rates: std::array::from_fn(|_| pick(rng, &[90, 100, 100, 110])),
        }
    }

    /// After how long without work groups fall asleep; zero: they don't.
    pub(crate) const fn sleep_after(&self) -> Duration {
        Duration::from_millis(self.raft.sleep_after_ms)
    }

    /// The times of a node, as its clock measures them.
    fn raft_of(&self, index: usize) -> Raft {
        let rate = self.clock_rates.get(index).copied().unwrap_or(100);
        let measured = |ms: u64| ms * 100 / rate;
        Raft {
            heartbeat_ms: measured(self.raft.heartbeat_ms),
            election_timeout_min_ms: measured(self.raft.election_timeout_min_ms),
            election_timeout_max_ms: measured(self.raft.election_timeout_max_ms),
            sleep_after_ms: measured(self.raft.sleep_after_ms),
        }
    }
}

fn pick<T: Copy>(rng: &mut StdRng, from: &[T]) -> T {
    let place = rng.random_range(0..from.len());
    from.get(place).copied().unwrap_or_else(|| unreachable!("drawn within the length"))
}

/// A sector that can't be read, and when whoever runs the node looks after it.
struct BadSector {
    at: Duration,
    node: usize,
    generation: u64,
}

/// See the module.
pub(crate) struct Cluster {
    pub(crate) sim: Sim<'static>,
    pub(crate) shape: Shape,
    pub(crate) nodes: Vec<Arc<NodeCell>>,
    pub(crate) clients: Arc<Clients>,
    pub(crate) witness: Arc<Witness>,
    pub(crate) rng: StdRng,
    pub(crate) failpoints: Passed,
    links: Links,
    /// Of each node, if one runs.
    processes: Vec<Option<Process>>,
    /// Draws whose turn it is first, in each step.
    order: StdRng,
    /// When nodes that are down are started again.
    restarts: BTreeMap<usize, Duration>,
    /// Nodes that stop in good order and are to be started then, and until when they may take.
    cycles: BTreeMap<usize, Duration>,
    /// Sectors that can't be read.
    bad_sectors: Vec<BadSector>,
    /// No more data is destroyed before.
    destroys_from: Duration,
    /// When a node was last started.
    last_start: Duration,
    pub(crate) bit_flips: u64,
}

impl Cluster {
    pub(crate) fn new(seed: u64, shape: Shape, witness: Arc<Witness>) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut sim = turmoil::Builder::new()
            .rng_seed(rng.random())
            .epoch(std::time::SystemTime::UNIX_EPOCH + Duration::from_millis(super::node::EPOCH_MS))
            .simulation_duration(Duration::from_secs(1 << 30))
            .tick_duration(shape.tick)
            .min_message_latency(Duration::ZERO)
            .max_message_latency(shape.latency_max)
            .tcp_capacity(4096)
            .enable_random_order()
            .build();
        let nodes: Vec<_> = (0..shape.nodes)
            .map(|index| {
                let config = config(index, shape);
                let cell = NodeCell::new(index, config, rng.random(), Arc::clone(&witness));
                cell.state.lock().is_wanted = index < shape.nodes - shape.late_nodes;
                Arc::new(cell)
            })
            .collect();
        for node in &nodes {
            let card = Arc::clone(&node.card);
            sim.host(&*node.name, move || card.boot());
        }
        let endpoints = nodes.iter().map(|node| format!("{}:{CLIENT_PORT}", node.name)).collect();
        let clients = Clients::start(&mut sim, endpoints, shape, rng.random(), &witness);
        let failpoints = Passed::watch(&nodes);
        let mut cluster = Self {
            failpoints,
            sim,
            shape,
            clients,
            witness,
            processes: nodes.iter().map(|_| None).collect(),
            order: StdRng::seed_from_u64(rng.random()),
            rng,
            links: Links::default(),
            restarts: BTreeMap::new(),
            cycles: BTreeMap::new(),
            bad_sectors: Vec::new(),
            destroys_from: Duration::ZERO,
            last_start: Duration::ZERO,
            bit_flips: 0,
            nodes,
        };
        for index in 0..shape.nodes {
            cluster.start(index);
        }
        cluster
    }

    pub(crate) fn now(&self) -> Duration {
        self.sim.elapsed()
    }

    /// Lets one tick pass.
    ///
    /// # Errors
    /// A host failed in a way that no host may.
    pub(crate) fn step(&mut self) -> Result<(), String> {
        let now_ns = u64::try_from(self.sim.since_epoch().as_nanos()).unwrap_or(u64::MAX);
        super::entropy::set_time(now_ns);
        let from = self.now();
        self.sim.step().map_err(|error| format!("a host failed: {error}"))?;
        self.run_processes(from);
        let now = self.now();
        for index in 0..self.nodes.len() {
            if self.cell(index).take_crash() {
                self.note(format_args!("node {} crashes at the failpoint", index + 1));
                let leaves =
                    if self.rng.random() { Crash::Synced } else { Crash::Torn { block_bytes: 4096 } };
                self.crash(index, leaves);
                self.start_after(index, SUPERVISOR_PAUSE);
            }
            if let Some(why) = self.nodes.get(index).and_then(|node| node.take_failure()) {
                self.note(format_args!("node {} has ended: {why}", index + 1));
                if self.cell(index).was_lied_to() || self.cell(index).has_lost_identity(&why) {
                    self.cell(index).lose_disk();
                }
                self.restarts.insert(index, now + SUPERVISOR_PAUSE);
            }
        }
        while let Some((&index, _)) = self.restarts.iter().find(|(_, at)| **at <= now) {
            self.restarts.remove(&index);
            self.start(index);
        }
        self.end_cycles();
        self.replace_bad_disks();
        Ok(())
    }

    /// Stops a node whose data is being destroyed in good order, once its disk has told its last lie, and starts it again then,
    /// which ends the destruction.
    pub(crate) fn cycle(&mut self, index: usize) {
        let until = self.now() + STOPS_WITHIN;
        self.cell(index).state.lock().is_wanted = false;
        self.cycles.insert(index, until);
    }

    fn end_cycles(&mut self) {
        for (index, until) in self.cycles.clone() {
            let is_running = self.cell(index).is_running();
            if is_running && self.now() < until {
                // What it writes as it stops must be true, or a lie would be the last word.
                if !self.cell(index).is_to_be_lied_to() {
                    self.cell(index).stop();
                }
                continue;
            }
            if is_running {
                self.crash(index, Crash::Killed);
            }
            self.cycles.remove(&index);
            self.cell(index).state.lock().is_wanted = true;
            let lies = self.cell(index).state.lock().disk.faults_met().len();
            self.note(format_args!(
                "node {} starts on a disk that has lied about {lies} operations",
                index + 1
            ));
            self.start(index);
            self.end_destruction();
        }
    }

    /// A sector of a node's disk can't be read any more. If that is still so in a while, the disk is replaced.
    pub(crate) fn spoil(&mut self, node: usize, path: &Path, offset: u64) -> std::io::Result<()> {
        let (generation, disk) = {
            let state = self.cell(node).state.lock();
            (state.generation, state.disk.clone())
        };
        disk.spoil(path, offset)?;
        let at = self.now() + DISK_REPLACED_AFTER;
        self.bad_sectors.push(BadSector { at, node, generation });
        Ok(())
    }

    fn replace_bad_disks(&mut self) {
        let now = self.now();
        while let Some(place) = self.bad_sectors.iter().position(|sector| sector.at <= now) {
            let BadSector { node, generation, .. } = self.bad_sectors.swap_remove(place);
            let is_bad = {
                let state = self.cell(node).state.lock();
                state.generation == generation && has_bad_sector(&state.disk)
            };
            if is_bad {
                self.note(format_args!("the disk of node {} is replaced for a bad sector", node + 1));
                self.lose_disk(node);
                self.start_after(node, SUPERVISOR_PAUSE);
            }
            self.end_destruction();
        }
    }

    /// Asks whether a node's data may be destroyed now: all of it must be there on all others, as seen since the last of
    /// them was started. If so, no other's may be until [`Cluster::end_destruction`].
    pub(crate) fn begin_destruction(&mut self) -> bool {
        let may = self.now() >= self.destroys_from
            && self.is_settled()
            && self.clients.looked_from() >= self.last_start
            && self.clients.not_whole(self.shape, self.shape.nodes).is_none();
        if may {
            self.destroys_from = Duration::MAX;
        }
        may
    }

    /// What was to be destroyed has been, and the node is back or about to be.
    pub(crate) fn end_destruction(&mut self) {
        self.destroys_from = self.now() + DESTRUCTION_PAUSE;
    }

    fn run_processes(&mut self, from: Duration) {
        let mut turns: Vec<_> = self.processes.iter_mut().collect();
        turns.shuffle(&mut self.order);
        for turn in turns {
            if turn.as_ref().is_some_and(|process| process.tick(from, self.shape.tick)) {
                *turn = None;
            }
        }
    }

    /// Adds a line to the trace, and to the history for people.
    pub(crate) fn note(&self, what: std::fmt::Arguments<'_>) {
        let now = self.now();
        self.witness.trace(format_args!("{what}"));
        self.clients.recorder.note(format!("{:.3} s: {what}", now.as_secs_f64()));
        tracing::info!(at_s = now.as_secs_f64(), "{what}");
    }

    /// A node, by chance.
    pub(crate) fn any_node(&mut self) -> usize {
        self.rng.random_range(0..self.nodes.len())
    }

    /// A node that leads a shard, as of the last look; the more likely, the more it leads.
    pub(crate) fn any_leader(&mut self) -> Option<usize> {
        let leaders = self.clients.leaders();
        let place = self.rng.random_range(0..leaders.len().max(1));
        let name = leaders.get(place)?;
        self.nodes.iter().position(|node| *node.name == **name)
    }

    pub(crate) fn cell(&self, index: usize) -> &Arc<NodeCell> {
        self.nodes.get(index).unwrap_or_else(|| unreachable!("nodes are never removed"))
    }

    /// Ends a node's process at once, with what that leaves of its disk. What it has written to its connections is still
    /// delivered, unless the machine's power is cut: then nobody is even told that a connection is gone.
    pub(crate) fn crash(&mut self, index: usize, crash: Crash) {
        self.restarts.remove(&index);
        let name = Arc::clone(&self.cell(index).name);
        let silent = crash != Crash::Killed;
        if silent {
            self.isolate(index, Cut::BothWays);
        }
        self.cell(index).crash(crash);
        self.end_process(index);
        if silent {
            self.sim.crash(&*name);
            self.rejoin(index, Cut::BothWays);
        }
    }

    /// Ends a node's process at once, and takes its disk out for a new one.
    pub(crate) fn lose_disk(&mut self, index: usize) {
        self.restarts.remove(&index);
        let cell = Arc::clone(self.cell(index));
        cell.lose_disk();
        self.end_process(index);
        self.sim.crash(&*cell.name);
    }

    /// Starts a node's process, if it is down.
    pub(crate) fn start(&mut self, index: usize) {
        let cell = Arc::clone(self.cell(index));
        if !cell.is_running() && cell.state.lock().is_wanted {
            if !self.sim.is_host_running(&*cell.name) {
                self.sim.bounce(&*cell.name);
            }
            let process = match Process::start(Arc::clone(&cell.name), cell.run()) {
                Ok(process) => process,
                Err(error) => unreachable!("a runtime without threads, sockets or files: {error}"),
            };
            self.last_start = self.now();
            if let Some(place) = self.processes.get_mut(index) {
                *place = Some(process);
            }
        }
    }

    fn end_process(&mut self, index: usize) {
        self.cell(index).card.common().stop(false);
        if let Some(place) = self.processes.get_mut(index) {
            *place = None;
        }
    }

    /// Stops a node's process where it stands, and says whether it did: one that is down or stopped can't be. What arrives for it waits, in its card if `keeps_quiet`: then
    /// all its timers come before anything that it is told.
    pub(crate) fn pause(&mut self, index: usize, keeps_quiet: bool) -> bool {
        let now = self.now();
        let process = self.processes.get_mut(index).and_then(Option::as_mut);
        let is_paused = process.is_some_and(|process| process.pause(now));
        if is_paused {
            self.cell(index).card.common().stop(keeps_quiet);
        }
        is_paused
    }

    /// Lets it go on. How long it stood, if it did.
    pub(crate) fn resume(&mut self, index: usize) -> Option<Duration> {
        let now = self.now();
        let stood = self.processes.get_mut(index)?.as_mut()?.resume(now);
        self.cell(index).card.common().stop(false);
        stood
    }

    /// Starts a node once so much time has passed.
    pub(crate) fn start_after(&mut self, index: usize, pause: Duration) {
        let at = self.now() + pause;
        self.restarts.insert(index, at);
    }

    pub(crate) fn cut(&mut self, from: usize, to: usize, cut: Cut) {
        let (from, to) = (Arc::clone(&self.cell(from).name), Arc::clone(&self.cell(to).name));
        self.links.cut(&mut self.sim, &from, &to, cut);
    }

    pub(crate) fn mend(&mut self, from: usize, to: usize, cut: Cut) {
        let (from, to) = (Arc::clone(&self.cell(from).name), Arc::clone(&self.cell(to).name));
        self.links.mend(&mut self.sim, &from, &to, cut);
    }

    /// Cuts a node off from all others and from the clients.
    pub(crate) fn isolate(&mut self, index: usize, cut: Cut) {
        for other in self.others(index) {
            let name = Arc::clone(&self.cell(index).name);
            self.links.cut(&mut self.sim, &name, &other, cut);
        }
    }

    /// Takes that back.
    pub(crate) fn rejoin(&mut self, index: usize, cut: Cut) {
        for other in self.others(index) {
            let name = Arc::clone(&self.cell(index).name);
            self.links.mend(&mut self.sim, &name, &other, cut);
        }
    }

    fn others(&self, index: usize) -> Vec<Arc<str>> {
        let nodes = self.nodes.iter().filter(|node| node.index != index).map(|node| Arc::clone(&node.name));
        nodes.chain(self.clients.hosts.iter().cloned()).collect()
    }

    pub(crate) fn is_settled(&self) -> bool {
        let waits = !self.restarts.is_empty() || !self.cycles.is_empty() || !self.bad_sectors.is_empty();
        !waits && self.nodes.iter().all(|node| node.is_running())
    }
}

/// Whether something on a disk can't be read. Where it was found first may have got another name since.
fn has_bad_sector(disk: &SimDisk) -> bool {
    disk.files().into_iter().any(|(path, bytes)| {
        let mut content = vec![0; usize::try_from(bytes).unwrap_or(0)];
        disk.open(&path).is_ok_and(|file| file.read_exact_at(&mut content, 0).is_err())
    })
}

fn config(index: usize, shape: Shape) -> Config {
    let at = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let founders = shape.nodes - shape.late_nodes;
    let seeds = (0..founders).map(|index| format!("{}:{PEER_PORT}", name(index))).collect();
    let name = name(index);
    let config = Config {
        data_dir: PathBuf::from("/data"),
        zone: format!("zone-{}", index % 3),
        cluster_token: Token::new("simulated"),
        seeds,
        listen_client: at(CLIENT_PORT),
        listen_peer: at(PEER_PORT),
        listen_http: at(HTTP_PORT),
        advertise_client: format!("{name}:{CLIENT_PORT}"),
        advertise_peer: format!("{name}:{PEER_PORT}"),
        advertise_http: format!("{name}:{HTTP_PORT}"),
        cluster: ClusterConfig {
            shards: shape.shards,
            replication_factor: shape.replication_factor,
            initial_nodes: 0,
            history_retention_ms: u64::try_from(shape.retention.as_millis()).unwrap_or(u64::MAX),
            lease_reads: if shape.lease_reads { Switch::On } else { Switch::Off },
            ..Config::default().cluster
        },
        raft: shape.raft_of(index),
        storage: Storage {
            engine: Engine::Memory,
            log_segment_bytes: shape.segment_bytes,
            checkpoint_log_bytes: shape.checkpoint_bytes,
            flush_interval_ms: shape.flush_ms,
            drain_rows: 50,
            drain_interval_ms: 500,
            ..Config::default().storage
        },
        shutdown: Shutdown { grace_ms: 3000 },
        ..Config::default()
    };
    match config.resolve() {
        Ok(config) => config,
        Err(problems) => unreachable!("the simulation's own configuration: {problems:?}"),
    }
}
