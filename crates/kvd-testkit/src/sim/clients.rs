//! The simulated clients: kvd's own client library on hosts of their own, doing what workloads say and recording it all.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::StreamExt as _;
use kvd_client::{Client, Key, NodeId, ReplicaStatus, ShardId, Topology};
use kvd_types::{GroupId, limits::META_VOTERS_MAX};
use parking_lot::Mutex;
use rand::{RngExt as _, rngs::StdRng};
use turmoil::Sim;

use super::{
    cluster::Shape,
    network::{OnlyTo, SimDial},
    records::{LAPSING, Records},
    witness::Witness,
    workload::{self, Kind, PROCESSES_MAX, Person},
};
use crate::history::{Action, Answer, Process, Recorder, RecordingClient};

/// How long a client tries a request.
const REQUEST_DEADLINE: Duration = Duration::from_secs(3);
/// Between two looks of the administrator at the cluster.
const LOOK_INTERVAL: Duration = Duration::from_millis(400);
const RETRY_PAUSE: Duration = Duration::from_millis(150);

/// What all clients share.
pub(crate) struct Clients {
    pub(crate) recorder: Recorder,
    pub(crate) records: Arc<Records>,
    /// What processes do.
    mix: [Kind; PROCESSES_MAX],
    /// The names of their hosts.
    pub(crate) hosts: Vec<Arc<str>>,
    endpoints: Vec<String>,
    seed: AtomicU64,
    rest_max: Duration,
    stop: AtomicBool,
    /// Operations of each process that were answered.
    answered: Vec<AtomicU64>,
    /// Processes at work.
    working: AtomicU64,
    admin: Mutex<Admin>,
}

/// A process at work, until it ends or its host dies.
struct Working(Arc<Clients>);

impl Working {
    fn begin(clients: &Arc<Clients>) -> Self {
        clients.working.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(clients))
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.working.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the administrator knows and is asked for.
#[derive(Default)]
struct Admin {
    topology: Option<Arc<Topology>>,
    replicas: Vec<(NodeId, ReplicaStatus)>,
    /// How many nodes answered the last look.
    nodes_seen: usize,
    /// When that look began.
    looked_from: Duration,
    moves: Vec<(ShardId, NodeId)>,
    /// The keys to read.
    reads: Vec<String>,
    /// The nodes, by their place, through which they have yet to be read.
    reads_through: Vec<usize>,
    /// The keys of all shards, as the last scan gave them.
    scanned: Vec<Key>,
    /// Look what is left of what was to lapse.
    wants_leftovers: bool,
    /// What is wrong about it; `None`: nobody has looked.
    leftovers: Option<Result<(), String>>,
}

impl Clients {
    pub(crate) fn start(
        sim: &mut Sim<'static>,
        endpoints: Vec<String>,
        shape: Shape,
        seed: u64,
        witness: &Arc<Witness>,
    ) -> Arc<Self> {
        let names: Vec<Arc<str>> =
            (0..shape.clients).map(|number| format!("client-{}", number + 1).into()).collect();
        let clock = || {
            let elapsed = turmoil::sim_elapsed().unwrap_or_default();
            u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
        };
        let recorder = Recorder::with_clock(clock);
        let clients = Arc::new(Self {
            records: Records::new(recorder.clone(), Arc::clone(witness), shape.retention, shape.lease_reads),
            recorder,
            mix: shape.mix,
            hosts: names.iter().cloned().chain(["reader".into(), "admin".into()]).collect(),
            endpoints,
            seed: AtomicU64::new(seed),
            rest_max: shape.rest_max,
            stop: AtomicBool::new(false),
            answered: (0..shape.clients * shape.processes_per_client).map(|_| AtomicU64::new(0)).collect(),
            working: AtomicU64::new(0),
            admin: Mutex::default(),
        });
        for (number, name) in names.iter().enumerate() {
            let (shared, witness) = (Arc::clone(&clients), Arc::clone(witness));
            sim.host(&**name, move || {
                let processes =
                    number * shape.processes_per_client..(number + 1) * shape.processes_per_client;
                Arc::clone(&shared).work(processes, Arc::clone(&witness))
            });
        }
        let (shared, beside) = (Arc::clone(&clients), Arc::clone(witness));
        sim.host("reader", move || Arc::clone(&shared).read_only(Arc::clone(&beside)));
        let shared = Arc::clone(&clients);
        sim.host("admin", move || Arc::clone(&shared).administer());
        clients
    }

