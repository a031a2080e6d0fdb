//! Scans, deletions of ranges, and watches.

use bytes::Bytes;
use kvd_proto::token::{self, ScanToken};
use kvd_types::{Event, Key, Record, Revision};

use super::*;
use crate::store::{WatchFrom, WatchPart};

fn keys(lines: &[Value]) -> Vec<&str> {
    lines.iter().filter_map(|line| line["key"].as_str()).collect()
}

async fn with_rows(rows: &[&str]) -> Running {
    let running = started().await;
    for key in rows {
        running.set(key, r#"{"value":"1"}"#).await;
    }
    running
}

#[tokio::test]
async fn a_scan_is_lines_and_says_that_it_is_whole() {
    let running = with_rows(&["a", "b1", "b2", "c"]).await;
    let all = lines(&running.get("/v1/scan").await);
    assert_eq!(keys(&all), ["a", "b1", "b2", "c"]);
    assert_eq!(all[0], json!({"key":"a","value":"1","revision":"100","create_revision":"100","version":"1"}));
    assert_eq!(all[4], json!({"end":true,"revision":"104","count":4}));
    for (parameters, wanted) in [
        ("prefix=b", &["b1", "b2"][..]),
        ("start=b1&end=c", &["b1", "b2"]),
        ("start=b2", &["b2", "c"]),
        ("end=YjE&base64", &["a"]),
        ("start=b&end=b", &[]),
        ("start=&end=&descending", &["c", "b2", "b1", "a"]),
        ("min_revision=101&max_revision=102", &["b1", "b2"]),
        ("min_create_revision=103", &["c"]),
        ("max_create_revision=100", &["a"]),
    ] {
        assert_eq!(
            keys(&lines(&running.get(&format!("/v1/scan?{parameters}")).await)),
            wanted,
            "{parameters}"
        );
    }
    let bare = lines(&running.get("/v1/scan?keys_only&prefix=a&revision=104").await);
    assert_eq!(bare[0], json!({"key":"a","revision":"100","create_revision":"100","version":"1"}));
    let counted = lines(&running.get("/v1/scan?count&prefix=b").await);
    assert_eq!(counted, [json!({"end":true,"revision":"104","count":2})]);
    running.stop().await;
}

#[tokio::test]
async fn a_scan_goes_on_where_its_limit_has_stopped_it_as_of_the_same_revision() {
    for direction in ["", "&descending"] {
        let running = with_rows(&["a", "b", "c"]).await;
        let path = format!("/v1/scan?limit=2{direction}");
        let first = lines(&running.get(&path).await);
        let end = first.last().unwrap();
        assert_eq!(end["count"], 2);
        running.set("d", r#"{"value":"1"}"#).await;
        let resume = end["resume"].as_str().unwrap();
        let rest = lines(&running.get(&format!("{path}&resume={resume}")).await);
        let mut found = [keys(&first), keys(&rest)].concat();
        assert_eq!(rest.last().unwrap()["revision"], end["revision"]);
        assert_eq!(rest.last().unwrap().get("resume"), None, "there are no more");
        found.sort_unstable();
        found.dedup();
        assert_eq!(found[..3], ["a", "b", "c"], "{direction}");
        running.stop().await;
    }
}

#[tokio::test]
async fn a_scan_that_breaks_off_says_so_and_where_to_go_on() {
    let running = with_rows(&["a", "b", "c"]).await;
    running.store.fail("b", Error::unavailable("no leader"));
    let broken = lines(&running.get("/v1/scan").await);
    assert_eq!(keys(&broken), ["a"]);
    let last = broken.last().unwrap();
    assert_eq!((&last["status"], &last["code"]), (&json!("error"), &json!("unavailable")));
    let resume = last["resume"].as_str().unwrap();
    running.store.fail("b", Error::invalid("still not"));
    let refused = running.get(&format!("/v1/scan?resume={resume}")).await;
    assert_eq!((refused.status, &refused.json()["message"]), (400, &json!("still not")), "it went on there");

    let events = running.ask("GET", "/v1/scan", &[("accept", "text/event-stream")], b"").await;
    assert_eq!(events.header("content-type"), Some("text/event-stream"));
    let body = unchunked(&events);
    assert!(body.starts_with("event: row\ndata: {\"key\":\"a\","), "{body}");
    assert!(body.contains("\n\nevent: error\ndata: {\"status\":\"error\","), "{body}");
    running.stop().await;
}

#[tokio::test]
async fn scans_that_make_no_sense_are_refused() {
    let running = with_rows(&["a", "b"]).await;
    for (parameters, wanted) in [
        ("start=b&end=a", "ends before it starts"),
        ("start=a&prefix=a", "named twice"),
        ("limit=0", "nonzero"),
        ("limit=-1", "limit"),
        ("revision=0", "nonzero"),
        ("max_revision=x", "max_revision"),
        ("count&keys_only", "don't go together"),
        ("count&limit=5", "don't go together"),
        ("start=!&base64", "not base64"),
        ("start=%FF", "not UTF-8"),
        ("key=a", "unknown field `key`"),
        ("resume=", "resume is empty"),
        ("resume=!", "damaged"),
    ] {
        running.refuses("GET", &format!("/v1/scan?{parameters}"), "", wanted).await;
    }
    let first = lines(&running.get("/v1/scan?limit=1").await);
    let resume = first.last().unwrap()["resume"].as_str().unwrap().to_owned();
    let token = token::from_text(&resume).unwrap();
    let mut flipped = token.to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    let foreign = ScanToken {
        cluster_id: "other".to_owned(),
        request: 1,
        revision: Revision(1),
        next: Bytes::from("a"),
    };
    for (path, status, wanted) in [
        (format!("/v1/scan?resume={}", token::to_text(&flipped)), 400, "damaged"),
        (format!("/v1/scan?resume={}", token::to_text(&foreign.encode())), 400, "of cluster other"),
        (format!("/v1/scan?prefix=a&resume={resume}"), 400, "of another request"),
        (format!("/v1/scan?keys_only&resume={resume}"), 400, "of another request"),
        ("/v1/scan?revision=18446744073709551615".to_owned(), 400, "in the future"),
        ("/v1/scan?revision=5".to_owned(), 410, "has been compacted"),
    ] {
        let answer = running.get(&path).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
        assert!(answer.json()["message"].as_str().unwrap().contains(wanted), "{path}: {}", answer.body);
    }
    running.stop().await;
}

#[tokio::test]
async fn a_range_is_deleted_and_everything_only_if_that_is_said() {
    let running = with_rows(&["a", "b1", "b2", "c"]).await;
    for (parameters, wanted) in [
        ("", "that is all keys there are"),
        ("?start=&end=", "that is all keys there are"),
        ("?prefix=", "that is all keys there are"),
        ("?all=0", "that is all keys there are"),
        ("?all&prefix=b", "all is for the range of all keys"),
        ("?start=b&end=a", "ends before it starts"),
        ("?start=b&end=b", "ends where it starts"),
        ("?limit=5", "unknown field `limit`"),
    ] {
        running.refuses("DELETE", &format!("/v1/range{parameters}"), "", wanted).await;
    }
    let deleted = lines(&running.delete("/v1/range?prefix=b").await);
    assert_eq!(deleted, [json!({"deleted":2,"done":false}), json!({"deleted":2,"done":true})]);
    assert_eq!(keys(&lines(&running.get("/v1/scan").await)), ["a", "c"]);
    assert_eq!(lines(&running.delete("/v1/range?all").await)[1], json!({"deleted":2,"done":true}));
    running.stop().await;
}

fn put(key: &str) -> Event {
    let record = Record { value: Bytes::from("1"), revision: Revision(7), version: 1, ..Record::default() };
    Event {
        key: Key::try_from(key).unwrap(),
        revision: Revision(7),
        record: Some(record.clone()),
        previous: Some(record),
    }
}

fn deletion(key: &str) -> Event {
    Event { record: None, revision: Revision(8), ..put(key) }
}

fn part(events: Vec<Event>, resume: &'static str, is_progress: bool) -> WatchPart {
    WatchPart { events, resume: Bytes::from_static(resume.as_bytes()), is_progress }
}

/// Asks for a stream, waits until it has told this, and then has the server stop.
async fn told_until(running: Running, path: &str, headers: &str, last: &str) -> String {
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: kvd\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut told = Vec::new();
    within(async {
        while !String::from_utf8_lossy(&told).contains(last) {
            assert_ne!(stream.read_buf(&mut told).await.unwrap(), 0, "{}", String::from_utf8_lossy(&told));
        }
        running.shutdown.cancel();
        stream.read_to_end(&mut told).await.unwrap();
        running.served.await.unwrap();
    })
    .await;
    let told = String::from_utf8(told).unwrap();
    let (head, body) = told.split_once("\r\n\r\n").unwrap();
    unchunked(&Answer { status: 200, head: head.to_owned(), body: body.to_owned() })
}

#[tokio::test]
async fn a_watch_is_events_that_know_where_to_go_on_and_ends_with_an_error_when_the_server_stops() {
    let running = started().await;
    *running.store.tells.lock() = vec![
        Ok(part(vec![put("a")], "", false)),
        Ok(part(vec![put("b"), deletion("a")], "two", false)),
        Ok(part(vec![], "three", true)),
    ];
    let store = Arc::clone(&running.store);
    let told = told_until(running, "/v1/watch?prefix=a&prev&progress_ms=500", "", "progress").await;
    let begun = token::to_text(b"begun");
    let (two, three) = (token::to_text(b"two"), token::to_text(b"three"));
    let version = r#"{"value":"1","revision":"7","create_revision":"0","version":"1"}"#;
    let row = |key: &str| {
        format!(
            r#"{{"event":"put","key":"{key}","value":"1","revision":"7","create_revision":"0","version":"1","previous":{version}}}"#
        )
    };
    let wanted = [
        format!("event: position\nid: {begun}\ndata: {{\"event\":\"position\",\"resume\":\"{begun}\"}}"),
        format!("event: put\ndata: {}", row("a")),
        format!("event: put\ndata: {}", row("b")),
        format!(
            "event: delete\nid: {two}\ndata: {{\"event\":\"delete\",\"key\":\"a\",\"revision\":\"8\",\"previous\":{version},\"resume\":\"{two}\"}}"
        ),
        format!("event: progress\nid: {three}\ndata: {{\"event\":\"progress\",\"resume\":\"{three}\"}}"),
        format!(
            "event: error\ndata: {{\"event\":\"error\",\"status\":\"error\",\"code\":\"unavailable\",\"message\":\"the node is stopping; go on at another one\",\"resume\":\"{three}\"}}"
        ),
        String::new(),
    ];
    assert_eq!(told.split("\n\n").collect::<Vec<_>>(), wanted);
    let spec = store.last_watch.lock().clone().unwrap();
    assert_eq!((&spec.start[..], &spec.end[..]), (&b"a"[..], &b"b"[..]));
    assert!(spec.want_previous && !spec.no_puts && !spec.no_deletes);
    assert_eq!(spec.progress_interval, Some(Duration::from_millis(500)));
    assert!(matches!(spec.from, WatchFrom::Now));
}

#[tokio::test]
async fn a_watch_is_lines_if_that_is_accepted_and_goes_on_from_anywhere() {
    let token = token::to_text(b"earlier");
    for (parameters, header, wanted) in [
        ("key=a&no_puts".to_owned(), String::new(), WatchFrom::Now),
        ("key=a&after_revision=0".to_owned(), String::new(), WatchFrom::After(Revision(0))),
        (format!("key=a&resume={token}"), String::new(), WatchFrom::Resume(Bytes::from("earlier"))),
        (
            "key=a&after_revision=5".to_owned(),
            format!("last-event-id: {token}\r\n"),
            WatchFrom::Resume(Bytes::from("earlier")),
        ),
    ] {
        let running = started().await;
        *running.store.tells.lock() = vec![Err(Error::compacted(Revision(1), Revision(9)))];
        let store = Arc::clone(&running.store);
        let headers = format!("accept: application/x-ndjson\r\nconnection: close\r\n{header}");
        let told = told_until(running, &format!("/v1/watch?{parameters}"), &headers, "compacted").await;
        let told: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert_eq!(told[0], json!({"event":"position","resume":token::to_text(b"begun")}));
        assert_eq!((&told[1]["event"], &told[1]["oldest_revision"]), (&json!("error"), &json!("9")));
        let spec = store.last_watch.lock().clone().unwrap();
        assert_eq!((&spec.start[..], &spec.end[..]), (&b"a"[..], &b"a\0"[..]));
        assert_eq!(format!("{:?}", spec.from), format!("{wanted:?}"), "{parameters}");
    }
}

#[tokio::test]
async fn watches_that_make_no_sense_are_refused() {
    let running = started().await;
    for (parameters, wanted) in [
        ("start=b&end=a", "ends before it starts"),
        ("key=a&prefix=a", "named twice"),
        ("key=", "the key is empty"),
        ("no_puts&no_deletes", "nothing to tell"),
        ("progress_ms=0", "nonzero"),
        ("after_revision=-1", "after_revision"),
        ("after_revision=1&resume=AAAA", "don't go together"),
        ("resume=!", "damaged"),
        ("resume=", "resume is empty"),
        ("limit=1", "unknown field `limit`"),
    ] {
        running.refuses("GET", &format!("/v1/watch?{parameters}"), "", wanted).await;
    }
    let forged = running.ask("GET", "/v1/watch", &[("last-event-id", "!")], b"").await;
    assert_eq!((forged.status, running.executed()), (400, 0), "{}", forged.body);
    running.stop().await;
}

#[tokio::test]
async fn whoever_reads_slowly_holds_up_its_own_stream() {
    use futures::StreamExt as _;
    use tower::Service as _;

    let store = FakeStore::new();
    *store.tells.lock() = (0..100).map(|_| Ok(part(vec![put("a")], "later", false))).collect();
    let front = Front {
        store: Arc::<FakeStore>::clone(&store),
        metrics: Arc::new(Metrics::new("test")),
        value_bytes_max: LIMITS.value_bytes_max,
    };
    let shared = Shared { front, bodies: body::Budget::new(), shutdown: CancellationToken::new() };
    let request = http::Request::get("/v1/watch").body(axum::body::Body::empty()).unwrap();
    let answer = router(shared).call(request).await.unwrap();
    assert_eq!(store.told.load(Ordering::SeqCst), 1, "that it has begun");
    let mut pieces = answer.into_body().into_data_stream();
    for taken in 1..20 {
        pieces.next().await.unwrap().unwrap();
        assert_eq!(store.told.load(Ordering::SeqCst), taken);
    }
}
