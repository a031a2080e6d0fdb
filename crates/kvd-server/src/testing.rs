//! A store of one process and no disk, for tests of the front.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, stream};
use kvd_proto::{
    token::{ScanToken, scan_request},
    v1,
};
use kvd_types::{
    Condition, Error, Key, LeaseId, LeaseOutcome, Lifetime, NodeId, Outcome, Read, Record, Result, Revision,
    SessionId, ShardId, Target, Txn, TxnOp, TxnResult, Write, WriteOp,
    operation::{Content, LeaseInfo, Page, Reply, Request, Response, Served},
};
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use crate::{
    connections::ServiceLimits,
    store::{BoxFuture, DeletePart, Health, Parts, ScanPart, ScanSpec, Store, WatchPart, WatchSpec},
};

/// Keys with this prefix are served only once [`FakeStore::release`] was called.
pub(crate) const HELD: &str = "held:";

/// The oldest revision that can be read, and the first one that is given.
pub(crate) const FIRST_REVISION: Revision = Revision(100);
/// How old every shard is, in milliseconds.
pub(crate) const AGE_MS: u64 = 1000;
/// Keys with this prefix are of shard 8, all others of shard 7. Leases are of the latter.
pub(crate) const OTHER: &str = "other:";

pub(crate) struct FakeStore {
    rows: Mutex<BTreeMap<Key, Record>>,
    leases: Mutex<BTreeMap<LeaseId, u64>>,
    /// What the next watch tells.
    pub(crate) tells: Mutex<Vec<Result<WatchPart>>>,
    /// How many parts watches have told.
    pub(crate) told: AtomicUsize,
    pub(crate) last_read: Mutex<Option<Read>>,
    pub(crate) last_request: Mutex<Option<Request>>,
    pub(crate) last_watch: Mutex<Option<WatchSpec>>,
    revision: AtomicU64,
    failures: Mutex<BTreeMap<Key, Error>>,
    held: watch::Sender<bool>,
    /// Operations that have been started and neither finished nor dropped.
    running: watch::Sender<usize>,
    pub(crate) executed: AtomicUsize,
    pub(crate) last_deadline: Mutex<Option<Instant>>,
    pub(crate) health: Mutex<Health>,
    pub(crate) topology: watch::Sender<Arc<v1::Topology>>,
}

pub(crate) const LIMITS: ServiceLimits =
    ServiceLimits { value_bytes_max: 1 << 20, connections_max: 64, grace: Duration::from_secs(10) };