    /// Everything that one host's clients do, from the start of their program to its end.
    async fn work(
        self: Arc<Self>,
        processes: std::ops::Range<usize>,
        witness: Arc<Witness>,
    ) -> turmoil::Result {
        let Some(client) = self.connect().await else { return Ok(()) };
        let number_of_client = self.records.new_client();
        let mut tasks = tokio::task::JoinSet::new();
        for process in processes {
            let number = Process(u32::try_from(process).unwrap_or(u32::MAX));
            let kind = self.mix.get(process % PROCESSES_MAX).copied().unwrap_or(Kind::Registers);
            // A session of its own: in a shared one each write of the others is seen too, and what was read hides behind it.
            let (client, number_of_client) = match kind {
                Kind::Stale => match self.connect().await {
                    Some(client) => (client, self.records.new_client()),
                    None => break,
                },
                _ => (client.clone(), number_of_client),
            };
            let recording = RecordingClient::new(client, self.recorder.clone(), number);
            let person = self.person(kind, process, number_of_client);
            tasks.spawn(Arc::clone(&self).live(person, recording, Arc::clone(&witness)));
        }
        tasks.join_all().await;
        Ok(())
    }

    /// What the host of [`Kind::Reader`] does, from the start of its program to its end.
    async fn read_only(self: Arc<Self>, witness: Arc<Witness>) -> turmoil::Result {
        let Some(client) = self.connect().await else { return Ok(()) };
        // The one after all others.
        let process = self.answered.len();
        let number = Process(u32::try_from(process).unwrap_or(u32::MAX));
        let recording = RecordingClient::new(client, self.recorder.clone(), number);
        let person = self.person(Kind::Reader, process, self.records.new_client());
        Arc::clone(&self).live(person, recording, witness).await;
        Ok(())
    }

    fn person(&self, kind: Kind, process: usize, client: u64) -> Person {
        let seed = self.seed.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let records = Arc::clone(&self.records);
        Person { kind, process, client, records, seed, rest_max: self.rest_max }
    }

    /// All that one process does.
    async fn live(self: Arc<Self>, person: Person, recording: RecordingClient, witness: Arc<Witness>) {
        let _working = Working::begin(&self);
        let process = person.process;
        let mut workload = workload::draw(person);
        while !self.is_stopping() {
            let done = workload.turn(&recording).await;
            if done.is_ok()
                && let Some(count) = self.answered.get(process)
            {
                count.fetch_add(1, Ordering::Relaxed);
            }
            witness.trace(format_args!("process {process}: {done:?}"));
            workload.rest().await;
        }
        workload.finish(&recording).await;
    }

    async fn connect(&self) -> Option<Client> {
        let config = kvd_client::Config::new(self.endpoints.clone())
            .deadline(REQUEST_DEADLINE)
            .dial(Arc::new(SimDial));
        while !self.is_stopping() {
            match Client::connect(config.clone()).await {
                Ok(client) => return Some(client),
                Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
            }
        }
        None
    }

