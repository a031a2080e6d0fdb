//! The benchmark: that it starts what it compares, measures all of it and leaves nothing behind. No figure is judged.

use std::{
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use kvd_tests::{Cluster, Turn, kvctl, kvd_bench, run, run_within};
use serde_json::Value;

/// What a comparison may take that starts seven clusters one after the other.
const COMPARISON_PATIENCE: Duration = Duration::from_secs(600);

/// Runs `kvd-bench` with these words.
async fn bench(words: &[&str]) -> Output {
    let mut command = Command::new(kvd_bench());
    command.args(words);
    run(command).await
}

/// The JSON that it printed.
#[track_caller]
fn json(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn every_load_is_made_of_every_target_and_what_was_found_is_drawn() {
    let cluster = Cluster::of(3).start().await;
    let (endpoints, dir) = (cluster.endpoints(), tempfile::tempdir().unwrap());
    let data_dir = format!("--data-dir={}", dir.path().display());
    // A busy machine is no failure: whatever is asked for may take long.
    let patient = "--timeout-ms=50000";
    let usual = ["run", "--keys=100", "--operations=200", "--clients=8", "--output=json", patient, &data_dir];
    let to_kvd = [&usual[..], &["--endpoints", &endpoints]].concat();
    let load = async |to: &[&str], words: &str| {
        let words: Vec<_> = words.split(' ').collect();
        let report = json(&bench(&[to, &words].concat()).await);
        assert_eq!(
            (&report["errors"], &report["overloaded"]),
            (&serde_json::json!({}), &0.into()),
            "{words:?}"
        );
        assert_eq!(report["all"]["operations"], 200, "{report}");
        report
    };
    let first = load(&to_kvd, "--workload put --fill").await;
    assert_eq!((&first["nodes"], &first["shards"].is_u64()), (&3.into(), &true));
    for workload in ["ycsb-a", "ycsb-b", "ycsb-c", "ycsb-f", "mixed --reads 95", "txn", "get --choice zipf"] {
        load(&to_kvd, &format!("--workload {workload}")).await;
    }
    for workload in ["batch --batch 10", "scan --rows 10"] {
        let report = load(&to_kvd, &format!("--workload {workload}")).await;
        assert!(report["rows_per_second"].as_f64().unwrap() > 0.0, "{report}");
    }
    for level in ["session", "bounded", "local"] {
        load(&to_kvd, &format!("--workload get --consistency {level}")).await;
    }
    load(&to_kvd, "--target kvd-unary --workload mixed").await;
    load(&usual, "--target echo --workload mixed --fill").await;
    load(&usual, "--target log").await;
    draw(&first, &load(&[&to_kvd[..], &["--connections=2"]].concat(), "--workload put").await, dir.path())
        .await;

    let open = ["run", "--endpoints", &endpoints, patient, "--rate=500", "--operations=100", "--output=json"];
    let report = json(&bench(&open).await);
    let (made, refused) = (report["all"]["operations"].as_u64(), report["refused_by_generator"].as_u64());
    assert_eq!((made.unwrap() + refused.unwrap(), &report["clients"]), (100, &Value::Null));

    let wrong = bench(&["run", "--target=etcd", "--workload=txn"]).await;
    assert_eq!((wrong.status.code(), wrong.stdout.len()), (Some(2), 0));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("--workload txn"));
}

/// Has two runs drawn that differ in their clients.
async fn draw(one: &Value, other: &Value, dir: &Path) {
    let (first, second) = (dir.join("first.json"), dir.join("second.json"));
    let mut other = other.clone();
    other["clients"] = 16.into();
    std::fs::write(&first, one.to_string()).unwrap();
    std::fs::write(&second, other.to_string()).unwrap();
    let drawn = bench(&["plot", first.to_str().unwrap(), second.to_str().unwrap()]).await;
    let svg = String::from_utf8_lossy(&drawn.stdout);
    assert!(drawn.status.success() && svg.starts_with("<svg") && svg.contains("kvd p99"), "{svg}");
}

#[tokio::test]
async fn a_check_of_a_cluster_judges_it_and_leaves_no_keys() {
    let cluster = Cluster::of(3).start().await;
    let kvctl = async |words: &[&str]| {
        let mut command = Command::new(kvctl());
        command.arg(format!("--endpoints={}", cluster.endpoints())).args(words);
        run(command).await
    };
    let output = kvctl(&["check", "perf", "-o", "json"]).await;
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let passed = report["passed"].as_bool().unwrap();
    assert_eq!(output.status.code(), Some(if passed { 0 } else { 1 }), "{report}");
    for of in ["writes", "reads"] {
        assert!(report[of]["per_second"].as_f64().unwrap() > 0.0, "{report}");
    }
    assert!(String::from_utf8_lossy(&output.stderr).contains("writes"), "progress");
    let left = kvctl(&["scan", "--all", "--count-only"]).await;
    assert_eq!(String::from_utf8_lossy(&left.stdout), "0\n");
}

#[tokio::test]
async fn the_short_comparison_measures_kvd_and_the_limits_and_leaves_nothing() {
    let _turn = Turn::take().await;
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(kvd_bench());
    // What is set where the tests run must not be a setting of the nodes.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KVD_")) {
        command.env_remove(name);
    }
    command.args(["compare", "--short", "--all", "--etcd=no-such-program", "--redis=no-such-program"]);
    command.args(["--soak-minutes=1", "--output=json", "--data-dir"]);
    command.arg(dir.path());
    let output = run_within(COMPARISON_PATIENCE, command).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("install it"), "{said}");
    let comparison: Value = serde_json::from_slice(&output.stdout).unwrap();
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
    for trial in comparison["trials"].as_array().unwrap() {
        // Not every machine lets memory be limited.
        let says = |found: &Value| found.as_f64().is_some_and(|found| found > 0.0);
        let figures = trial["figures"].as_object().unwrap();
        let found = |name: &str| figures.get(name).is_some_and(says);
        let tried = match trial["name"].as_str().unwrap() {
            "leaders moved" | "a leader killed" => found("longest_gap_ms"),
            idle if idle.starts_with("idle") => found("resident_mib_per_node"),
            "more than memory" if trial["skipped"].is_string() => figures.is_empty(),
            overload if overload.starts_with("twice") => found("goodput_of_the_peak"),
            soak if soak.contains("requests/s") => found("disk_mib_per_node_at_the_end"),
            _ => found("puts_per_second") && found("get_p99_ms"),
        };
        assert!(tried, "{trial}");
    }
    assert_eq!(comparison["trials"].as_array().unwrap().len(), 8);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "what it made is gone");
}
