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
use futures::FutureExt as _;
use kvd_proto::v1;
use kvd_types::{
    Condition, Error, Key, NodeId, Outcome, Record, Result, Revision, SessionId, ShardId, Write, WriteOp,
    operation::{Reply, Request, Response, Served},
};
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use crate::{
    connections::ServiceLimits,
    store::{BoxFuture, Health, Store},
};

/// Keys with this prefix are served only once [`FakeStore::release`] was called.
pub(crate) const HELD: &str = "held:";

pub(crate) struct FakeStore {
    rows: Mutex<BTreeMap<Key, Record>>,
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
            revision: AtomicU64::new(100),
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
        Ok(match request {
            Request::Get(key) => Response::Got(self.read(&key)?),
            Request::BatchGet(keys) => {
                Response::GotBatch(keys.iter().map(|key| self.read(key)).collect::<Result<_>>()?)
            }
            Request::Write(write) => self.write(write)?,
            Request::Scan(page) => {
                let rows = self.rows.lock();
                let limit = if page.limit == 0 { usize::MAX } else { page.limit };
                let found = rows.iter().filter(|(key, _)| key.as_bytes() >= &page.start[..]);
                let rows = found.take(limit).map(|(key, record)| (key.clone(), record.clone())).collect();
                Response::Page { rows, more: false }
            }
            Request::OpenSession(_) => Response::Session(Outcome::SessionOpened(SessionId(77))),
            Request::CloseSession(..) => Response::Session(Outcome::SessionClosed),
        })
    }

    fn check(&self, key: &Key) -> Result<()> {
        self.failures.lock().get(key).map_or(Ok(()), |error| Err(error.clone()))
    }

    fn read(&self, key: &Key) -> Result<Option<(Key, Record)>> {
        self.check(key)?;
        Ok(self.rows.lock().get(key).map(|record| (key.clone(), record.clone())))
    }

    fn write(&self, write: Write) -> Result<Response> {
        self.check(write.op.key())?;
        let mut rows = self.rows.lock();
        let current = rows.get(write.op.key()).cloned();
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
            WriteOp::Put { key, value, want_previous, .. } => {
                let create_revision = current.as_ref().map_or(revision, |record| record.create_revision);
                let version = current.as_ref().map_or(1, |record| record.version + 1);
                rows.insert(key, Record { value, create_revision, revision, version, ..Record::default() });
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
        })
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
        Request::Get(key) => key,
        Request::Write(write) => write.op.key(),
        _ => return false,
    };
    key.as_bytes().starts_with(HELD.as_bytes())
}

impl Store for FakeStore {
    fn execute(&self, request: Request, deadline: Instant) -> BoxFuture<'_, Result<Reply>> {
        async move {
            *self.last_deadline.lock() = Some(deadline);
            self.running.send_modify(|running| *running += 1);
            let _running = Running(&self.running);
            if is_held(&request) {
                let mut held = self.held.subscribe();
                let released = tokio::time::timeout_at(deadline, held.wait_for(|held| !held)).await.is_ok();
                if !released {
                    return Err(Error::unknown("held for too long"));
                }
            }
            let served = Served { shard: ShardId(1), leader: NodeId(1), ..Served::default() };
            self.serve(request).map(|response| Reply { response, served })
        }
        .boxed()
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
        Ok(v1::LocateResponse { shard: Some(v1::Shard { id: 7, ..Default::default() }), hash: 42 })
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