    /// Looks at the cluster all the time, and does what it is asked to.
    async fn administer(self: Arc<Self>) -> turmoil::Result {
        let config = kvd_client::Config::new(self.endpoints.clone())
            .deadline(REQUEST_DEADLINE)
            .dial(Arc::new(SimDial));
        let client = loop {
            match Client::connect(config.clone()).await {
                Ok(client) => break client,
                Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
            }
        };
        loop {
            self.look(&client).await;
            let moves = std::mem::take(&mut self.admin.lock().moves);
            for (shard, node) in moves {
                if let Err(error) = client.move_leader(shard, node).await {
                    tracing::debug!(%shard, %node, %error, "a leader was not moved");
                }
            }
            if let Some(node) = self.not_read_through()
                && let Some(scanned) = self.read_through(node).await
            {
                let mut admin = self.admin.lock();
                admin.reads_through.retain(|&other| other != node);
                admin.scanned = scanned;
            }
            if self.admin.lock().wants_leftovers {
                let leftovers = self.leftovers(&client).await;
                self.admin.lock().leftovers = Some(leftovers);
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    async fn look(&self, client: &Client) {
        let looked_from = turmoil::sim_elapsed().unwrap_or_default();
        let Ok(status) = client.status().await else { return };
        let nodes: Vec<NodeId> = status.topology.nodes.iter().map(|node| node.id).collect();
        let asked = nodes.into_iter().map(|node| async move { (node, client.status_of(node).await) });
        let mut replicas = Vec::new();
        let mut nodes_seen = 0;
        for (node, status) in futures::future::join_all(asked).await {
            if let Ok(status) = status {
                nodes_seen += 1;
                replicas.extend(status.replicas.into_iter().map(|replica| (node, replica)));
            }
        }
        let mut admin = self.admin.lock();
        admin.topology = Some(Arc::new(status.topology));
        admin.replicas = replicas;
        admin.nodes_seen = nodes_seen;
        admin.looked_from = looked_from;
    }

    /// Reads what is to be read, and all keys at once, as a client that reaches no other node.
    async fn read_through(&self, node: usize) -> Option<Vec<Key>> {
        let endpoint = self.endpoints.get(node)?.clone();
        let config = kvd_client::Config::new([endpoint.clone()])
            .deadline(REQUEST_DEADLINE)
            .dial(Arc::new(OnlyTo(endpoint)));
        let client = Client::connect(config).await.ok()?;
        let process = Process(u32::MAX);
        let recording = RecordingClient::new(client.clone(), self.recorder.clone(), process);
        let keys = self.admin.lock().reads.clone();
        for key in &keys {
            recording.get(key).await.ok()?;
        }
        self.scan(&client, process).await
    }

    /// Reads all keys at once, recorded as a read of each that anybody ever used: what isn't there is as telling as what is.
    async fn scan(&self, client: &Client, process: Process) -> Option<Vec<Key>> {
        let history = self.recorder.history();
        let keys: std::collections::BTreeSet<Key> =
            history.operations.into_iter().map(|operation| operation.key).collect();
        let invocations: Vec<_> = keys
            .into_iter()
            .map(|key| (key.clone(), self.recorder.invoke(process, key, Action::Get)))
            .collect();
        let rows = client.scan_all().collect().await.ok()?;
        for (key, invocation) in invocations {
            let found = rows.iter().find(|(found, _)| *found == key).map(|(_, record)| record);
            invocation.ok(Answer::got(found));
        }
        Some(rows.into_iter().map(|(key, _)| key).collect())
    }

    /// Whether all that was to lapse has, and nothing else.
    async fn leftovers(&self, client: &Client) -> Result<(), String> {
        let rows = client.scan_prefix(LAPSING).collect().await.map_err(|error| error.to_string())?;
        if let Some(why) = self.records.not_as_left(&rows) {
            return Err(why);
        }
        let waits = client.scan_prefix("{kvd-lock:").keys_only().collect().await;
        let is_place = |key: &Key| String::from_utf8_lossy(key.as_bytes()).contains("}/");
        let waits = waits.map_err(|error| error.to_string())?.into_iter().find(|(key, _)| is_place(key));
        if let Some((key, _)) = waits {
            return Err(format!("somebody holds, or waits for, the lock of {key}"));
        }
        match client.list_leases().next().await {
            None => Ok(()),
            Some(Ok(lease)) => Err(format!("there is {lease:?}")),
            Some(Err(error)) => Err(error.to_string()),
        }
    }

    /// What is wrong about what is left of what was to lapse, as of the last look. Has the administrator look until nothing is.
    pub(crate) fn not_as_left(&self) -> Option<String> {
        let mut admin = self.admin.lock();
        let wrong = match &admin.leftovers {
            None => Some("nobody has looked".to_owned()),
            Some(looked) => looked.clone().err(),
        };
        admin.wants_leftovers = wrong.is_some();
        wrong
    }

    /// What the judges of what was recorded beside the history find.
    pub(crate) fn judge(&self) -> Vec<String> {
        let topology = self.admin.lock().topology.clone();
        self.records.judge(topology.as_ref().and_then(|topology| topology.ring.as_ref()))
    }

    /// A key that more than one shard gave in a scan of all: keys have one owner.
    pub(crate) fn key_with_two_owners(&self) -> Option<Key> {
        let mut seen = std::collections::BTreeSet::new();
        self.admin.lock().scanned.iter().find(|key| !seen.insert((*key).clone())).cloned()
    }

    /// Has the administrator read these keys through each of these nodes, until all have been.
    pub(crate) fn ask_to_read(&self, keys: Vec<String>, through: Vec<usize>) {
        let mut admin = self.admin.lock();
        admin.reads = keys;
        admin.reads_through = through;
    }

    /// A node through which not all has been read.
    pub(crate) fn not_read_through(&self) -> Option<usize> {
        self.admin.lock().reads_through.first().copied()
    }

    /// Has a leader moved, if the cluster is known well enough to say whose and where to.
    pub(crate) fn ask_to_move_leader(&self, rng: &mut StdRng) -> Option<(ShardId, NodeId)> {
        let mut admin = self.admin.lock();
        let topology = admin.topology.clone()?;
        let shard = topology.shards.get(rng.random_range(0..topology.shards.len().max(1)))?;
        let replica = shard.replicas.get(rng.random_range(0..shard.replicas.len().max(1)))?;
        admin.moves.push((shard.id, replica.node));
        Some((shard.id, replica.node))
    }

    /// The hosts of the nodes that lead a shard, one for each shard's leader, as of the last look.
    pub(crate) fn leaders(&self) -> Vec<String> {
        let admin = self.admin.lock();
        let Some(topology) = &admin.topology else { return Vec::new() };
        let leading = admin.replicas.iter().filter(|(_, replica)| replica.role == "leader");
        let nodes = leading.filter_map(|(id, _)| topology.nodes.iter().find(|node| node.id == *id));
        nodes.filter_map(|node| node.peer_address.split(':').next().map(str::to_owned)).collect()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn working(&self) -> u64 {
        self.working.load(Ordering::Relaxed)
    }

    /// Operations of each process that were answered so far.
    pub(crate) fn answered(&self) -> Vec<u64> {
        self.answered.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }

    /// What keeps the cluster from being whole, as of the last look; none if nothing does.
    pub(crate) fn not_whole(&self, shape: Shape, nodes: usize) -> Option<String> {
        let admin = self.admin.lock();
        let Some(topology) = &admin.topology else { return Some("nobody has seen the cluster".to_owned()) };
        if let Some(why) = admin.meta_not_whole(topology.nodes.len()) {
            return Some(why);
        }
        if let Some((node, replica)) = admin.replicas.iter().find(|(_, replica)| replica.changes_voters) {
            // What was lost of the old voters may still be needed.
            return Some(format!("node {node} sees the voters of group {} change", replica.group));
        }
        if admin.nodes_seen < topology.nodes.len() || topology.nodes.len() < nodes {
            return Some(format!("{} of {} nodes answer", admin.nodes_seen, topology.nodes.len()));
        }
        if topology.shards.len() != shape.shards as usize {
            return Some(format!("{} shards are placed", topology.shards.len()));
        }
        for shard in &topology.shards {
            if shard.replicas.len() != shape.replication_factor as usize {
                return Some(format!("shard {} has {} replicas", shard.id, shard.replicas.len()));
            }
            let seen: Vec<_> = shard
                .replicas
                .iter()
                .filter_map(|member| {
                    let is_it = |(node, found): &&(NodeId, ReplicaStatus)| {
                        *node == member.node && found.id == member.id && is_open(found)
                    };
                    admin.replicas.iter().find(is_it)
                })
                .collect();
            if seen.len() < shard.replicas.len() {
                return Some(format!("{} replicas of shard {} are open", seen.len(), shard.id));
            }
            if !seen.iter().any(|(_, replica)| replica.role == "leader") {
                return Some(format!("shard {} has no leader", shard.id));
            }
            if let Some((node, replica)) = seen.iter().find(|(_, replica)| replica.role == "learner") {
                return Some(format!(
                    "replica {} of shard {} on node {node} is a learner",
                    replica.id, shard.id
                ));
            }
        }
        None
    }

    /// When the last look at the cluster began.
    pub(crate) fn looked_from(&self) -> Duration {
        self.admin.lock().looked_from
    }

    /// What keeps the replicas of each shard from being equal, as of the last look; none if nothing does.
    pub(crate) fn not_equal(&self) -> Option<String> {
        let admin = self.admin.lock();
        let topology = admin.topology.as_ref()?;
        for shard in &topology.shards {
            let mut states = admin
                .replicas
                .iter()
                .filter(|(_, replica)| replica.group == shard.id.into())
                .filter(|(node, replica)| {
                    shard.replicas.iter().any(|member| member.id == replica.id && member.node == *node)
                })
                .map(|(_, replica)| (replica.applied_index, replica.digest));
            let Some(first) = states.next() else {
                return Some(format!("no replica of shard {} answers", shard.id));
            };
            if let Some(other) = states.find(|state| *state != first) {
                return Some(format!("replicas of shard {} stand at {first:?} and {other:?}", shard.id));
            }
        }
        None
    }
}

impl Admin {
    /// What the meta group of so many nodes lacks: each has a replica of it, and the largest odd number of them votes.
    fn meta_not_whole(&self, nodes: usize) -> Option<String> {
        let of_meta = |replica: &ReplicaStatus| replica.group == GroupId::META && is_open(replica);
        let open = || self.replicas.iter().filter(|(_, replica)| of_meta(replica));
        let voters = open().filter(|(_, replica)| replica.role != "learner").count();
        let voters_wanted = (nodes.clamp(1, META_VOTERS_MAX) - 1) | 1;
        if open().count() < nodes {
            return Some(format!("{} of {nodes} replicas of the meta group are open", open().count()));
        }
        (voters < voters_wanted)
            .then(|| format!("{voters} of {voters_wanted} replicas of the meta group vote"))
    }
}

/// Whether a replica takes part in its group. A node tells of those that it has lost as well.
fn is_open(replica: &ReplicaStatus) -> bool {
    matches!(replica.role.as_str(), "leader" | "follower" | "candidate" | "learner")
}
