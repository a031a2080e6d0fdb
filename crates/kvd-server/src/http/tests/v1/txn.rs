//! Transactions.

use super::*;

#[tokio::test]
async fn a_branch_is_done_and_told_in_order() {
    let running = started().await;
    running.set("a", r#"{"value":"1"}"#).await;
    let body = r#"{
        "compares": [
            {"key":"a","version":"1","is":"="}, {"key":"a","value":"1"}, {"key":"a","revision":"99","is":">"},
            {"key":"a","create_revision":"101","is":"<"}, {"key":"a","lease":"0"}, {"key_base64":"Yg","value":"x","is":"!="},
            {"key":"a","value_base64":"Mg","is":"!="}
        ],
        "then": [{"put":{"key":"never","value":""}}],
        "otherwise": [
            {"put":{"key":"b","value_base64":"/w==","ttl_ms":5000,"prev":true}}, {"get":{"key":"b"}},
            {"delete":{"key":"a","prev":true}}, {"get":{"key":"a"}}, {"delete":{"key":"c"}}
        ]}"#;
    let done = running.send("POST", "/v1/txn", body).await;
    assert_eq!(done.status, 200, "{}", done.body);
    let done = done.json();
    assert_eq!(
        (&done["status"], &done["succeeded"]),
        (&json!("success"), &json!(false)),
        "no compare with no value holds"
    );
    assert!(done["session"].is_string());
    let at = &done["revision"];
    assert_eq!(
        done["results"],
        json!([
            {"put": {"status":"success","key":"b","revision":at,"create_revision":at,"version":"1","previous":null}},
            {"get": {"key":"b","value_base64":"/w==","revision":at,"create_revision":at,"version":"1","ttl_ms":5000}},
            {"delete": {"key":"a","existed":true,
                "previous":{"value":"1","revision":"100","create_revision":"100","version":"1"}}},
            {"get": null},
            {"delete": {"key":"c","existed":false}},
        ])
    );
    assert_eq!(running.get("/v1/kv/never").await.status, 404);

    let held = r#"{"compares":[{"key":"b","version":"1"}],"then":[{"get":{"key":"b"}}],"ack":"all"}"#;
    let done = running.send("POST", "/v1/txn", held).await.json();
    assert_eq!((&done["succeeded"], &done["results"][0]["get"]["key"]), (&json!(true), &json!("b")));
    running.stop().await;
}

#[tokio::test]
async fn what_makes_no_sense_changes_nothing() {
    let running = started().await;
    let too_many: Vec<_> = (0..129).map(|n| json!({"get": {"key": format!("{{a}}{n}")}})).collect();
    let large = "x".repeat(1 << 20);
    let too_large: Vec<_> =
        (0..5).map(|n| json!({"put": {"key": format!("{{a}}{n}"), "value": large}})).collect();
    let larger = json!([{"put": {"key": "a", "value": format!("{large}x")}}]);
    for (body, wanted) in [
        ("", "must be JSON"),
        ("{}", "empty"),
        (&json!({ "then": too_many }).to_string(), "at most 128"),
        (&json!({ "otherwise": too_large }).to_string(), "a request has at most"),
        (&json!({ "then": larger }).to_string(), "a value has at most"),
        (r#"{"then":[{"put":{"key":"a","value":"1"}},{"delete":{"key":"a"}}]}"#, "writes key a twice"),
        (
            r#"{"otherwise":[{"put":{"key":"a","value":"1"}},{"put":{"key":"a","value":"1"}}]}"#,
            "writes key a twice",
        ),
        (r#"{"then":[{"put":{"key":"a","value":"1","ttl_ms":-1}}]}"#, "`-1`"),
        (r#"{"then":[{"put":{"key":"a","value":"1","ttl_ms":18446744073709551615}}]}"#, "a time to live is"),
        (r#"{"then":[{"put":{"key":"a","value":"1","ttl_ms":0}}]}"#, "a time to live is"),
        (r#"{"then":[{"put":{"key":"a"}}]}"#, "needs value or value_base64"),
        (r#"{"then":[{"put":{"key":"a","value":"1","if_absent":true}}]}"#, "unknown field `if_absent`"),
        (r#"{"then":[{"get":{}}]}"#, "needs key or key_base64"),
        (r#"{"then":[{"swap":{"key":"a"}}]}"#, "unknown variant `swap`"),
        (r#"{"then":[{"get":{"key":"a"},"delete":{"key":"b"}}]}"#, "must be JSON"),
        (r#"{"compares":[{"key":"a"}]}"#, "a compare needs one of"),
        (r#"{"compares":[{"key":"a","version":"1","value":"1"}]}"#, "a compare needs one of"),
        (r#"{"compares":[{"key":"a","version":"x"}]}"#, "version is \"x\""),
        (r#"{"compares":[{"key":"a","version":1}]}"#, "expected a string"),
        (r#"{"compares":[{"key":"a","version":"1","is":"=="}]}"#, "unknown variant `==`"),
        (r#"{"compare":[]}"#, "unknown field `compare`"),
    ] {
        let shown = &body[..body.len().min(200)];
        let answer = running.send("POST", "/v1/txn", body).await;
        assert_eq!((answer.status, &answer.json()["code"]), (400, &json!("invalid_argument")), "{shown}");
        assert_eq!(answer.json()["outcome"], "not_applied", "{shown}");
        let message = answer.json()["message"].as_str().unwrap().to_owned();
        assert!(message.contains(wanted), "{shown}: {message}");
    }
    running.refuses("POST", "/v1/txn?ack=all", "{}", "unknown field `ack`").await;
    assert_eq!(running.executed(), 0);
    running.stop().await;
}
