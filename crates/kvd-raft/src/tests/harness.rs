//! A few replicas of one group in one process: real openraft, logs and checkpoints, engines in memory, and a network of
//! function calls that can be cut.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};
use kvd_proto::peer::v1 as p;
use kvd_storage::{
    checkpoint::{Checkpoint, CheckpointStore},
    disk::{Disk, RealDisk},
    engine::{Batch, Direction, Engine, MemoryEngine},
    log::{Log, Options},
    table::Table,
};
use kvd_types::{
    Command, Condition, Error, GroupId, Incarnation, Key, Lifetime, NodeId, Outcome, ReplicaId, Result,
    Write, WriteOp, cluster::Replica,
};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::sync::watch;

use crate::{
    CallError, Group, HistoryOptions, Lane, MemoryOptions, OpenError, Parts, SleepOptions, Timing, Transport,
    blocking::Blocking, clock::SystemClock, disk_reads::DiskReads, pulse::Pulses, turns::DrainTurns,
};

pub(super) const GROUP: GroupId = GroupId(1);
/// Long enough for anything on a busy machine; a test that waits for it has failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// The replicas that can be reached.
#[derive(Clone, Default)]
pub(super) struct Network(Arc<Mutex<Reachable>>);

#[derive(Default)]
struct Reachable {
    groups: BTreeMap<NodeId, Group>,
    /// Those of the nodes whose groups sleep.
    pulses: BTreeMap<NodeId, Pulses>,
    cut_off: BTreeSet<NodeId>,
    checkpoints_held: watch::Sender<bool>,
    /// How checkpoints are sent, if not by function calls.
    checkpoint_carrier: Option<Arc<dyn Transport>>,
}

impl Network {
    pub(super) fn cut_off(&self, node: u64) {
        self.0.lock().cut_off.insert(NodeId(node));
    }

    pub(super) fn mend(&self, node: u64) {
        self.0.lock().cut_off.remove(&NodeId(node));
    }

    /// Checkpoints are on their way until they are let go.
    pub(super) fn hold_checkpoints(&self, held: bool) {
        self.0.lock().checkpoints_held.send_replace(held);
    }

    pub(super) fn send_checkpoints_by(&self, carrier: Arc<dyn Transport>) {
        self.0.lock().checkpoint_carrier = Some(carrier);
    }

    fn pulses(&self, from: NodeId, to: NodeId) -> Result<Pulses, CallError> {
        let reachable = self.0.lock();
        let cut = reachable.cut_off.contains(&from) || reachable.cut_off.contains(&to);
        let pulses = reachable.pulses.get(&to).filter(|_| !cut);
        pulses.cloned().ok_or_else(|| CallError::Unreachable(to, "cut off".to_owned()))
    }

    fn reach(&self, from: NodeId, to: NodeId) -> Result<Group, CallError> {
        let reachable = self.0.lock();
        let cut = reachable.cut_off.contains(&from) || reachable.cut_off.contains(&to);
        let group = reachable.groups.get(&to).filter(|_| !cut);
        group.cloned().ok_or_else(|| CallError::Unreachable(to, "cut off or not running".to_owned()))
    }
}

/// One node's way into the network.
struct Link {
    node: NodeId,
    network: Network,
}

