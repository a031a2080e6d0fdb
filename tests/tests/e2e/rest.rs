//! The REST interface, as a program without any library of ours finds it, at any node.

use kvd_tests::{Answer, Cluster, Node};
use reqwest::Method;
use serde_json::{Value, json};

/// The longest key.
const KEY_BYTES_MAX: usize = 4096;
/// The largest value.
const VALUE_BYTES_MAX: usize = 1 << 20;
/// The largest body.
const BODY_BYTES_MAX: usize = 8 << 20;

fn parsed(answer: &Answer) -> Value {
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

async fn put(node: &Node, body: impl Into<String>) -> Answer {
    node.http(Method::PUT, "/store", body).await.unwrap()
}

async fn delete(node: &Node, path: &str) -> Answer {
    node.http(Method::DELETE, path, "").await.unwrap()
}

/// An answer that it worked, with these fields among others.
fn check_good(answer: &Answer, fields: &Value) -> Value {
    assert_eq!(answer.status, 200, "{answer:?}");
    let found = parsed(answer);
    for (name, value) in fields.as_object().unwrap() {
        assert_eq!(&found[name], value, "{name} in {answer:?}");
    }
    found
}

/// An answer that it didn't, in the one form that all have, with a message that has this part.
fn check_error(answer: &Answer, status: u16, part: &str) {
    let found = parsed(answer);
    assert_eq!((answer.status, &found["status"]), (status, &json!("error")), "{answer:?}");
    assert!(found["message"].as_str().unwrap().contains(part), "{part:?} in {answer:?}");
    assert!(!found["code"].as_str().unwrap().is_empty(), "{answer:?}");
}

/// A 64-bit number, which must be text.
fn number(found: &Value, name: &str) -> u64 {
    let text = found[name].as_str().unwrap_or_else(|| panic!("{name} is not text in {found}"));
    text.parse().unwrap()
}

/// All of it percent-encoded, whether it need be or not.
fn encoded(key: &str) -> String {
    key.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_examples_work_word_for_word_at_every_node() {
    let cluster = Cluster::of(3).start().await;
    let answer = put(cluster.node(0), r#"{"key":"user:123","value":"John Doe"}"#).await;
    let first = check_good(&answer, &json!({"status": "success", "key": "user:123", "version": "1"}));
    for node in cluster.nodes() {
        let answer = node.get("/store/user:123").await.unwrap();
        let got = check_good(&answer, &json!({"value": "John Doe", "key": "user:123", "version": "1"}));
        assert_eq!(got["revision"], first["revision"], "{answer:?}");
    }

    let answer = put(cluster.node(1), r#"{"key":"user:123","value":"Jane Doe"}"#).await;
    let second = check_good(&answer, &json!({"status": "success", "version": "2"}));
    // Numbers of 64 bits are text: a JSON number of that size comes out wrong in many languages.
    assert!(number(&second, "revision") > number(&first, "revision"), "{first} and {second}");
    assert_eq!(number(&second, "create_revision"), number(&first, "revision"));
    for node in cluster.nodes() {
        check_good(&node.get("/store/user:123").await.unwrap(), &json!({"value": "Jane Doe"}));
        check_error(&node.get("/store/user:124").await.unwrap(), 404, "there is no key user:124");
    }

    // Only what an earlier answer said, to the last digit, is a condition that holds.
    let conditional = |revision: &Value| json!({"key": "user:123", "value": "?", "if_revision": revision});
    let answer = put(cluster.node(2), conditional(&first["revision"]).to_string()).await;
    check_error(&answer, 412, "the condition does not hold");
    assert_eq!(parsed(&answer)["current"]["revision"], second["revision"], "{answer:?}");
    let answer = put(cluster.node(2), conditional(&second["revision"]).to_string()).await;
    check_good(&answer, &json!({"status": "success", "version": "3"}));
    let answer = put(cluster.node(0), r#"{"key":"user:123","value":"?","if_absent":true}"#).await;
    check_error(&answer, 412, "the condition does not hold");

    let answer = delete(cluster.node(2), "/store/user:123").await;
    check_good(&answer, &json!({"status": "success", "key": "user:123"}));
    for node in cluster.nodes() {
        check_error(&node.get("/store/user:123").await.unwrap(), 404, "there is no key user:123");
        check_error(&delete(node, "/store/user:123").await, 404, "there is no key user:123");
    }
    let answer = put(cluster.node(0), r#"{"key":"user:123","value":"back","if_absent":true}"#).await;
    check_good(&answer, &json!({"status": "success", "version": "1"}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_and_values_are_any_bytes_however_they_are_written() {
    let cluster = Cluster::of(3).start().await;
    let node = |place: usize| cluster.node(place % 3);
    let longest = "k".repeat(KEY_BYTES_MAX);
    for (place, (key, path)) in [
        ("a/b", "a%2Fb"),
        ("a/b", "a/b"),
        ("/", "%2F"),
        ("a/", "a/"),
        ("//a", "//a"),
        ("with a space", "with%20a%20space"),
        ("größe/ключ/鍵", "gr%C3%B6%C3%9Fe/%D0%BA%D0%BB%D1%8E%D1%87/%E9%8D%B5"),
        ("100%", "100%25"),
        ("%2F", "%252F"),
        ("a+b", "a+b"),
        ("a?b#c&d=e", "a%3Fb%23c&d=e"),
        ("{user:7}/name", "%7Buser:7%7D/name"),
        ("\"quoted\"\r\n\0", "%22quoted%22%0D%0A%00"),
        (&longest, &longest),
    ]
    .into_iter()
    .enumerate()
    {
        let value = format!("\"of\" {path}\n");
        let answer = put(node(place), json!({"key": key, "value": value}).to_string()).await;
        check_good(&answer, &json!({"status": "success", "key": key, "version": "1"}));
        for path in [path, &encoded(key)] {
            let answer = node(place + 1).get(&format!("/store/{path}")).await.unwrap();
            check_good(&answer, &json!({"key": key, "value": value}));
        }
        check_good(&delete(node(place + 2), &format!("/store/{path}")).await, &json!({"key": key}));
        let answer = node(place).get(&format!("/store/{path}")).await.unwrap();
        check_error(&answer, 404, "there is no key");
    }

    // What isn't text is in base64, on both ways; and so may be what is.
    let answer = put(node(0), r#"{"key_base64":"/wD+Lw==","value_base64":"AP+A"}"#).await;
    check_good(&answer, &json!({"status": "success", "key_base64": "/wD+Lw=="}));
    for path in ["/store/%FF%00%FE%2F", "/store/_wD-Lw?key_base64", "/store/%2FwD+Lw==?key_base64=1"] {
        let got = check_good(&node(1).get(path).await.unwrap(), &json!({"value_base64": "AP+A"}));
        assert_eq!(got["key_base64"], "/wD+Lw==", "{path}");
        assert!(got.get("key").is_none() && got.get("value").is_none(), "{got}");
    }
    check_good(&delete(node(2), "/store/_wD-Lw?key_base64").await, &json!({"key_base64": "/wD+Lw=="}));
    // `..`, which clients take out of a path.
    check_good(&put(node(0), r#"{"key_base64":"Li4","value_base64":"dGV4dA"}"#).await, &json!({"key": ".."}));
    let answer = node(1).get("/store/Li4?key_base64").await.unwrap();
    check_good(&answer, &json!({"key": "..", "value": "text"}));

    // Up to the largest, even if each byte of it is written as six.
    for (place, value) in
        ["", "\0", "ä", &"v".repeat(VALUE_BYTES_MAX), &"\0".repeat(VALUE_BYTES_MAX)].into_iter().enumerate()
    {
        let answer = put(node(place), json!({"key": longest, "value": value}).to_string()).await;
        check_good(&answer, &json!({"status": "success"}));
        let answer = node(place + 1).get(&format!("/store/{longest}")).await.unwrap();
        let came_back = parsed(&answer)["value"] == *value;
        assert!(answer.status == 200 && came_back, "a value of {} bytes is another one", value.len());
    }
}

/// Bodies of PUT /store that make no sense: the status, and what it is told for.
fn bodies_without_sense() -> Vec<(String, u16, &'static str)> {
    let of_key = |key: &str| json!({"key": key, "value": "x"}).to_string();
    let of_value = |bytes: usize| json!({"key": "refused", "value": "x".repeat(bytes)}).to_string();
    let nested = format!(r#"{{"key":"refused","value":{}1{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    let text = [
        ("", 400, "the body must be JSON"),
        ("John Doe", 400, "the body must be JSON"),
        (r#"{"key":"refused","value":"x""#, 400, "the body must be JSON"),
        (r#"{"key":"refused","value":"x"} {}"#, 400, "trailing characters"),
        (r#"["refused"]"#, 400, "the body must be JSON"),
        ("null", 400, "the body must be JSON"),
        (r#"{"key":"refused","value":"\ud800"}"#, 400, "the body must be JSON"),
        (r#"{"key":"refused","value":1}"#, 400, "expected a string"),
        (&nested, 400, "the body must be JSON"),
        (r#"{"key":"refused","key":"other","value":"x"}"#, 400, "duplicate field `key`"),
        (r#"{"key":"refused","value":"x","ttl":5}"#, 400, "unknown field `ttl`"),
        (r#"{"key":"refused"}"#, 400, "needs value or value_base64"),
        (r#"{"value":"x"}"#, 400, "needs key or key_base64"),
        (r#"{"key":"refused","key_base64":"AA","value":"x"}"#, 400, "both key and key_base64"),
        (r#"{"key":"refused","value_base64":"*"}"#, 400, "value_base64 is not base64"),
        (r#"{"key":"refused","value":"x","if_revision":"new"}"#, 400, "if_revision"),
        (r#"{"key":"refused","value":"x","if_revision":5}"#, 400, "expected a string"),
        (r#"{"key":"refused","value":"x","if_absent":true,"if_revision":"1"}"#, 400, "can't both hold"),
        (&of_key(""), 400, "a key has 1 to 4096 bytes"),
        (&of_key(&"k".repeat(KEY_BYTES_MAX + 1)), 400, "a key has 1 to 4096 bytes"),
        (&of_value(VALUE_BYTES_MAX + 1), 400, "a value has at most 1048576 bytes"),
        (&of_value(BODY_BYTES_MAX), 413, "a body has at most 8388608 bytes"),
        (&of_value(4 * BODY_BYTES_MAX), 413, "a body has at most 8388608 bytes"),
    ];
    text.map(|(body, status, part)| (body.to_owned(), status, part)).into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_no_sense_is_refused_with_a_reason_and_disturbs_nobody() {
    let cluster = Cluster::of(3).start().await;
    let too_long = format!("/store/{}", "k".repeat(KEY_BYTES_MAX + 1));
    let others = [
        (Method::GET, "/store/", 400, "the key is missing"),
        (Method::DELETE, "/store/", 400, "the key is missing"),
        (Method::GET, &*too_long, 400, "a key has 1 to 4096 bytes"),
        (Method::DELETE, &*too_long, 400, "a key has 1 to 4096 bytes"),
        (Method::GET, "/store/*?key_base64", 400, "not base64"),
        (Method::GET, "/store/good?consistency=strong", 400, "consistency"),
        (Method::GET, "/store/good?timeout_ms=-1", 400, "timeout_ms"),
        (Method::DELETE, "/store/good?if_revison=1", 400, "if_revison"),
        (Method::DELETE, "/store/good?if_revision=1", 412, "the condition does not hold"),
        (Method::GET, "/", 404, "there is nothing at /"),
        (Method::GET, "/stores/good", 404, "there is nothing at /stores/good"),
        (Method::GET, "/store", 405, "there is PUT /store"),
        (Method::POST, "/store", 405, "there is PUT /store"),
        (Method::PUT, "/store/good", 405, "PUT /store/good is not possible"),
        (Method::DELETE, "/metrics", 405, "DELETE /metrics is not possible"),
    ];
    let others = others.map(|(method, path, status, part)| (method, path, String::new(), status, part));
    let bodies = bodies_without_sense();
    let puts = bodies.into_iter().map(|(body, status, part)| (Method::PUT, "/store", body, status, part));
    // One good write, and then one more after each refusal.
    let mut written = 1;
    check_good(&put(cluster.node(0), r#"{"key":"good","value":""}"#).await, &json!({"version": "1"}));
    for (method, path, body, status, part) in puts.chain(others) {
        let node = cluster.node(written % 3);
        let answer = node.http(method.clone(), path, body).await;
        let answer = answer.unwrap_or_else(|error| panic!("{method} {path} for {part:?}: {error:?}"));
        check_error(&answer, status, part);
        // The same node, right after; and nobody else has touched the key.
        written += 1;
        let answer = put(node, json!({"key": "good", "value": part}).to_string()).await;
        check_good(&answer, &json!({"version": written.to_string()}));
        check_good(&node.get("/store/good").await.unwrap(), &json!({"value": part}));
    }
    for node in cluster.nodes() {
        let metrics = node.get("/metrics").await.unwrap();
        assert!(metrics.status == 200 && metrics.body.contains("kvd_request_seconds"), "{metrics:?}");
        for key in ["refused", "other"] {
            check_error(&node.get(&format!("/store/{key}")).await.unwrap(), 404, "there is no key");
        }
    }
}