impl FakeStore {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            rows: Mutex::default(),
            leases: Mutex::default(),
            tells: Mutex::default(),
            told: AtomicUsize::new(0),
            last_read: Mutex::default(),
            last_request: Mutex::default(),
            last_watch: Mutex::default(),
            revision: AtomicU64::new(FIRST_REVISION.get()),
            failures: Mutex::default(),
            held: watch::Sender::new(true),
            running: watch::Sender::new(0),
            executed: AtomicUsize::new(0),
            last_deadline: Mutex::default(),
            health: Mutex::new(Health::ready()),
            topology: watch::Sender::default(),
        })
    }

    /// Whatever is asked of this key fails so.
    pub(crate) fn fail(&self, key: &str, error: Error) {
        self.failures.lock().insert(Key::try_from(key).unwrap(), error);
    }

    pub(crate) fn release(&self) {
        self.held.send_replace(false);
    }

    /// Waits until so many operations are running.
    pub(crate) async fn until_running(&self, wanted: usize) {
        let mut running = self.running.subscribe();
        let reached = running.wait_for(|running| *running == wanted);
        tokio::time::timeout(Duration::from_secs(10), reached).await.expect("never so many").unwrap();
    }

    pub(crate) fn running(&self) -> usize {
        *self.running.borrow()
    }

    fn serve(&self, request: Request) -> Result<Response> {
        self.executed.fetch_add(1, Ordering::SeqCst);
        if let Some(read) = request.read() {
            self.check_read(read)?;
        }
        Ok(match request {
            Request::Get(key, _) => Response::Got(self.read(&key)?),
            Request::BatchGet(keys, _) => {
                Response::GotBatch(keys.iter().map(|key| self.read(key)).collect::<Result<_>>()?)
            }
            Request::Write(write, _) => self.write(write)?,
            Request::Scan(page) => {
                let rows = self.rows.lock();
                let limit = if page.limit == 0 { usize::MAX } else { page.limit };
                let found = rows.iter().filter(|(key, _)| key.as_bytes() >= &page.start[..]);
                let rows = found.take(limit).map(|(key, record)| (key.clone(), record.clone())).collect();
                Response::Page(Page { rows, count: 0, next: None })
            }
            Request::KeepLeaseAlive(lease) => Response::Lease(Outcome::Lease(
                self.leases
                    .lock()
                    .get(&lease)
                    .map_or(LeaseOutcome::Gone, |&ttl_ms| LeaseOutcome::Alive { ttl_ms }),
            )),
            Request::GetLease(lease) => {
                Response::LeaseInfo(self.leases.lock().get(&lease).map(|&ttl_ms| lease_info(lease, ttl_ms)))
            }
            Request::ListLeases { shard, from, limit } => {
                let leases = self.leases.lock();
                let here = leases.range(from..).filter(|_| shard == ShardId(7));
                Response::Leases(here.take(limit).map(|(&id, &ttl_ms)| lease_info(id, ttl_ms)).collect())
            }
            Request::LeaseKeys { shard, lease, after, limit } => {
                let rows = self.rows.lock();
                let attached = rows.iter().filter(|(key, row)| {
                    row.lease == Some(lease) && shard_of(key) == shard && Some(*key) > after.as_ref()
                });
                Response::LeaseKeys(attached.take(limit).map(|(key, _)| key.clone()).collect())
            }
            Request::OpenSession(_) => Response::Session(Outcome::SessionOpened(SessionId(77))),
            Request::CloseSession(..) => Response::Session(Outcome::SessionClosed),
            other => return Err(Error::invalid(format!("the fake knows no {other:?}"))),
        })
    }

    fn check(&self, key: &Key) -> Result<()> {
        self.failures.lock().get(key).map_or(Ok(()), |error| Err(error.clone()))
    }

    fn read(&self, key: &Key) -> Result<Option<(Key, Record)>> {
        self.check(key)?;
        Ok(self.rows.lock().get(key).map(|record| (key.clone(), record.clone())))
    }

    fn check_read(&self, read: &Read) -> Result<()> {
        *self.last_read.lock() = Some(*read);
        let newest = Revision(self.revision.load(Ordering::SeqCst));
        match read.at {
            Some(at) if at < FIRST_REVISION => Err(Error::compacted(at, FIRST_REVISION)),
            Some(at) if at > newest => Err(Error::invalid(format!("revision {at} is in the future"))),
            _ => Ok(()),
        }
    }

    fn write(&self, write: Write) -> Result<Response> {
        match write.op {
            WriteOp::Txn(txn) => return self.txn(&txn),
            WriteOp::GrantLease { lease, ttl_ms } => {
                let is_new = !self.leases.lock().contains_key(&lease);
                let outcome = if is_new {
                    self.leases.lock().insert(lease, ttl_ms);
                    LeaseOutcome::Granted { ttl_ms }
                } else {
                    LeaseOutcome::Exists
                };
                return Ok(Response::Lease(Outcome::Lease(outcome)));
            }
            WriteOp::RevokeLease(lease) => {
                let known = self.leases.lock().remove(&lease);
                let outcome = known.map_or(LeaseOutcome::Gone, |_| LeaseOutcome::Revoked);
                return Ok(Response::Lease(Outcome::Lease(outcome)));
            }
            _ => {}
        }
        self.check(key_of(&write.op))?;
        let mut rows = self.rows.lock();
        let current = rows.get(key_of(&write.op)).cloned();
        let holds = |condition| match condition {
            Condition::Always => true,
            Condition::Absent => current.is_none(),
            Condition::RevisionIs(revision) => {
                current.as_ref().is_some_and(|record| record.revision == revision)
            }
        };
        let shown = |record: &Record, want: bool| {
            let value = if want { record.value.clone() } else { Bytes::new() };
            Record { value, ..record.clone() }
        };
        let revision = Revision(self.revision.fetch_add(1, Ordering::SeqCst));
        Ok(match write.op {
            WriteOp::Put { condition, want_previous, .. } if !holds(condition) => {
                Response::Put(Outcome::ConditionFailed {
                    current: current.map(|record| shown(&record, want_previous)),
                })
            }
            WriteOp::Delete { condition, want_previous, .. } if !holds(condition) => {
                Response::Deleted(Outcome::ConditionFailed {
                    current: current.map(|record| shown(&record, want_previous)),
                })
            }
            WriteOp::Put { key, value, lifetime, want_previous, .. } => {
                let (record, current) = put(&mut rows, key, value, lifetime, revision);
                let Record { create_revision, version, .. } = record;
                let previous = current.filter(|_| want_previous);
                Response::Put(Outcome::Put { revision, create_revision, version, previous })
            }
            WriteOp::Delete { key, want_previous, .. } => match rows.remove(&key) {
                None => Response::Deleted(Outcome::NotFound),
                Some(record) => Response::Deleted(Outcome::Deleted {
                    revision,
                    previous: want_previous.then_some(record),
                }),
            },
            other => return Err(Error::invalid(format!("the fake knows no {other:?}"))),
        })
    }
}

