//! Leases.

use super::*;

async fn grant(running: &Running, body: &str) -> Answer {
    running.send("POST", "/v1/leases", body).await
}

#[tokio::test]
async fn a_lease_is_granted_kept_looked_at_and_revoked() {
    let running = started().await;
    let granted = grant(&running, r#"{"ttl_ms":30000,"id":"7"}"#).await;
    assert_eq!((granted.status, granted.json()), (200, json!({"status":"success","id":"7","ttl_ms":30000})));
    let again = grant(&running, r#"{"ttl_ms":30000,"id":"7"}"#).await;
    assert_eq!((again.status, &again.json()["code"]), (409, &json!("lease_exists")));
    assert_eq!(again.json()["outcome"], "not_applied");

    let kept = running.send("POST", "/v1/leases/7/keep_alive", "").await;
    assert_eq!((kept.status, kept.json()), (200, json!({"status":"success","id":"7","ttl_ms":30000})));
    let look = json!({"id":"7","ttl_ms":30000,"remaining_ms":29999,"shards":[8,7]});
    assert_eq!(running.get("/v1/leases/7").await.json(), look);

    let revoked = running.delete("/v1/leases/7").await;
    assert_eq!((revoked.status, revoked.json()), (200, json!({"status":"success","id":"7"})));
    for answer in [
        running.get("/v1/leases/7").await,
        running.delete("/v1/leases/7").await,
        running.send("POST", "/v1/leases/7/keep_alive", "").await,
    ] {
        assert_eq!((answer.status, &answer.json()["code"]), (404, &json!("not_found")), "{}", answer.body);
    }
    running.stop().await;
}

#[tokio::test]
async fn ids_are_random_unless_they_are_chosen() {
    let running = started().await;
    let mut ids = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let granted = grant(&running, r#"{"ttl_ms":2000}"#).await.json();
        let id: u64 = granted["id"].as_str().unwrap().parse().unwrap();
        assert!((1..1 << 63).contains(&id), "{id}");
        assert!(ids.insert(id), "{id} twice");
    }
    assert_eq!(grant(&running, r#"{"ttl_ms":2000,"id":"9223372036854775807"}"#).await.status, 200);
    running.stop().await;
}

#[tokio::test]
async fn keys_and_leases_come_page_by_page() {
    let running = started().await;
    for id in [5, 3, 9] {
        grant(&running, &format!(r#"{{"ttl_ms":5000,"id":"{id}"}}"#)).await;
    }
    for key in ["a", "b", "other:a"] {
        running.set(key, r#"{"value":"1","lease":"5"}"#).await;
    }
    running.set("c", r#"{"value":"1","lease":"3"}"#).await;
    let (mut path, mut keys) = ("/v1/leases/5?keys&limit=1".to_owned(), Vec::new());
    loop {
        let page = running.get(&path).await.json();
        keys.extend(
            page["keys"].as_array().unwrap().iter().map(|key| key["key"].as_str().unwrap().to_owned()),
        );
        let Some(next) = page.get("next") else { break };
        path = format!("/v1/leases/5?keys&limit=1&after={}", next.as_str().unwrap());
    }
    assert_eq!(keys, ["a", "b", "other:a"]);

    let all = running.get("/v1/leases").await.json();
    let ids = |page: &Value| -> Vec<String> {
        page["leases"]
            .as_array()
            .unwrap()
            .iter()
            .map(|lease| lease["id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!((ids(&all), all.get("next")), (["3", "5", "9"].map(str::to_owned).to_vec(), None));
    let first = running.get("/v1/leases?limit=2").await.json();
    assert_eq!(ids(&first), ["3", "5"]);
    let rest =
        running.get(&format!("/v1/leases?limit=2&after={}", first["next"].as_str().unwrap())).await.json();
    assert_eq!((ids(&rest), rest.get("next")), (vec!["9".to_owned()], None));
    running.stop().await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let running = started().await;
    for (body, wanted) in [
        ("{}", "missing field `ttl_ms`"),
        (r#"{"ttl_ms":-1}"#, "`-1`"),
        (r#"{"ttl_ms":1999}"#, "would not outlive a change of leader"),
        (r#"{"ttl_ms":18446744073709551615}"#, "a time to live is"),
        (r#"{"ttl_ms":5000,"id":"0"}"#, "from 1 to"),
        (r#"{"ttl_ms":5000,"id":"9223372036854775808"}"#, "from 1 to"),
        (r#"{"ttl_ms":5000,"id":"x"}"#, "id is \"x\""),
        (r#"{"ttl_ms":5000,"id":7}"#, "expected a string"),
        (r#"{"ttl_ms":5000,"name":"x"}"#, "unknown field `name`"),
    ] {
        running.refuses("POST", "/v1/leases", body, wanted).await;
    }
    for (path, wanted) in [
        ("/v1/leases/x", "the id in the path"),
        ("/v1/leases/0", "0 is no lease"),
        ("/v1/leases/7?limit=5", "give ?keys"),
        ("/v1/leases/7?keys&limit=0", "from 1 to 4096"),
        ("/v1/leases/7?keys&limit=4097", "from 1 to 4096"),
        ("/v1/leases/7?keys&after=7", "after is not what"),
        ("/v1/leases/7?keys&after=7.", "after is not what"),
        ("/v1/leases/7?keys&after=7.!", "after is not what"),
        ("/v1/leases?after=x.1", "after is not what"),
        ("/v1/leases?after=1.99999999999999999999", "after is not what"),
        ("/v1/leases?limit=-1", "limit"),
        ("/v1/leases?shard=7", "unknown field `shard`"),
    ] {
        running.refuses("GET", path, "", wanted).await;
    }
    running.refuses("DELETE", "/v1/leases/0", "", "0 is no lease").await;
    running.refuses("POST", "/v1/leases/0/keep_alive", "", "0 is no lease").await;
    let large = format!(r#"{{"ttl_ms":5000,"id":"{}"}}"#, "1".repeat(5000));
    assert_eq!(grant(&running, &large).await.status, 413);
    running.stop().await;

    let alone = start(LIMITS).await;
    let unknown = alone.get("/v1/leases").await;
    assert_eq!(
        (unknown.status, unknown.header("retry-after")),
        (503, Some("1")),
        "the shards aren't known yet"
    );
    alone.stop().await;
}