impl Transport for Link {
    fn call(
        &self,
        to: NodeId,
        _lane: Lane,
        message: p::Envelope,
        patience: Duration,
    ) -> BoxFuture<'static, Result<p::Envelope, CallError>> {
        let (network, from) = (self.network.clone(), self.node);
        let handled = async move {
            if let Some(p::envelope::Body::Pulse(question)) = &message.body {
                let answer = p::envelope::Body::PulseResponse(network.pulses(from, to)?.answer(question));
                network.pulses(from, to)?;
                return Ok(p::Envelope { body: Some(answer), ..p::Envelope::default() });
            }
            let (group, body) = (
                network.reach(from, to)?,
                message.body.ok_or_else(|| CallError::Refused(to, "empty".to_owned()))?,
            );
            let answer = group.handle(body).await;
            network.reach(from, to)?;
            Ok(p::Envelope { body: Some(answer), ..p::Envelope::default() })
        };
        // Begun now, so that messages arrive in the order of the calls, as a lane has it.
        let mut handled = tokio::task::unconstrained(handled).boxed();
        let at_once = handled.as_mut().now_or_never();
        async move {
            let handled = async {
                match at_once {
                    Some(answer) => answer,
                    None => handled.await,
                }
            };
            tokio::time::timeout(patience, handled)
                .await
                .unwrap_or_else(|_elapsed| Err(CallError::NoAnswer(to, "too late".to_owned())))
        }
        .boxed()
    }

    fn send_checkpoint(
        &self,
        to: NodeId,
        header: p::CheckpointHeader,
        checkpoint: Checkpoint,
    ) -> BoxFuture<'static, Result<p::SendCheckpointResponse, CallError>> {
        if let Some(carrier) = &self.network.0.lock().checkpoint_carrier {
            return carrier.send_checkpoint(to, header, checkpoint);
        }
        let group = self.network.reach(self.node, to);
        let mut held = self.network.0.lock().checkpoints_held.subscribe();
        async move {
            held.wait_for(|held| !held).await.unwrap();
            let mut pieces = Vec::new();
            let mut offset = 0;
            while offset < checkpoint.size_bytes() {
                let piece = checkpoint.read_chunk(offset, 4096).unwrap();
                offset += piece.len() as u64;
                pieces.push(Ok(piece));
            }
            let received = group?.receive_checkpoint(header, futures::stream::iter(pieces).boxed()).await;
            received.map_err(|error: Error| CallError::NoAnswer(to, error.message))
        }
        .boxed()
    }
}

/// A node's disk, which outlives its replica.
pub(super) struct Node {
    pub(super) id: u64,
    pub(super) log: Log,
    pub(super) engine: Arc<MemoryEngine>,
    pub(super) checkpoints: PathBuf,
    /// Where the checkpoints are.
    pub(super) checkpoint_disk: Arc<dyn Disk>,
    pub(super) memory: MemoryOptions,
    pub(super) drain_turns: DrainTurns,
    /// When its groups sleep, if they do.
    pub(super) sleep: Option<SleepOptions>,
    network: Network,
    _dir: TempDir,
}

impl Node {
    pub(super) fn new(id: u64, network: &Network) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { segment_bytes: 1 << 20, ..Options::default() };
        let (log, _) = Log::open(Arc::new(RealDisk), &dir.path().join("log"), options).unwrap();
        let checkpoints = dir.path().join("checkpoints");
        let engine = Arc::new(MemoryEngine::new());
        let memory = MemoryOptions::default();
        Self {
            id,
            log,
            engine,
            checkpoints,
            checkpoint_disk: Arc::new(RealDisk),
            memory,
            drain_turns: DrainTurns::new(Blocking::Pool),
            sleep: None,
            network: network.clone(),
            _dir: dir,
        }
    }

    /// Has its groups sleep from when they are opened next.
    pub(super) fn sleeps_after(&mut self, after: Duration) {
        let node = self.replica().node;
        let transport = Arc::new(Link { node, network: self.network.clone() });
        let pulses = Pulses::new(node, Incarnation(1), transport, Timing::default());
        self.network.0.lock().pulses.insert(node, pulses.clone());
        self.sleep = Some(SleepOptions { after, pulses });
    }

    pub(super) fn replica(&self) -> Replica {
        Replica { id: ReplicaId(self.id), node: NodeId(self.id) }
    }

    pub(super) async fn try_open(&self, rebuild: bool) -> Result<Group, OpenError> {
        let replica = self.replica();
        let engine: Arc<dyn Engine> = Arc::clone(&self.engine) as _;
        let opened = Group::open(
            Parts {
                group: GROUP,
                replica: replica.id,
                log: self.log.replica(GROUP, replica.id).unwrap(),
                table: Arc::new(Table::open(engine, replica.id).unwrap()),
                checkpoints: CheckpointStore::open(Arc::clone(&self.checkpoint_disk), &self.checkpoints)
                    .unwrap(),
                transport: Arc::new(Link { node: replica.node, network: self.network.clone() }),
                clock: Arc::new(SystemClock),
                timing: Timing::default(),
                history: HistoryOptions::default(),
                lease_reads: true,
                sleep: self.sleep.clone(),
                memory: self.memory,
                blocking: Blocking::Pool,
                disk_reads: DiskReads::new(Blocking::Pool).unwrap(),
                drain_turns: self.drain_turns.clone(),
                observer: Arc::new(crate::observe::NoObserver),
            },
            rebuild,
        );
        let group = opened.await?;
        self.network.0.lock().groups.insert(replica.node, group.clone());
        Ok(group)
    }

    pub(super) async fn open(&self) -> Group {
        self.try_open(false).await.unwrap()
    }

    /// Stops the replica cleanly: everything is drained and flushed.
    pub(super) async fn stop(&self, group: &Group) {
        self.network.0.lock().groups.remove(&NodeId(self.id));
        group.shutdown().await.unwrap();
        self.engine.flush().unwrap();
    }

    /// Flips a bit of each row in the engine whose key ends so.
    pub(super) fn damage_row(&self, key: &str) {
        let tree = self.engine.tree(&format!("r{}.a", self.id)).unwrap();
        let mut damage = Batch::default();
        for row in tree.scan(Bound::Unbounded, Bound::Unbounded, Direction::Ascending) {
            let (row, value) = row.unwrap();
            if row.ends_with(key.as_bytes()) {
                let mut flipped = value.to_vec();
                *flipped.last_mut().unwrap() ^= 1;
                damage.put(row, Bytes::from(flipped));
            }
        }
        assert!(!damage.is_empty());
        tree.apply(damage).unwrap();
    }

    /// Flips a bit in the middle of every checkpoint.
    pub(super) fn damage_checkpoints(&self) {
        for file in std::fs::read_dir(&self.checkpoints).unwrap() {
            let path = file.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }
    }

    /// Stops the replica as a kill would: what the engine had not flushed is gone.
    pub(super) async fn crash(&mut self, group: &Group) {
        self.network.0.lock().groups.remove(&NodeId(self.id));
        group.shutdown().await.unwrap();
        self.engine = Arc::new(self.engine.after_crash());
    }
}

