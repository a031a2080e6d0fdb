//! The benchmark: that it starts what it compares, measures all of it and leaves nothing behind. No figure is judged.

use std::process::Command;

use kvd_tests::{Turn, kvd_bench, run};

#[tokio::test]
async fn the_short_comparison_measures_kvd_and_the_limits_and_leaves_nothing() {
    let _turn = Turn::take().await;
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(kvd_bench());
    // What is set where the tests run must not be a setting of the nodes.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KVD_")) {
        command.env_remove(name);
    }
    command.args(["compare", "--short", "--etcd=no-such-program", "--redis=no-such-program"]);
    command.args(["--output=json", "--data-dir"]);
    let output = run({
        command.arg(dir.path());
        command
    })
    .await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("install it"), "{said}");
    let comparison: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(comparison["errors"], serde_json::json!({}));
    let cases = comparison["cases"].as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let rate = |target: &str| case["targets"][target]["operations_per_second"].as_f64();
        let unary = case["name"].as_str().unwrap().starts_with("unary");
        assert!(rate(if unary { "kvd-unary" } else { "kvd" }).unwrap() > 0.0, "{case}");
        assert_eq!(rate("echo").is_some(), !unary, "{case}");
        assert_eq!(rate("log").is_some(), !unary && case["workload"] == "put", "{case}");
        assert_eq!((rate("etcd"), rate("redis")), (None, None));
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "what it made is gone");
}
