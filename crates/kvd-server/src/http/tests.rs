//! The REST interface, probes and metrics over real loopback connections, with a fake store behind them.

use std::{fmt::Write as _, net::SocketAddr};

use kvd_types::{Error, ErrorKind, RingEpoch};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
    time::Instant,
};

use super::*;
use crate::{
    metrics::Metrics,
    platform::TcpPort,
    testing::{FakeStore, HELD, LIMITS},
};

/// Nothing here takes long; a test that waits for longer has failed.
const PATIENCE: Duration = Duration::from_secs(20);

struct Running {
    address: SocketAddr,
    store: Arc<FakeStore>,
    metrics: SharedMetrics,
    shutdown: CancellationToken,
    served: JoinHandle<()>,
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}{}", self.head, self.body))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

async fn start(limits: ServiceLimits) -> Running {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (store, metrics) = (FakeStore::new(), Arc::new(Metrics::new("test")));
    let shutdown = CancellationToken::new();
    let served = tokio::spawn(serve(
        Box::new(TcpPort(listener)),
        Arc::<FakeStore>::clone(&store),
        limits,
        shutdown.clone(),
        Arc::clone(&metrics),
    ));
    Running { address, store, metrics, shutdown, served }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("took too long")
}

impl Running {
    /// One request on a connection of its own.
    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: kvd\r\nconnection: close\r\n");
        for (name, value) in headers {
            write!(head, "{name}: {value}\r\n").unwrap();
        }
        if !headers.iter().any(|(name, _)| *name == "content-length" || *name == "transfer-encoding") {
            write!(head, "content-length: {}\r\n", body.len()).unwrap();
        }
        head.push_str("\r\n");
        within(async {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(body).await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            let answer = String::from_utf8(answer).unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            let status = head.split(' ').nth(1).unwrap().parse().unwrap();
            Answer { status, head: head.to_owned(), body: body.to_owned() }
        })
        .await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], b"").await
    }

    async fn delete(&self, path: &str) -> Answer {
        self.ask("DELETE", path, &[], b"").await
    }

    async fn put(&self, body: &str) -> Answer {
        self.ask("PUT", "/store", &[("content-type", "application/json")], body.as_bytes()).await
    }

    async fn stop(self) {
        self.shutdown.cancel();
        within(self.served).await.unwrap();
    }
}

