//! Keys: how they are set, read and removed, and what is seen of them.

use kvd_proto::token::{self, SessionToken};
use kvd_types::{
    Consistency, Read, Revision, ShardId,
    limits::TTL_MAX,
    operation::{Ack, Request, WriteOptions},
};

use super::*;
use crate::testing::{FIRST_REVISION, OTHER};

fn seen(token: &Value) -> Vec<(u32, u64)> {
    let bytes = token::from_text(token.as_str().unwrap()).unwrap();
    let token = SessionToken::decode(&bytes, CLUSTER).unwrap();
    token.revisions.into_iter().map(|(shard, revision)| (shard.get(), revision.get())).collect()
}

fn session(cluster: &str, shard: u32, revision: u64) -> String {
    let revisions = [(ShardId(shard), Revision(revision))].into();
    token::to_text(&SessionToken { cluster_id: cluster.to_owned(), revisions }.encode())
}

#[tokio::test]
async fn a_key_is_set_read_and_removed() {
    let running = started().await;
    let put = running.send("PUT", "/v1/kv/user:123", r#"{"value":"John Doe","prev":true}"#).await;
    assert_eq!(
        (put.status, &put.json()["status"], &put.json()["version"]),
        (200, &json!("success"), &json!("1"))
    );
    assert_eq!(put.json()["previous"], Value::Null);
    assert_eq!(put.header("kvd-session"), put.json()["session"].as_str());

    let got = running.get("/v1/kv/user:123").await;
    let mut body = got.json();
    assert_eq!(seen(&body["session"]), [(7, 101)]);
    assert_eq!(got.header("kvd-session"), body["session"].as_str());
    body.as_object_mut().unwrap().remove("session");
    let version =
        json!({"key":"user:123","value":"John Doe","revision":"100","create_revision":"100","version":"1"});
    assert_eq!(body, version);

    let deleted = running.delete("/v1/kv/user:123?prev&ack=all&if_revision=100").await;
    assert_eq!(
        (deleted.status, &deleted.json()["previous"]["value"]),
        (200, &json!("John Doe")),
        "{}",
        deleted.body
    );
    for answer in [running.get("/v1/kv/user:123").await, running.delete("/v1/kv/user:123").await] {
        assert_eq!((answer.status, &answer.json()["code"]), (404, &json!("not_found")));
        assert_eq!(seen(&answer.json()["session"])[0].0, 7, "that there is nothing has been seen");
        assert_eq!(answer.header("kvd-session"), answer.json()["session"].as_str());
    }
    running.stop().await;
}

#[tokio::test]
async fn keys_and_values_are_bytes() {
    let running = started().await;
    running.set("_wA=?key_base64", r#"{"value_base64":"AP8="}"#).await;
    let got = running.get("/v1/kv/%FF%00").await.json();
    assert_eq!((&got["key_base64"], &got["value_base64"]), (&json!("/wA="), &json!("AP8=")));
    running.set("a/b//c", r#"{"value":""}"#).await;
    assert_eq!(running.get("/v1/kv/a%2Fb//c").await.json()["value"], "");
    running.stop().await;
}

#[tokio::test]
async fn conditions_lifetimes_and_acknowledgements() {
    let running = started().await;
    let revision = running.set("a", r#"{"value":"1","if_absent":true,"ttl_ms":60000,"ack":"all"}"#).await;
    assert!(matches!(
        *running.store.last_request.lock(),
        Some(Request::Write(_, WriteOptions { ack: Ack::All, .. }))
    ));
    assert_eq!(running.get("/v1/kv/a").await.json()["ttl_ms"], 60000, "what remains at the age of the shard");

    let again = running.send("PUT", "/v1/kv/a", r#"{"value":"2","if_absent":true}"#).await;
    assert_eq!((again.status, &again.json()["current"]["revision"]), (412, &json!(revision)));
    assert_eq!(again.json()["outcome"], "not_applied");
    assert!(again.json()["session"].is_string());
    running
        .set("a", &format!(r#"{{"value":"2","if_revision":"{revision}","lease":"18446744073709551615"}}"#))
        .await;
    let got = running.get("/v1/kv/a").await.json();
    assert_eq!((&got["lease"], got.get("ttl_ms")), (&json!("18446744073709551615"), None));
    let stale = running.delete(&format!("/v1/kv/a?if_revision={revision}")).await;
    assert_eq!((stale.status, stale.json()["current"].get("value")), (412, None));
    running.stop().await;
}

#[tokio::test]
async fn how_a_read_is_asked_for() {
    let running = started().await;
    running.set("a", r#"{"value":"1"}"#).await;
    let token = session(CLUSTER, 7, 42);
    for (parameters, consistency, any_replica, at) in [
        ("", Consistency::Linearizable, false, None),
        ("?consistency=linearizable&any_replica", Consistency::Linearizable, true, None),
        ("?consistency=lease", Consistency::Lease, false, None),
        ("?consistency=local&any_replica=1", Consistency::Local, true, None),
        (
            "?consistency=bounded&max_staleness_ms=1500",
            Consistency::Bounded(Duration::from_millis(1500)),
            false,
            None,
        ),
        ("?revision=100", Consistency::Linearizable, false, Some(Revision(100))),
        (&format!("?consistency=session&session={token}"), Consistency::Session(Revision(42)), false, None),
    ] {
        let answer = running.get(&format!("/v1/kv/a{parameters}")).await;
        assert_eq!(answer.status, 200, "{parameters}: {}", answer.body);
        let read = running.store.last_read.lock().unwrap();
        assert_eq!(read, Read { consistency, any_replica, at }, "{parameters}");
    }
    let path = format!("/v1/kv/{OTHER}a?consistency=session");
    let absent = running.ask("GET", &path, &[("kvd-session", &token)], b"").await;
    assert_eq!(absent.status, 404);
    let read = running.store.last_read.lock().unwrap();
    assert_eq!(read.consistency, Consistency::Session(Revision::ZERO), "nothing was seen of that shard");
    assert_eq!(seen(&absent.json()["session"]), [(7, 42), (8, 101)], "and what was seen before is kept");
    running.stop().await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_a_reason() {
    let running = started().await;
    let century = TTL_MAX.as_millis() + 1;
    for (body, wanted) in [
        ("", "must be JSON"),
        ("{}", "needs value or value_base64"),
        (r#"{"value":"1","ttl":5}"#, "unknown field `ttl`"),
        (r#"{"value":"1","key":"a"}"#, "unknown field `key`"),
        (r#"{"value":"1","ttl_ms":-5}"#, "`-5`"),
        (r#"{"value":"1","ttl_ms":0}"#, "from 1 ms"),
        (&format!(r#"{{"value":"1","ttl_ms":{century}}}"#), "from 1 ms"),
        (r#"{"value":"1","ttl_ms":99999999999999999999999}"#, "must be JSON"),
        (r#"{"value":"1","ttl_ms":5,"lease":"7"}"#, "not both"),
        (r#"{"value":"1","lease":"x"}"#, "lease is \"x\""),
        (r#"{"value":"1","lease":"0"}"#, "0 is no lease"),
        (r#"{"value":"1","lease":"-1"}"#, "lease is \"-1\""),
        (r#"{"value":"1","ack":"none"}"#, "unknown variant"),
        (r#"{"value":"1","if_absent":true,"if_revision":"1"}"#, "can't both hold"),
    ] {
        running.refuses("PUT", "/v1/kv/a", body, wanted).await;
    }
    let (other, forged) = (session("other", 7, 1), session(CLUSTER, 7, 1).replace('A', "B"));
    for (path, wanted) in [
        ("/v1/kv/", "the key is missing"),
        ("/v1/kv/a?x=1", "unknown field `x`"),
        ("/v1/kv/a?consistency=strong", "unknown variant"),
        ("/v1/kv/a?consistency=session", "needs a session"),
        ("/v1/kv/a?consistency=bounded", "needs max_staleness_ms"),
        ("/v1/kv/a?consistency=bounded&max_staleness_ms=-1", "max_staleness_ms"),
        ("/v1/kv/a?consistency=bounded&max_staleness_ms=99999999999", "read locally"),
        ("/v1/kv/a?max_staleness_ms=5", "goes with consistency=bounded"),
        ("/v1/kv/a?revision=0", "revision"),
        ("/v1/kv/a?revision=100&consistency=local", "takes no other consistency"),
        ("/v1/kv/a?session=%FF", "not UTF-8"),
        ("/v1/kv/a?session=!", "damaged"),
        ("/v1/kv/a?session=AAAA", "damaged"),
        (&format!("/v1/kv/a?session={forged}"), "damaged"),
        (&format!("/v1/kv/a?session={other}"), "of cluster other"),
    ] {
        running.refuses("GET", path, "", wanted).await;
    }
    running.refuses("DELETE", "/v1/kv/a?all", "", "unknown field `all`").await;
    let header = running.ask("GET", "/v1/kv/a", &[("kvd-session", "AAAA")], b"").await;
    assert_eq!((header.status, running.executed()), (400, 0));
    running.stop().await;

    let alone = start(LIMITS).await;
    for path in [&format!("/v1/kv/a?session={other}"), "/v1/kv/a"] {
        let early = alone.get(path).await;
        assert_eq!(
            (early.status, early.header("retry-after")),
            (503, Some("1")),
            "{path}: whose are its tokens?"
        );
    }
    alone.stop().await;
}

#[tokio::test]
async fn the_past_and_the_future() {
    let running = started().await;
    running.set("a", r#"{"value":"1"}"#).await;
    let forgotten = running.get("/v1/kv/a?revision=99").await;
    assert_eq!((forgotten.status, &forgotten.json()["code"]), (410, &json!("compacted")));
    assert_eq!(forgotten.json()["oldest_revision"], FIRST_REVISION.to_string());
    let future = running.get("/v1/kv/a?revision=18446744073709551615").await;
    assert_eq!((future.status, &future.json()["code"]), (400, &json!("invalid_argument")));
    assert!(future.json()["message"].as_str().unwrap().contains("in the future"), "{}", future.body);
    running.stop().await;
}

#[tokio::test]
async fn many_keys_are_read_from_their_shards() {
    let running = started().await;
    running.set("a", r#"{"value":"1","ttl_ms":5000}"#).await;
    running.set("other:b", r#"{"value":"2"}"#).await;
    let body =
        r#"{"keys":["other:b","x","a"],"consistency":"bounded","max_staleness_ms":10,"any_replica":true}"#;
    let got = running.send("POST", "/v1/batch_get", body).await;
    assert_eq!(got.status, 200, "{}", got.body);
    let results = got.json()["results"].clone();
    assert_eq!(
        (&results[0]["value"], &results[1], &results[2]["ttl_ms"]),
        (&json!("2"), &Value::Null, &json!(5000))
    );
    assert_eq!(seen(&got.json()["session"]), [(7, 102), (8, 102)]);
    assert_eq!(
        running.store.last_read.lock().unwrap().consistency,
        Consistency::Bounded(Duration::from_millis(10))
    );
    let encoded = running.send("POST", "/v1/batch_get", r#"{"keys_base64":["YQ"],"revision":"102"}"#).await;
    assert_eq!(encoded.json()["results"][0]["key"], "a", "{}", encoded.body);

    let many = vec!["k"; 1025];
    for (body, wanted) in [
        ("[]", "must be JSON"),
        ("{}", "needs keys or keys_base64"),
        (r#"{"keys":[]}"#, "no keys"),
        (r#"{"keys":[""]}"#, "the key is empty"),
        (r#"{"keys":["a"],"keys_base64":["YQ"]}"#, "not both"),
        (r#"{"keys_base64":["%"]}"#, "not base64"),
        (r#"{"keys":["a"],"revision":"0"}"#, "before every write"),
        (&json!({ "keys": many }).to_string(), "at most 1024"),
    ] {
        running.refuses("POST", "/v1/batch_get", body, wanted).await;
    }
    running.stop().await;
}

#[tokio::test]
async fn what_fails_says_whether_it_may_have_been_applied() {
    let running = started().await;
    running.store.fail("k", Error::unknown("who knows"));
    let put = running.send("PUT", "/v1/kv/k", r#"{"value":"1"}"#).await;
    let deleted = running.delete("/v1/kv/k").await;
    let txn = running.send("POST", "/v1/txn", r#"{"then":[{"delete":{"key":"k"}}]}"#).await;
    for answer in [put, deleted, txn] {
        assert_eq!((answer.status, &answer.json()["outcome"]), (504, &json!("unknown")), "{}", answer.body);
    }
    for answer in
        [running.get("/v1/kv/k").await, running.send("POST", "/v1/batch_get", r#"{"keys":["k"]}"#).await]
    {
        assert_eq!((answer.status, answer.json().get("outcome")), (504, None), "{}", answer.body);
    }
    for (method, path) in [("POST", "/v1/kv/a"), ("PUT", "/v1/scan"), ("GET", "/v1/leases/7/keep_alive")] {
        let answer = running.send(method, path, "").await;
        assert_eq!((answer.status, &answer.json()["code"]), (405, &json!("wrong_method")), "{method} {path}");
        assert!(answer.header("allow").is_some(), "{method} {path}: {}", answer.head);
    }
    running.stop().await;
}
