//! A cluster in this process that does as it is told: real sockets and streams, one map, and faults on demand.
//!
//! All nodes share one world, as if replication were instant; what the world's shards hold is in [`store`]. A node serves any request, as if it forwarded, unless it
//! is told to redirect. Writes are remembered by session and number like a shard does, and each application is counted:
//! what the tests claim about "exactly once" is read from there.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use kvd_placement::{Ring, uniform};
use kvd_proto::{
    error::to_wire,
    operation::{reply_to_wire, request_from_wire},
    topology::ring_to_wire,
    v1::{
        self, cluster_server::ClusterServer, kv_server::KvServer, operation_result::Response as WireResponse,
    },
};
use kvd_types::{
    Error, ErrorKind, Key, LeaderHint, NodeId, Outcome, Read, Revision, RingEpoch, SessionId,
    SessionPosition, ShardId, Write, WriteOp,
    operation::{Reply, Request, Response, Served},
};
use parking_lot::Mutex;
use tokio::{net::TcpListener, runtime::Runtime, sync::watch};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

mod service;
mod store;

use store::Store;

/// Rows that a page looks at, and keys that a step of a range's deletion removes.
pub(crate) const PAGE_ROWS: usize = 3;

/// What happens to the next read or write of a key.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// It is done, and the stream breaks before the answer.
    BreakAfter,
    /// The stream breaks, and it isn't done.
    BreakBefore,
    /// It is done, and never answered.
    HangAfter,
    /// It isn't done, and never answered.
    HangBefore,
    /// It is refused with this.
    Refuse(Error),
    /// All sessions are forgotten; then it is served.
    ExpireSessions,
    /// It is served.
    Nothing,
}

/// The state that all nodes share, and what they saw.
pub(crate) struct World {
    pub(crate) addresses: Vec<String>,
    pub(crate) leaders: BTreeMap<ShardId, usize>,
    pub(crate) epoch: u64,
    pub(crate) reports_ring: bool,
    /// Keys whose values fit an answer.
    pub(crate) batch_keys_max: usize,
    /// Nodes that answer nothing.
    pub(crate) silent: Vec<usize>,
    /// Nodes that send those who ask for what they don't lead to its leader.
    pub(crate) redirects: bool,
    pub(crate) faults: VecDeque<Fault>,
    /// The tries of writes, in the order in which they came.
    pub(crate) seen: Vec<SessionPosition>,
    /// Requests about keys that each node got.
    pub(crate) asked: Vec<usize>,
    pub(crate) sessions_opened: usize,
    pub(crate) sessions_closed: usize,
    pub(crate) frames_of_many: usize,
    /// Zones of the nodes; empty: none.
    pub(crate) zones: Vec<String>,
    /// How the reads came that were served.
    pub(crate) reads: Vec<Read>,
    /// A watch breaks after so many answers.
    pub(crate) watch_answers_max: usize,
    pub(crate) watches: usize,
    pub(crate) store: Store,
    /// How often each write has been applied.
    pub(crate) applied: HashMap<(SessionId, u64), usize>,
    sessions: HashMap<SessionId, BTreeMap<u64, Outcome>>,
    ring: Ring,
}

/// What a node does about a request.
enum Verdict {
    Answer(WireResponse),
    Nothing,
    Break,
}

/// A cluster in this process.
pub(crate) struct Fake {
    pub(crate) world: Arc<Mutex<World>>,
    topology: watch::Sender<u64>,
    nodes: Vec<Option<Runtime>>,
}

impl Fake {
    pub(crate) fn new(nodes: usize, shards: u32) -> Self {
        let spec = uniform(shards);
        let ring = Ring::build(&spec).unwrap();
        let world = World {
            addresses: Vec::new(),
            leaders: ring.shards().iter().enumerate().map(|(index, &shard)| (shard, index % nodes)).collect(),
            epoch: 1,
            reports_ring: true,
            batch_keys_max: usize::MAX,
            silent: Vec::new(),
            redirects: false,
            faults: VecDeque::new(),
            seen: Vec::new(),
            asked: vec![0; nodes],
            sessions_opened: 0,
            sessions_closed: 0,
            frames_of_many: 0,
            applied: HashMap::new(),
            sessions: HashMap::new(),
            zones: Vec::new(),
            reads: Vec::new(),
            watch_answers_max: usize::MAX,
            watches: 0,
            store: Store::default(),
            ring,
        };
        let world = Arc::new(Mutex::new(world));
        let topology = watch::Sender::new(0);
        let nodes = (0..nodes).map(|node| Some(start(node, &world, &topology))).collect();
        Self { world, topology, nodes }
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.world.lock().addresses.clone()
    }

