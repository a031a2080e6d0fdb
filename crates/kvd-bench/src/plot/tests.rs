//! What is drawn of which files.

use serde_json::{Value, json};

use super::*;

/// A run of so many clients.
fn run_of(clients: u64, rate: f64) -> Value {
    json!({
        "target": "kvd", "name": "put", "clients": clients, "rate": null, "keys": 1000, "nodes": 3, "shards": 12,
        "all": {"operations_per_second": rate, "p50_ms": rate / 1000.0, "p99_ms": rate / 200.0},
        "cpu_s_per_million": 20.0,
    })
}

/// A comparison of so many keys.
fn comparison_of(keys: u64, cost: f64) -> Value {
    let figures = |cost: f64| json!({"operations_per_second": 5000.0, "p50_ms": 2.0, "p99_ms": 9.0, "cpu_s_per_million": cost});
    json!({"cases": [{
        "name": "get", "clients": 64, "keys": keys, "nodes": 3, "shards": 12,
        "targets": {"kvd": figures(cost), "etcd": figures(4.0 * cost)},
    }]})
}

fn points_of(files: &[Value]) -> Vec<Point> {
    files.iter().flat_map(|file| points(file).unwrap()).collect()
}

#[test]
fn what_is_drawn() {
    let golden = include_str!("golden.svg");
    let files = [
        run_of(64, 20_000.0),
        run_of(1, 1000.0),
        comparison_of(10_000, 20.0),
        comparison_of(1_000_000, 30.0),
    ];
    let drawn = draw::draw(&panels(&points_of(&files))).unwrap();
    if drawn != golden {
        let path = std::env::temp_dir().join("kvd-bench-plot.svg");
        fs::write(&path, drawn).unwrap();
        panic!("look at {}; if it is as it should be, it is the new golden.svg", path.display());
    }
}

#[test]
fn one_point_is_no_curve() {
    assert!(panels(&points_of(&[run_of(64, 20_000.0)])).is_empty());
    let other_keys = json!({"keys": 7});
    let mut other = run_of(1, 1000.0);
    other["keys"] = other_keys["keys"].clone();
    assert!(panels(&points_of(&[run_of(64, 20_000.0), other])).is_empty(), "they differ in two things");
}

#[test]
fn what_is_no_run_is_refused() {
    assert!(points(&json!({"rows": 5})).is_err());
    assert!(points(&json!({"cases": 5})).is_err());
    assert_eq!(points(&json!({"target": "kvd", "all": null})).unwrap(), []);
}
