//! The REST interface, as a program without any library of ours sees it.

use kvd_tests::{Answer, Cluster, Node};
use reqwest::Method;
use serde_json::{Value, json};

async fn ask(node: &Node, method: Method, path: &str, body: impl Into<String>) -> Answer {
    node.http(method, path, body).await.unwrap()
}

fn parse(answer: &Answer) -> Value {
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

/// A refusal is told in one form, with a code and a message that has this part.
fn check_refusal(answer: &Answer, status: u16, part: &str) {
    let body = parse(answer);
    assert_eq!((answer.status, &body["status"]), (status, &json!("error")), "{answer:?}");
    assert!(body["code"].is_string(), "{answer:?}");
    assert!(body["message"].as_str().unwrap().contains(part), "{part} in {answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_set_read_and_removed_through_any_node() {
    let cluster = Cluster::of(3).start().await;
    let body = r#"{"key":"user:123","value":"John Doe"}"#;
    let answer = ask(cluster.node(0), Method::PUT, "/store", body).await;
    assert_eq!((answer.status, &parse(&answer)["status"]), (200, &json!("success")), "{answer:?}");
    for node in cluster.nodes() {
        let answer = ask(node, Method::GET, "/store/user:123", "").await;
        let got = parse(&answer);
        assert_eq!((answer.status, &got["key"]), (200, &json!("user:123")), "{answer:?}");
        assert_eq!((&got["value"], &got["version"]), (&json!("John Doe"), &json!("1")), "{answer:?}");
    }
    let answer = ask(cluster.node(1), Method::DELETE, "/store/user:123", "").await;
    assert_eq!((answer.status, &parse(&answer)["status"]), (200, &json!("success")), "{answer:?}");
    for node in cluster.nodes() {
        check_refusal(&ask(node, Method::GET, "/store/user:123", "").await, 404, "user:123");
    }
    check_refusal(&ask(cluster.node(2), Method::DELETE, "/store/user:123", "").await, 404, "user:123");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_hold_and_bytes_survive() {
    let cluster = Cluster::of(1).start().await;
    let node = cluster.node(0);
    let body = json!({"key": "k", "value": "one", "if_absent": true}).to_string();
    let first = ask(node, Method::PUT, "/store", body.clone()).await;
    assert_eq!(first.status, 200, "{first:?}");
    let again = ask(node, Method::PUT, "/store", body).await;
    check_refusal(&again, 412, "does not hold");
    assert_eq!(parse(&again)["current"]["revision"], parse(&first)["revision"], "{again:?}");
    let body = json!({"key": "k", "value": "two", "if_revision": parse(&first)["revision"]}).to_string();
    assert_eq!(ask(node, Method::PUT, "/store", body).await.status, 200);

    // Bytes that are no text, in the key and in the value, and a key with slashes and spaces.
    let body = json!({"key_base64": "/wA=", "value_base64": "AP/+"}).to_string();
    assert_eq!(ask(node, Method::PUT, "/store", body).await.status, 200);
    let got = parse(&ask(node, Method::GET, "/store/%FF%00", "").await);
    assert_eq!((&got["key_base64"], &got["value_base64"]), (&json!("/wA="), &json!("AP/+")), "{got}");
    let got = parse(&ask(node, Method::GET, "/store/_wA?key_base64", "").await);
    assert_eq!(got["value_base64"], json!("AP/+"), "{got}");
    let body = json!({"key": "a/b c", "value": "\u{1F600}\"\\"}).to_string();
    assert_eq!(ask(node, Method::PUT, "/store", body).await.status, 200);
    let got = parse(&ask(node, Method::GET, "/store/a%2Fb%20c", "").await);
    assert_eq!((&got["key"], &got["value"]), (&json!("a/b c"), &json!("\u{1F600}\"\\")), "{got}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_no_sense_is_refused_with_what_is_wrong() {
    let cluster = Cluster::of(1).start().await;
    let node = cluster.node(0);
    let put = async |body: &str| ask(node, Method::PUT, "/store", body).await;
    check_refusal(&put(r#"{"key":"k","value":"#).await, 400, "JSON");
    check_refusal(&put("not json").await, 400, "JSON");
    check_refusal(&put("[]").await, 400, "JSON");
    check_refusal(&put(r#"{"key":"k"}"#).await, 400, "value");
    check_refusal(&put(r#"{"key":"k","value":7}"#).await, 400, "string");
    check_refusal(&put(r#"{"key":"k","value":"v","ttl":7}"#).await, 400, "ttl");
    check_refusal(&put(r#"{"key":"","value":"v"}"#).await, 400, "1 to 4096 bytes");
    check_refusal(&put(r#"{"key":"k","value_base64":"%%"}"#).await, 400, "base64");
    let long_key = json!({"key": "k".repeat(4097), "value": "v"}).to_string();
    check_refusal(&put(&long_key).await, 400, "4096");
    let large_value = json!({"key": "k", "value": "v".repeat((1 << 20) + 1)}).to_string();
    check_refusal(&put(&large_value).await, 400, "1048576");
    let large_body = json!({"key": "k", "value": "v".repeat(9 << 20)}).to_string();
    check_refusal(&put(&large_body).await, 413, "8388608");

    check_refusal(&ask(node, Method::GET, "/stores/k", "").await, 404, "/store/{key}");
    check_refusal(&ask(node, Method::GET, "/", "").await, 404, "/store");
    check_refusal(&ask(node, Method::GET, "/store/", "").await, 400, "key is missing");
    check_refusal(&ask(node, Method::GET, "/store/k?consistency=none", "").await, 400, "consistency");
    check_refusal(&ask(node, Method::POST, "/store", "{}").await, 405, "PUT /store");
    check_refusal(&ask(node, Method::GET, &format!("/store/{}", "k".repeat(4097)), "").await, 400, "4096");

    // The largest that is allowed, and the node is as it was.
    let largest = json!({"key": "k".repeat(4096), "value": "v".repeat(1 << 20)}).to_string();
    assert_eq!(put(&largest).await.status, 200);
    let answer = ask(node, Method::GET, "/metrics", "").await;
    assert!(answer.status == 200 && answer.body.contains("kvd_"), "{answer:?}");
}
