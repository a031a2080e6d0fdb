//! What is under `/v1`, over real loopback connections, with a fake store behind it.

use std::sync::atomic::Ordering;

use kvd_proto::v1::{Shard, Topology};

use super::*;

mod description;
mod keys;
mod leases;
mod streams;
mod txn;

const CLUSTER: &str = "0123456789abcdef0123456789abcdef";

/// A server that knows its cluster and shards.
async fn started() -> Running {
    let running = start(LIMITS).await;
    let shards = [8, 7].map(|id| Shard { id, ..Shard::default() }).to_vec();
    let topology = Topology { cluster_id: CLUSTER.to_owned(), shards, ..Topology::default() };
    running.store.topology.send_replace(Arc::new(topology));
    running
}

impl Running {
    async fn send(&self, method: &str, path: &str, body: &str) -> Answer {
        self.ask(method, path, &[], body.as_bytes()).await
    }

    /// Sets a key that there must not be a problem with. Gives its revision.
    async fn set(&self, key: &str, body: &str) -> String {
        let answer = self.send("PUT", &format!("/v1/kv/{key}"), body).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["revision"].as_str().unwrap().to_owned()
    }

    fn executed(&self) -> usize {
        self.store.executed.load(Ordering::SeqCst)
    }

    /// Asks what is refused for being wrong, without the store having heard of it.
    async fn refuses(&self, method: &str, path: &str, body: &str, wanted: &str) {
        let before = self.executed();
        let answer = self.send(method, path, body).await;
        assert_eq!(
            (answer.status, &answer.json()["code"]),
            (400, &json!("invalid_argument")),
            "{method} {path} {body}: {}",
            answer.body
        );
        let message = answer.json()["message"].as_str().unwrap().to_owned();
        assert!(message.contains(wanted), "{method} {path} {body}: {message}");
        assert_eq!(self.executed(), before, "{method} {path} {body} reached the store");
    }
}

/// The body of an answer that came in chunks.
fn unchunked(answer: &Answer) -> String {
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"), "{}{}", answer.head, answer.body);
    let (mut whole, mut rest) = (String::new(), answer.body.as_str());
    while let Some((length, after)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        whole.push_str(&after[..length]);
        rest = &after[length + 2..];
    }
    whole
}

/// The lines of an answer.
fn lines(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    let body = unchunked(answer);
    assert!(body.ends_with('\n'), "{body}");
    body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
