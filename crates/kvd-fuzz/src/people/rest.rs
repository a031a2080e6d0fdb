//! Requests of the REST interface.
//!
//! An input is a byte for the method, an address after its length, and a body. Behind the routes stands a store of a few
//! keys in memory. Whatever is asked is answered as documented: with a known code, in JSON, a failure with its reason; and
//! what was put is there.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use base64::Engine as _;
use bytes::Bytes;
use futures::stream;
use http::{Method, Request, Uri};
use kvd_proto::v1;
use kvd_server::store::{
    BoxFuture, DeletePart, Health, Parts, ScanPart, ScanSpec, Store, WatchPart, WatchSpec,
};
use kvd_types::{
    Condition, Error, ErrorKind, Key, Lifetime, NodeId, Outcome, Record, Result, Revision, ShardId, Write,
    WriteOp,
    operation::{self, Reply, Response, Served},
};
use serde_json::Value;
use tokio::{sync::watch, time::Instant};

use crate::input::{Input, put_sized};

const METHODS: [Method; 5] = [Method::GET, Method::PUT, Method::DELETE, Method::POST, Method::HEAD];

/// Keys in memory.
struct Memory {
    rows: Mutex<BTreeMap<Key, Record>>,
    topology: watch::Sender<Arc<v1::Topology>>,
}

impl Memory {
    fn new() -> Arc<Self> {
        let topology = v1::Topology { cluster_id: "0".repeat(32), ..v1::Topology::default() };
        let memory = Self { rows: Mutex::default(), topology: watch::Sender::new(Arc::new(topology)) };
        let key = Key::try_from("a/b").expect("a key");
        memory.write(WriteOp::Put {
            key,
            value: "c".into(),
            lifetime: Lifetime::Forever,
            condition: Condition::Always,
            want_previous: false,
        });
        Arc::new(memory)
    }

    fn write(&self, op: WriteOp) -> Outcome {
        let mut rows = self.rows.lock().expect("nobody panics");
        let (WriteOp::Put { key, condition, .. } | WriteOp::Delete { key, condition, .. }) = &op else {
            return Outcome::NotFound;
        };
        let current = rows.get(key).cloned();
        let holds = match condition {
            Condition::Always => true,
            Condition::Absent => current.is_none(),
            Condition::RevisionIs(revision) => {
                current.as_ref().is_some_and(|record| record.revision == *revision)
            }
        };
        let revision = Revision(7);
        match op {
            _ if !holds => Outcome::ConditionFailed { current },
            WriteOp::Put { key, value, want_previous, .. } => {
                let record =
                    Record { value, create_revision: revision, revision, version: 1, ..Record::default() };
                rows.insert(key, record);
                let previous = current.filter(|_| want_previous);
                Outcome::Put { revision, create_revision: revision, version: 1, previous }
            }
            WriteOp::Delete { key, want_previous, .. } => match rows.remove(&key) {
                Some(record) => {
                    Outcome::Deleted { revision, previous: Some(record).filter(|_| want_previous) }
                }
                None => Outcome::NotFound,
            },
            _ => Outcome::NotFound,
        }
    }
}

impl Store for Memory {
    fn execute(&self, request: operation::Request, _deadline: Instant) -> BoxFuture<'_, Result<Reply>> {
        let response = match request {
            operation::Request::Get(key, _) => {
                let found = self.rows.lock().expect("nobody panics").get(&key).cloned();
                Ok(Response::Got(found.map(|record| (key, record))))
            }
            operation::Request::Write(Write { op, .. }, _) => {
                let is_put = matches!(op, WriteOp::Put { .. });
                let outcome = self.write(op);
                Ok(if is_put { Response::Put(outcome) } else { Response::Deleted(outcome) })
            }
            other => Err(Error::internal(format!("{other:?} is not part of the REST interface"))),
        };
        let reply = response.map(|response| Reply { response, served: Served::default() });
        Box::pin(std::future::ready(reply))
    }

    fn scan(self: Arc<Self>, _spec: ScanSpec) -> Parts<ScanPart> {
        Box::pin(stream::empty())
    }

    fn delete_range(self: Arc<Self>, _start: Bytes, _end: Bytes) -> Parts<DeletePart> {
        Box::pin(stream::empty())
    }

    fn watch(self: Arc<Self>, _spec: WatchSpec) -> Parts<WatchPart> {
        Box::pin(stream::empty())
    }

    fn topology(&self) -> watch::Receiver<Arc<v1::Topology>> {
        self.topology.subscribe()
    }

    fn status(&self) -> BoxFuture<'_, v1::StatusResponse> {
        Box::pin(std::future::ready(v1::StatusResponse::default()))
    }

    fn locate(&self, _key: &Key) -> Result<v1::LocateResponse> {
        Err(Error::unavailable("no ring"))
    }

    fn move_leader(&self, shard: ShardId, _to: NodeId) -> BoxFuture<'_, Result<NodeId>> {
        Box::pin(std::future::ready(Err(Error::new(ErrorKind::NotFound, format!("no shard {shard}")))))
    }

    fn health(&self) -> Health {
        Health::ready()
    }
}