    /// The node's process is gone, its sockets with it.
    pub(crate) fn kill(&mut self, node: usize) {
        self.nodes[node].take().unwrap().shutdown_background();
    }

    /// Changes the world, and tells those who watch the topology.
    pub(crate) fn change(&self, change: impl FnOnce(&mut World)) {
        let mut world = self.world.lock();
        world.epoch += 1;
        change(&mut world);
        drop(world);
        self.topology.send_modify(|version| *version += 1);
    }

    pub(crate) fn inject(&self, faults: impl IntoIterator<Item = Fault>) {
        self.world.lock().faults.extend(faults);
    }

    pub(crate) fn shard_of(&self, key: &str) -> ShardId {
        self.world.lock().ring.shard_of(&Key::try_from(key).unwrap())
    }

    /// No write has been applied twice; how many were applied.
    pub(crate) fn applied_once(&self) -> usize {
        let world = self.world.lock();
        for (write, &times) in &world.applied {
            assert_eq!(times, 1, "{write:?} was applied {times} times");
        }
        world.applied.len()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        for node in self.nodes.drain(..).flatten() {
            node.shutdown_background();
        }
    }
}

fn start(node: usize, world: &Arc<Mutex<World>>, topology: &watch::Sender<u64>) -> Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    world.lock().addresses.push(listener.local_addr().unwrap().to_string());
    let service = service::Node { node, world: Arc::clone(world), topology: topology.subscribe() };
    runtime.spawn(async move {
        let incoming = TcpListenerStream::new(TcpListener::from_std(listener).unwrap());
        Server::builder()
            .add_service(KvServer::new(service.clone()))
            .add_service(ClusterServer::new(service))
            .serve_with_incoming(incoming)
            .await
            .unwrap();
    });
    runtime
}

impl World {
    fn serve(&mut self, node: usize, request: v1::operation::Request) -> Verdict {
        if self.silent.contains(&node) {
            return Verdict::Nothing;
        }
        let request = match request_from_wire(request) {
            Ok(request) => request,
            Err(error) => return refuse(&error),
        };
        let shard = match &request {
            Request::Get(key, _) => self.ring.shard_of(key),
            Request::BatchGet(keys, _) => self.ring.shard_of(&keys[0]),
            Request::Write(write, _) => match self.ring.shard_of_write(&write.op) {
                Ok(shard) => shard,
                Err(error) => return refuse(&error),
            },
            Request::KeepLeaseAlive(lease) | Request::GetLease(lease) => self.ring.shard_of_lease(*lease),
            Request::Scan(page) => page.shard,
            Request::Snapshot(shards) => shards[0],
            Request::ReadPoint(point) => point.shard,
            Request::Changes(page) => page.shard,
            Request::OpenSession(shard)
            | Request::CloseSession(shard, _)
            | Request::ListLeases { shard, .. }
            | Request::LeaseKeys { shard, .. }
            | Request::Tell(shard, ..) => *shard,
        };
        let about_a_key =
            matches!(request, Request::Get(..) | Request::Write(..) | Request::KeepLeaseAlive(_));
        self.reads.extend(request.read().copied());
        if about_a_key {
            self.asked[node] += 1;
        }
        if let Request::Write(Write { session: Some(position), .. }, _) = &request {
            self.seen.push(*position);
        }
        let leader = self.leaders[&shard];
        if self.redirects && leader != node && !request.is_for_any_replica() {
            let hint = LeaderHint {
                shard,
                node: NodeId(leader as u64 + 1),
                address: self.addresses[leader].clone(),
            };
            return refuse(&Error::new(ErrorKind::NotLeader(Some(hint)), "not the leader"));
        }
        let fault = if about_a_key { self.faults.pop_front() } else { None };
        match fault.unwrap_or(Fault::Nothing) {
            Fault::Nothing => Verdict::Answer(self.apply(shard, request)),
            Fault::BreakAfter => {
                self.apply(shard, request);
                Verdict::Break
            }
            Fault::BreakBefore => Verdict::Break,
            Fault::HangAfter => {
                self.apply(shard, request);
                Verdict::Nothing
            }
            Fault::HangBefore => Verdict::Nothing,
            Fault::Refuse(error) => refuse(&error),
            Fault::ExpireSessions => {
                self.sessions.clear();
                Verdict::Answer(self.apply(shard, request))
            }
        }
    }

    fn apply(&mut self, shard: ShardId, request: Request) -> WireResponse {
        let response = self.response(shard, request);
        let leader = self.leaders[&shard];
        let served = Served {
            shard,
            leader: NodeId(leader as u64 + 1),
            leader_address: self.addresses[leader].clone(),
            ring_epoch: RingEpoch(1),
            shard_age_ms: 1000,
            revision: Revision(self.store.revision),
        };
        reply_to_wire(response.map(|response| Reply { response, served }))
    }