impl FakeStore {
    fn txn(&self, txn: &Txn) -> Result<Response> {
        txn.keys().try_for_each(|key| self.check(key))?;
        let mut rows = self.rows.lock();
        let succeeded = txn.compares.iter().all(|compare| compare.holds(rows.get(&compare.key)));
        let revision = Revision(self.revision.fetch_add(1, Ordering::SeqCst));
        let mut results = Vec::new();
        for operation in if succeeded { &txn.then } else { &txn.otherwise } {
            results.push(match operation.clone() {
                TxnOp::Get(key) => TxnResult::Got(rows.get(&key).cloned()),
                TxnOp::Put { key, value, lifetime, want_previous } => {
                    let (record, current) = put(&mut rows, key, value, lifetime, revision);
                    let Record { create_revision, version, .. } = record;
                    TxnResult::Put { create_revision, version, previous: current.filter(|_| want_previous) }
                }
                TxnOp::Delete { key, want_previous } => {
                    let removed = rows.remove(&key);
                    let existed = removed.is_some();
                    TxnResult::Deleted { existed, previous: removed.filter(|_| want_previous) }
                }
            });
        }
        Ok(Response::Txn(Outcome::Txn { succeeded, revision, results }))
    }

    /// The rows of a scan and where it would go on; an error in place of the row of a key that fails.
    fn scanned(&self, spec: &ScanSpec) -> Result<Vec<Result<ScanPart>>> {
        let cluster_id = self.topology.borrow().cluster_id.clone();
        let request = scan_request(&spec.start, &spec.end, spec.descending, spec.content, spec.filter);
        let (mut start, mut end, mut at) = (spec.start.clone(), spec.end.clone(), spec.at);
        if !spec.resume.is_empty() {
            let token = ScanToken::decode(&spec.resume, &cluster_id, request)?;
            at = Some(token.revision);
            *(if spec.descending { &mut end } else { &mut start }) = token.next;
        }
        self.check_read(&Read { at, ..Read::LINEARIZABLE })?;
        let revision = at.unwrap_or(Revision(self.revision.load(Ordering::SeqCst)));
        let rows = self.rows.lock();
        let inside = |key: &Key| *key.as_bytes() >= *start && (end.is_empty() || *key.as_bytes() < *end);
        let mut found: Vec<_> =
            rows.iter().filter(|(key, row)| inside(key) && spec.filter.admits(row)).collect();
        if spec.descending {
            found.reverse();
        }
        let limit = spec.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap());
        let is_cut = found.len() > limit;
        found.truncate(limit);
        let count = found.len() as u64;
        found.retain(|_| spec.content != Content::CountOnly);
        let mut parts: Vec<_> = found
            .into_iter()
            .map(|(key, row)| {
                self.check(key)?;
                let after = if spec.descending { &[][..] } else { &[0] };
                let next = [key.as_bytes(), after].concat().into();
                let token = ScanToken { cluster_id: cluster_id.clone(), request, revision, next };
                let rows = vec![(key.clone(), row.clone())];
                Ok(ScanPart { rows, revision, resume: token.encode(), count })
            })
            .collect();
        if !is_cut {
            parts.push(Ok(ScanPart { revision, count, ..ScanPart::default() }));
        }
        Ok(parts)
    }
}

/// Sets a key. Gives its new version, and the one before.
fn put(
    rows: &mut BTreeMap<Key, Record>,
    key: Key,
    value: Bytes,
    lifetime: Lifetime,
    revision: Revision,
) -> (Record, Option<Record>) {
    let current = rows.get(&key).cloned();
    let record = Record {
        value,
        create_revision: current.as_ref().map_or(revision, |record| record.create_revision),
        revision,
        version: current.as_ref().map_or(1, |record| record.version + 1),
        lease: lifetime.lease(),
        expires_at_age_ms: if let Lifetime::Ttl(ttl_ms) = lifetime { Some(AGE_MS + ttl_ms) } else { None },
    };
    rows.insert(key, record.clone());
    (record, current)
}

fn lease_info(id: LeaseId, ttl_ms: u64) -> LeaseInfo {
    LeaseInfo { id, ttl_ms, remaining_ms: ttl_ms - 1, shards: vec![ShardId(8), ShardId(7)] }
}

fn shard_of(key: &Key) -> ShardId {
    if key.as_bytes().starts_with(OTHER.as_bytes()) { ShardId(8) } else { ShardId(7) }
}