#[tokio::test]
async fn a_key_is_set_read_and_removed() {
    let running = start(LIMITS).await;
    let put = running.put(r#"{"key":"user:123","value":"John Doe"}"#).await;
    assert_eq!(put.status, 200);
    assert!(put.body.starts_with(r#"{"status":"success","key":"user:123","revision":"100""#), "{}", put.body);
    assert_eq!(put.json()["version"], "1");

    let got = running.get("/store/user:123").await;
    assert_eq!(got.status, 200);
    assert_eq!(
        got.json(),
        json!({"key": "user:123", "value": "John Doe", "revision": "100", "create_revision": "100", "version": "1"})
    );
    assert_eq!(got.header("content-type"), Some("application/json"));

    let deleted = running.delete("/store/user:123").await;
    assert_eq!((deleted.status, &deleted.json()["status"]), (200, &json!("success")));

    for answer in [running.get("/store/user:123").await, running.delete("/store/user:123").await] {
        assert_eq!(answer.status, 404);
        assert_eq!(answer.json()["status"], "error");
        assert_eq!(answer.json()["message"], "there is no key user:123");
    }
    running.stop().await;
}

#[tokio::test]
async fn keys_are_bytes_in_every_way_of_writing_them() {
    let running = start(LIMITS).await;
    for (body, path, key) in [
        (r#"{"key":"a/b","value":"1"}"#, "/store/a/b", json!({"key": "a/b"})),
        (r#"{"key":"a/b","value":"1"}"#, "/store/a%2Fb", json!({"key": "a/b"})),
        (r#"{"key":"/a//","value":"1"}"#, "/store//a//", json!({"key": "/a//"})),
        (r#"{"key":"a b?c","value":"1"}"#, "/store/a%20b%3Fc", json!({"key": "a b?c"})),
        (r#"{"key":"a+b","value":"1"}"#, "/store/a+b", json!({"key": "a+b"})),
        (r#"{"key":"grün","value":"1"}"#, "/store/gr%C3%BCn", json!({"key": "grün"})),
        (r#"{"key_base64":"/wA=","value":"1"}"#, "/store/%FF%00", json!({"key_base64": "/wA="})),
        (r#"{"key_base64":"_wA","value":"1"}"#, "/store/_wA=?key_base64=1", json!({"key_base64": "/wA="})),
        (r#"{"key_base64":"YS9i","value":"1"}"#, "/store/YS9i?key_base64", json!({"key": "a/b"})),
    ] {
        assert_eq!(running.put(body).await.status, 200, "{body}");
        let got = running.get(path).await;
        assert_eq!(got.status, 200, "{path}: {}", got.body);
        for (name, value) in key.as_object().unwrap() {
            assert_eq!(&got.json()[name], value, "{path}");
        }
        assert_eq!(running.delete(path).await.status, 200, "{path}");
    }
    running.stop().await;
}

#[tokio::test]
async fn values_are_bytes_too() {
    let running = start(LIMITS).await;
    running.put(r#"{"key":"binary","value_base64":"AP8="}"#).await;
    let got = running.get("/store/binary").await.json();
    assert_eq!((&got["value_base64"], got.get("value")), (&json!("AP8="), None));
    running.put(r#"{"key":"empty","value":""}"#).await;
    assert_eq!(running.get("/store/empty").await.json()["value"], "");
    running.stop().await;
}

#[tokio::test]
async fn conditions_and_previous_versions() {
    let running = start(LIMITS).await;
    let created = running.put(r#"{"key":"a","value":"1","if_absent":true,"prev":true}"#).await;
    assert_eq!((created.status, &created.json()["previous"]), (200, &Value::Null));
    let revision = created.json()["revision"].as_str().unwrap().to_owned();

    let again = running.put(r#"{"key":"a","value":"2","if_absent":true}"#).await;
    assert_eq!(again.status, 412);
    assert_eq!(again.json()["code"], "condition_failed");
    assert_eq!(again.json()["outcome"], "not_applied");
    assert_eq!(
        again.json()["current"],
        json!({"revision": revision, "create_revision": revision, "version": "1"}),
        "without its value, which wasn't asked for"
    );

    let swapped =
        running.put(&format!(r#"{{"key":"a","value":"2","if_revision":"{revision}","prev":true}}"#)).await;
    assert_eq!((swapped.status, &swapped.json()["previous"]["value"]), (200, &json!("1")));
    let stale = running.delete(&format!("/store/a?if_revision={revision}&prev")).await;
    assert_eq!((stale.status, &stale.json()["current"]["value"]), (412, &json!("2")));
    let gone = running.put(r#"{"key":"b","value":"2","if_revision":"7"}"#).await;
    assert_eq!((gone.status, &gone.json()["current"]), (412, &Value::Null));

    let revision = swapped.json()["revision"].as_str().unwrap().to_owned();
    let removed = running.delete(&format!("/store/a?if_revision={revision}&prev=true")).await;
    assert_eq!((removed.status, &removed.json()["previous"]["value"]), (200, &json!("2")));
    running.stop().await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_a_reason() {
    let running = start(ServiceLimits { value_bytes_max: 10, ..LIMITS }).await;
    for (body, wanted) in [
        ("", "must be JSON"),
        ("{", "must be JSON"),
        (r#"{"key":"a"}"#, "needs value or value_base64"),
        (r#"{"value":"a"}"#, "needs key or key_base64"),
        (r#"{"key":"","value":"a"}"#, "the key is empty"),
        (r#"{"key":"a","value":1}"#, "expected a string"),
        (r#"{"key":"a","value":"1","ttl":5}"#, "unknown field `ttl`"),
        (r#"{"key":"a","key":"b","value":"1"}"#, "duplicate field"),
        (r#"{"key":"a","key_base64":"YQ==","value":"1"}"#, "both key and key_base64"),
        (r#"{"key":"a","value_base64":"%"}"#, "value_base64 is not base64"),
        (r#"{"key":"a","value":"1","if_revision":7}"#, "expected a string"),
        (r#"{"key":"a","value":"1","if_revision":"x"}"#, "must be a revision"),
        (r#"{"key":"a","value":"1","if_revision":"7","if_absent":true}"#, "can't both hold"),
        (r#"{"key":"a","value":"12345678901"}"#, "at most 10 bytes"),
        (&format!(r#"{{"key":"{}","value":"1"}}"#, "k".repeat(4097)), "4097 bytes"),
    ] {
        let answer = running.put(body).await;
        assert_eq!((answer.status, &answer.json()["code"]), (400, &json!("invalid_argument")), "{body}");
        assert!(answer.json()["message"].as_str().unwrap().contains(wanted), "{body}: {}", answer.body);
        assert_eq!(answer.json()["outcome"], "not_applied");
    }
    for path in
        ["/store/", "/store/a?prev", "/store/a?key_base64=2", "/store/%%?key_base64", "/store/a?timeout_ms=x"]
    {
        let answer = running.get(path).await;
        assert_eq!(
            (answer.status, &answer.json()["status"]),
            (400, &json!("error")),
            "{path}: {}",
            answer.body
        );
    }
    assert_eq!(
        running.store.executed.load(std::sync::atomic::Ordering::SeqCst),
        0,
        "none of them reached the store"
    );
    running.stop().await;
}

#[tokio::test]
async fn paths_and_methods_that_there_are_not() {
    let running = start(LIMITS).await;
    for path in ["/", "/stores", "/store/../x/../../y?z", "/v1/store"] {
        let answer = running.get(path).await;
        if path.starts_with("/store/") {
            assert_eq!(
                answer.json()["code"],
                "invalid_argument",
                "a key may well look like that: {}",
                answer.body
            );
        } else {
            assert_eq!((answer.status, &answer.json()["status"]), (404, &json!("error")), "{path}");
            assert_eq!(answer.json()["code"], "unknown_path");
        }
    }
    for (method, path) in [("GET", "/store"), ("POST", "/store"), ("PUT", "/store/a"), ("DELETE", "/readyz")]
    {
        let answer = running.ask(method, path, &[], b"").await;
        assert_eq!((answer.status, &answer.json()["code"]), (405, &json!("wrong_method")), "{method} {path}");
        assert!(answer.header("allow").is_some(), "{method} {path}: {}", answer.head);
    }
    running.stop().await;
}

#[tokio::test]
async fn large_bodies_are_refused_before_they_are_kept() {
    let running = start(LIMITS).await;
    let announced = running.ask("PUT", "/store", &[("content-length", "99999999999")], b"").await;
    assert_eq!((announced.status, &announced.json()["code"]), (413, &json!("too_large")));

    // Without a length: one byte more than there may be, in one chunk.
    let mut chunked = format!("{:x}\r\n", rest::BODY_BYTES_MAX + 1).into_bytes();
    chunked.resize(chunked.len() + rest::BODY_BYTES_MAX + 1, b' ');
    let counted = running.ask("PUT", "/store", &[("transfer-encoding", "chunked")], &chunked).await;
    assert_eq!((counted.status, &counted.json()["code"]), (413, &json!("too_large")));

    let escaped = format!(r#"{{"key":"a","value":"{}"}}"#, "\\u0001".repeat(1 << 20));
    assert_eq!(running.put(&escaped).await.status, 200, "the largest value fits, however it is written");
    running.stop().await;
}

#[tokio::test]
async fn each_failure_has_its_status() {
    let running = start(LIMITS).await;
    let pause = Duration::from_millis(1500);
    for (kind, status, retry_after, outcome) in [
        (ErrorKind::InvalidArgument, 400, None, "not_applied"),
        (ErrorKind::NotLeader(None), 503, Some("1"), "not_applied"),
        (ErrorKind::Unavailable, 503, Some("1"), "not_applied"),
        (ErrorKind::WrongShard(RingEpoch(1)), 503, Some("1"), "not_applied"),
        (ErrorKind::Overloaded { retry_after: pause }, 429, Some("2"), "not_applied"),
        (ErrorKind::Overloaded { retry_after: Duration::from_millis(5) }, 429, Some("1"), "not_applied"),
        (ErrorKind::DeadlineExceeded, 504, None, "not_applied"),
        (ErrorKind::OutcomeUnknown, 504, None, "unknown"),
        (ErrorKind::SessionUnknown, 409, None, "not_applied"),
        (ErrorKind::NotFound, 404, None, "not_applied"),
        (ErrorKind::FailedPrecondition, 409, None, "not_applied"),
        (ErrorKind::Unauthenticated, 401, None, "not_applied"),
        (ErrorKind::PermissionDenied, 403, None, "not_applied"),
        (ErrorKind::Corruption, 500, None, "not_applied"),
        (ErrorKind::Internal, 500, None, "unknown"),
    ] {
        let error = Error::new(kind, "because");
        running.store.fail("k", error.clone());
        for answer in [running.put(r#"{"key":"k","value":"v"}"#).await, running.delete("/store/k").await] {
            assert_eq!(answer.status, status, "{error:?}");
            assert_eq!(answer.header("retry-after"), retry_after, "{error:?}");
            assert_eq!(answer.json()["outcome"], outcome, "{error:?}");
            assert_eq!(answer.json()["message"], "because");
        }
        let read = running.get("/store/k").await;
        assert_eq!((read.status, read.json().get("outcome")), (status, None), "a read has no outcome");
    }
    running.stop().await;
}

#[tokio::test]
async fn a_named_timeout_is_the_stores_deadline() {
    let running = start(LIMITS).await;
    let before = Instant::now();
    let path = format!("/store/{HELD}?timeout_ms=60");
    assert_eq!(running.get(&path).await.status, 504);
    let deadline = running.store.last_deadline.lock().unwrap();
    assert!(deadline >= before + Duration::from_millis(60) && deadline < before + Duration::from_secs(5));
    running.stop().await;
}

#[tokio::test]
async fn probes() {
    let running = start(LIMITS).await;
    for path in ["/livez", "/readyz"] {
        let answer = running.get(path).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok\n"), "{path}");
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    }
    *running.store.health.lock() = Health::not_ready("shard 3 has no leader");
    assert_eq!(running.get("/livez").await.status, 200, "a restart wouldn't help");
    let text = running.get("/readyz").await;
    assert_eq!((text.status, text.body.as_str()), (503, "unavailable\nshard 3 has no leader\n"));
    let wanted = json!({"status": "unavailable", "reasons": ["shard 3 has no leader"]});
    assert_eq!(running.get("/readyz?verbose").await.json(), wanted);
    assert_eq!(running.ask("GET", "/readyz", &[("accept", "application/json")], b"").await.json(), wanted);

    *running.store.health.lock() = Health { reasons: vec!["the disk fails".to_owned()], live: false };
    for path in ["/livez", "/readyz"] {
        let dead = running.get(path).await;
        assert_eq!((dead.status, dead.body.as_str()), (503, "unavailable\nthe disk fails\n"), "{path}");
    }
    running.stop().await;
}

#[tokio::test]
async fn metrics_are_shown_and_count_requests() {
    let running = start(LIMITS).await;
    running.put(r#"{"key":"a","value":"1"}"#).await;
    running.put(r#"{"key":"","value":"1"}"#).await;
    let shown = running.get("/metrics").await;
    assert_eq!(shown.header("content-type"), Some(metrics::CONTENT_TYPE));
    let line = "kvd_request_seconds_count{method=\"put\",code=\"ok\",transport=\"http\"} 1";
    assert!(shown.body.contains(line), "{}", shown.body);
    assert!(shown.body.contains("kvd_build_info{version=\"test\"} 1"));
    running.stop().await;
}

#[tokio::test]
async fn connections_beyond_the_cap_are_closed_at_once() {
    let running = start(ServiceLimits { connections_max: 1, ..LIMITS }).await;
    let mut held = TcpStream::connect(running.address).await.unwrap();
    held.write_all(b"GET /livez HTTP/1.1\r\nhost: kvd\r\n\r\n").await.unwrap();
    let mut buffer = [0; 15];
    within(held.read_exact(&mut buffer)).await.unwrap();
    assert_eq!(&buffer, b"HTTP/1.1 200 OK");

    let mut refused = TcpStream::connect(running.address).await.unwrap();
    assert!(matches!(within(refused.read(&mut buffer)).await, Ok(0) | Err(_)));
    assert!(running.metrics.encode().unwrap().contains("kvd_connections_refused_total{listener=\"http\"} 1"));
    running.stop().await;
}

#[tokio::test]
async fn a_stopping_server_answers_what_it_has_begun_and_cuts_what_outlasts_the_grace() {
    let running = start(LIMITS).await;
    let mut idle = TcpStream::connect(running.address).await.unwrap();
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: kvd\r\n\r\n").await.unwrap();
    let mut begun = TcpStream::connect(running.address).await.unwrap();
    begun.write_all(format!("GET /store/{HELD} HTTP/1.1\r\nhost: kvd\r\n\r\n").as_bytes()).await.unwrap();
    running.store.until_running(1).await;
    running.shutdown.cancel();
    running.store.release();
    let mut answer = String::new();
    within(begun.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    within(running.served).await.unwrap();

    let running = start(ServiceLimits { grace: Duration::from_millis(50), ..LIMITS }).await;
    let mut begun = TcpStream::connect(running.address).await.unwrap();
    begun.write_all(format!("GET /store/{HELD} HTTP/1.1\r\nhost: kvd\r\n\r\n").as_bytes()).await.unwrap();
    running.store.until_running(1).await;
    running.shutdown.cancel();
    within(running.served).await.unwrap();
    running.store.until_running(0).await;
}

mod v1;