/// Three nodes with a group between them that has a leader.
pub(super) async fn three() -> (Network, Vec<Node>, Vec<Group>) {
    three_with(|_| ()).await
}

/// The same of nodes that have been prepared.
pub(super) async fn three_with(prepare: impl Fn(&mut Node)) -> (Network, Vec<Node>, Vec<Group>) {
    let network = Network::default();
    let mut nodes: Vec<Node> = (1..=3).map(|id| Node::new(id, &network)).collect();
    nodes.iter_mut().for_each(prepare);
    let founders: Vec<Replica> = nodes.iter().map(Node::replica).collect();
    let mut groups = Vec::new();
    for node in &nodes {
        groups.push(node.open().await);
    }
    for group in &groups {
        group.initialize(&founders).await.unwrap();
    }
    (network, nodes, groups)
}

/// The replica that leads and is recognised as leader by a majority, with its place in the list.
pub(super) async fn leader(groups: &[Group]) -> (usize, Group) {
    let found = async {
        loop {
            for (place, group) in groups.iter().enumerate() {
                if group.leadership().is_self && group.read_barrier().await.is_ok() {
                    return (place, group.clone());
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.expect("a leader")
}

/// Waits for something to become true.
pub(super) async fn until(what: &str, condition: impl Fn() -> bool) {
    let waited = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

pub(super) fn put(key: &str, value: &str) -> Command {
    let op = WriteOp::Put {
        key: Key::try_from(key).unwrap(),
        value: value.to_owned().into(),
        lifetime: Lifetime::Forever,
        condition: Condition::Always,
        want_previous: false,
    };
    Command::Write(Write { session: None, op })
}

/// Puts `count` keys, many at a time.
pub(super) async fn put_many(group: &Group, prefix: &str, count: usize) {
    let writes = futures::stream::iter(0..count)
        .map(|i| async move { group.propose(put(&format!("{prefix}{i}"), &format!("{prefix}{i}"))).await })
        .buffer_unordered(256);
    writes
        .for_each(|written| async move {
            assert!(matches!(written, Ok(Outcome::Put { .. })), "{written:?}");
        })
        .await;
}

/// The value of a key, as this replica has applied it.
pub(super) fn value(group: &Group, key: &str) -> Option<String> {
    let found = group.reader().unwrap().get(&Key::try_from(key).unwrap()).unwrap();
    found.map(|record| String::from_utf8(record.value.to_vec()).unwrap())
}