fn key_of(op: &WriteOp) -> &Key {
    match op.target() {
        Some(Target::Key(key)) => key,
        _ => panic!("the fake knows no {op:?}"),
    }
}

/// Counts an operation for as long as it runs.
struct Running<'a>(&'a watch::Sender<usize>);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|running| *running -= 1);
    }
}

fn is_held(request: &Request) -> bool {
    let key = match request {
        Request::Get(key, _) => key,
        Request::Write(Write { op: op @ (WriteOp::Put { .. } | WriteOp::Delete { .. }), .. }, _) => {
            key_of(op)
        }
        _ => return false,
    };
    key.as_bytes().starts_with(HELD.as_bytes())
}

impl Store for FakeStore {
    fn execute(&self, request: Request, deadline: Instant) -> BoxFuture<'_, Result<Reply>> {
        async move {
            *self.last_deadline.lock() = Some(deadline);
            *self.last_request.lock() = Some(request.clone());
            self.running.send_modify(|running| *running += 1);
            let _running = Running(&self.running);
            if is_held(&request) {
                let mut held = self.held.subscribe();
                let released = tokio::time::timeout_at(deadline, held.wait_for(|held| !held)).await.is_ok();
                if !released {
                    return Err(Error::unknown("held for too long"));
                }
            }
            let shard = match &request {
                Request::Get(key, _) => shard_of(key),
                Request::BatchGet(keys, _) => keys.first().map_or(ShardId(7), shard_of),
                Request::Write(write, _) => {
                    if let Some(Target::Key(key)) = write.op.target() {
                        shard_of(key)
                    } else {
                        ShardId(7)
                    }
                }
                _ => ShardId(7),
            };
            let response = self.serve(request)?;
            let revision = Revision(self.revision.load(Ordering::SeqCst));
            let leader = NodeId(1);
            let served = Served { shard, leader, shard_age_ms: AGE_MS, revision, ..Served::default() };
            Ok(Reply { response, served })
        }
        .boxed()
    }

    fn scan(self: Arc<Self>, spec: ScanSpec) -> Parts<ScanPart> {
        self.executed.fetch_add(1, Ordering::SeqCst);
        stream::iter(self.scanned(&spec).unwrap_or_else(|error| vec![Err(error)])).boxed()
    }

    fn delete_range(self: Arc<Self>, start: Bytes, end: Bytes) -> Parts<DeletePart> {
        self.executed.fetch_add(1, Ordering::SeqCst);
        let mut rows = self.rows.lock();
        let before = rows.len();
        rows.retain(|key, _| *key.as_bytes() < *start || (!end.is_empty() && *key.as_bytes() >= *end));
        let deleted = (before - rows.len()) as u64;
        let parts = [DeletePart { deleted, is_done: false }, DeletePart { deleted, is_done: true }];
        stream::iter(parts.map(Ok)).boxed()
    }

    fn watch(self: Arc<Self>, spec: WatchSpec) -> Parts<WatchPart> {
        self.executed.fetch_add(1, Ordering::SeqCst);
        *self.last_watch.lock() = Some(spec);
        let begun = WatchPart { resume: Bytes::from_static(b"begun"), ..WatchPart::default() };
        let told = std::mem::take(&mut *self.tells.lock());
        // After that nothing ever happens.
        let parts = stream::iter([Ok(begun)].into_iter().chain(told)).chain(stream::pending());
        let noted = parts.inspect(move |_| {
            self.told.fetch_add(1, Ordering::SeqCst);
        });
        noted.boxed()
    }

    fn topology(&self) -> watch::Receiver<Arc<v1::Topology>> {
        self.topology.subscribe()
    }

    fn status(&self) -> BoxFuture<'_, v1::StatusResponse> {
        let status = v1::StatusResponse { node: 1, version: "fake".to_owned(), ..Default::default() };
        futures::future::ready(status).boxed()
    }

    fn locate(&self, key: &Key) -> Result<v1::LocateResponse> {
        self.check(key)?;
        Ok(v1::LocateResponse {
            shard: Some(v1::Shard { id: shard_of(key).get(), ..Default::default() }),
            hash: 42,
        })
    }

    fn move_leader(&self, shard: ShardId, to: NodeId) -> BoxFuture<'_, Result<NodeId>> {
        let moved = if shard == ShardId(1) {
            Ok(to)
        } else {
            Err(Error::new(kvd_types::ErrorKind::NotFound, "no such shard"))
        };
        futures::future::ready(moved).boxed()
    }

    fn health(&self) -> Health {
        self.health.lock().clone()
    }
}
