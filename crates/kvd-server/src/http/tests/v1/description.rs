//! The description of the interface: that it is of what there is, and that whoever changes it sees so.

use std::{collections::BTreeSet, path::Path};

use super::*;

/// The variable that has the file written anew.
const REWRITE: &str = "KVD_REWRITE_GOLDEN";

#[tokio::test]
async fn every_route_is_described_and_nothing_else() {
    let running = started().await;
    let shown = running.get("/openapi.json").await;
    assert_eq!((shown.status, shown.header("content-type")), (200, Some("application/json")));
    let parsed: utoipa::openapi::OpenApi = serde_json::from_str(&shown.body).unwrap();
    assert_eq!(parsed.paths.paths.len(), openapi::description().paths.paths.len());
    let document = shown.json();
    assert_eq!(document, serde_json::to_value(openapi::description()).unwrap());
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut described = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        described.extend(item.as_object().unwrap().keys().map(|method| (method.clone(), path.clone())));
    }
    let routed = routes().described.into_iter().map(|(method, path)| (method.to_owned(), path));
    assert_eq!(described, routed.collect());

    for (method, path) in described {
        let path = path.replace("{key}", "a").replace("{id}", "7");
        let answer = running.ask(&method.to_uppercase(), &format!("{path}?nonsense"), &[], b"").await;
        let code = if answer.status == 200 { Value::Null } else { answer.json()["code"].clone() };
        assert!(code != "unknown_path" && code != "wrong_method", "{method} {path}: {}", answer.body);
    }
    running.stop().await;
}

#[test]
fn what_is_referred_to_is_there() {
    let document = serde_json::to_value(openapi::description()).unwrap();
    let mut left = vec![&document];
    let mut references = 0;
    while let Some(value) = left.pop() {
        match value {
            Value::Object(fields) => {
                if let Some(reference) = fields.get("$ref").and_then(Value::as_str) {
                    let pointer = reference.strip_prefix('#').unwrap();
                    assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
                    references += 1;
                }
                left.extend(fields.values());
            }
            Value::Array(values) => left.extend(values),
            _ => {}
        }
    }
    assert!(references > 50, "only {references}");
}

#[test]
fn streams_and_failures_are_described() {
    let document = serde_json::to_value(openapi::description()).unwrap();
    for (path, method) in [("/v1/scan", "get"), ("/v1/range", "delete"), ("/v1/watch", "get")] {
        let content = &document["paths"][path][method]["responses"]["200"]["content"];
        for kind in ["application/x-ndjson", "text/event-stream"] {
            assert!(content[kind]["schema"].is_object(), "{method} {path}: {kind}");
        }
    }
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let responses = &operation["responses"];
            if path.starts_with("/v1/") || path.starts_with("/store") {
                for status in ["400", "429", "500", "503", "504"] {
                    let schema = &responses[status]["content"]["application/json"]["schema"]["$ref"];
                    assert_eq!(schema, "#/components/schemas/Failure", "{method} {path}: {status}");
                }
            }
            let has_body = operation.get("requestBody").is_some();
            assert_eq!(has_body, responses.get("413").is_some(), "{method} {path}");
        }
    }
}

/// Whoever uses the interface relies on it. If what has changed is meant to, have the file written anew: run this test with
/// `KVD_REWRITE_GOLDEN=1`, and look at the difference.
#[test]
fn the_interface_is_the_one_in_the_file() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    let mut made = serde_json::to_string_pretty(&openapi::description()).unwrap();
    made.push('\n');
    if std::env::var_os(REWRITE).is_some() {
        std::fs::write(&file, &made).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap();
    let differs = made.lines().zip(kept.lines()).position(|(made, kept)| made != kept);
    assert!(
        made == kept,
        "the REST interface is not the one in {} from line {} on; if that is meant, run this test with {REWRITE}=1",
        file.display(),
        differs.unwrap_or_default() + 1
    );
}