/// See the module.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let method = METHODS[usize::from(input.byte()) % METHODS.len()].clone();
    let Ok(uri) = Uri::try_from(input.sized()) else { return };
    let mut request = Request::new(input.rest().to_vec());
    (*request.method_mut(), *request.uri_mut()) = (method.clone(), uri.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let store = Memory::new();
        let answer = kvd_server::fuzzing::answer(Arc::<Memory>::clone(&store), request).await;
        let status = answer.status().as_u16();
        assert!([200, 400, 404, 405, 412, 413].contains(&status), "{method} {uri}: {status}");
        if ["/livez", "/readyz", "/metrics"].contains(&uri.path()) || method == Method::HEAD {
            return;
        }
        let said: Value = serde_json::from_slice(answer.body()).expect("the answer is JSON");
        if status != 200 {
            assert_eq!(said["status"], "error", "{said}");
            assert!(said["message"].as_str().is_some_and(|message| !message.is_empty()), "{said}");
        } else if method == Method::PUT {
            check_is_there(store, &said).await;
        }
    });
}

/// Checks that a key that was put, as the answer names it, can be read.
async fn check_is_there(store: Arc<Memory>, put: &Value) {
    use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE};

    let key = match (put["key"].as_str(), put["key_base64"].as_str()) {
        (Some(text), None) => text.as_bytes().to_vec(),
        (None, Some(text)) => BASE64_STANDARD.decode(text).expect("the answer's base64"),
        _ => panic!("the answer names a key: {put}"),
    };
    let uri = format!("/store/{}?key_base64", BASE64_URL_SAFE.encode(key));
    let request = Request::get(&uri).body(Vec::new()).expect("a request");
    let answer = kvd_server::fuzzing::answer(store, request).await;
    assert_eq!(answer.status().as_u16(), 200, "{uri} after {put}");
    let got: Value = serde_json::from_slice(answer.body()).expect("the answer is JSON");
    assert_eq!((&got["key"], &got["key_base64"]), (&put["key"], &put["key_base64"]));
}

/// A few requests.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    [
        (0, "/store/a/b", ""),
        (0, "/store/a%2Fb?timeout_ms=100", ""),
        (0, "/store/YS9i?key_base64", ""),
        (0, "/store/", ""),
        (0, "/readyz?verbose", ""),
        (0, "/metrics", ""),
        (0, "/nothing", ""),
        (1, "/store", r#"{"key":"user:123","value":"John Doe"}"#),
        (1, "/store", r#"{"key_base64":"_wA=","value_base64":"/w","if_absent":true,"prev":true}"#),
        (1, "/store?timeout_ms=5", r#"{"key":"a/b","value":"d","if_revision":"7","prev":true}"#),
        (1, "/store", r#"{"key":"a/b","value":"d","if_absent":true}"#),
        (2, "/store/a/b?if_revision=7&prev", ""),
        (2, "/store/YS9i?key_base64=1&prev=0", ""),
        (3, "/store", "{}"),
    ]
    .into_iter()
    .map(|(method, uri, body)| {
        let mut seed = vec![method];
        put_sized(&mut seed, uri.as_bytes());
        seed.extend(body.as_bytes());
        seed
    })
    .collect()
}