    fn response(&mut self, shard: ShardId, request: Request) -> Result<Response, Error> {
        Ok(match request {
            Request::Get(key, read) => Response::Got(self.store.get(shard, key, read.at)),
            Request::BatchGet(keys, _) if keys.len() > self.batch_keys_max => {
                return Err(Error::invalid("the answer is too large"));
            }
            Request::BatchGet(keys, read) => {
                for key in &keys {
                    assert_eq!(self.ring.shard_of(key), shard, "a batch of two shards");
                }
                Response::GotBatch(keys.into_iter().map(|key| self.store.get(shard, key, read.at)).collect())
            }
            Request::Scan(page) => Response::Page(self.store.scan(&page)),
            Request::Snapshot(_) => Response::Snapshot(self.store.read_point()),
            Request::KeepLeaseAlive(lease) => {
                Response::LeaseKept(Outcome::Lease(self.store.keep_alive(lease)?))
            }
            Request::GetLease(lease) => Response::LeaseInfo(self.store.lease(lease)),
            Request::ListLeases { from, limit, .. } => {
                let of_shard = |lease| self.ring.shard_of_lease(lease) == shard;
                Response::Leases(
                    self.store.leases(from).filter(|info| of_shard(info.id)).take(limit).collect(),
                )
            }
            Request::LeaseKeys { lease, after, limit, .. } => {
                Response::LeaseKeys(self.store.lease_keys(shard, lease, after.as_ref(), limit))
            }
            Request::Changes(_) | Request::ReadPoint(_) | Request::Tell(..) => {
                return Err(Error::invalid("not for clients of the library"));
            }
            Request::OpenSession(_) => {
                self.sessions_opened += 1;
                let id = SessionId(self.sessions_opened as u64 * 1000);
                self.sessions.insert(id, BTreeMap::new());
                Response::Session(Outcome::SessionOpened(id))
            }
            Request::CloseSession(_, id) => {
                self.sessions_closed += usize::from(self.sessions.remove(&id).is_some());
                Response::Session(Outcome::SessionClosed)
            }
            Request::Write(write, _) => {
                let response = match &write.op {
                    WriteOp::Put { .. } => Response::Put,
                    WriteOp::Delete { .. } => Response::Deleted,
                    WriteOp::DeleteRange { .. } => Response::RangeDeleted,
                    WriteOp::Txn(_) => Response::Txn,
                    WriteOp::GrantLease { .. } | WriteOp::RevokeLease(_) => Response::Lease,
                };
                response(self.write(shard, write)?)
            }
        })
    }

    fn write(&mut self, shard: ShardId, write: Write) -> Result<Outcome, Error> {
        let position = write.session.expect("this client's writes are in sessions");
        let sequence = position.sequence.get();
        let Some(outcomes) = self.sessions.get_mut(&position.session) else {
            return Err(Error::new(ErrorKind::SessionUnknown, "no such session"));
        };
        while outcomes.first_key_value().is_some_and(|(&number, _)| number < position.oldest_open.get()) {
            outcomes.pop_first();
        }
        if let Some(outcome) = outcomes.get(&sequence) {
            return Ok(outcome.clone());
        }
        *self.applied.entry((position.session, sequence)).or_default() += 1;
        let outcome = self.store.write(shard, write.op)?;
        self.sessions.get_mut(&position.session).unwrap().insert(sequence, outcome.clone());
        Ok(outcome)
    }

    fn topology(&self) -> v1::Topology {
        let nodes = self.addresses.iter().enumerate().map(|(index, address)| v1::Node {
            id: index as u64 + 1,
            client_address: address.clone(),
            zone: self.zones.get(index).cloned().unwrap_or_default(),
            state: "active".into(),
            weight: 100,
            reachable: true,
            ..Default::default()
        });
        let replicas = (0..self.addresses.len() as u64).map(|index| v1::Replica {
            id: index + 1,
            node: index + 1,
            role: "voter".into(),
        });
        let replicas: Vec<_> = replicas.collect();
        let shards = self.leaders.iter().map(|(shard, &leader)| v1::Shard {
            id: shard.get(),
            share: self.ring.share(*shard),
            replicas: replicas.clone(),
            leader_node: leader as u64 + 1,
            preferred_leader_node: leader as u64 + 1,
        });
        v1::Topology {
            cluster_id: "fake".into(),
            epoch: self.epoch,
            replication_factor: 3,
            ring: self.reports_ring.then(|| ring_to_wire(self.ring.spec())),
            nodes: nodes.collect(),
            shards: shards.collect(),
        }
    }
}

fn refuse(error: &Error) -> Verdict {
    Verdict::Answer(WireResponse::Error(to_wire(error)))
}
