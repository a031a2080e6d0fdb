//! What one target did with one load, out of the JSON of a run or a comparison.

use anyhow::Context as _;
use serde_json::Value;

/// What one target did with one load.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Point {
    pub(super) target: String,
    /// Of the workload.
    pub(super) name: String,
    /// How much was asked of it: clients, or requests that were due each second.
    pub(super) load: f64,
    pub(super) keys: Option<f64>,
    pub(super) shards: Option<f64>,
    pub(super) nodes: Option<f64>,
    /// Requests that were answered each second.
    pub(super) rate: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    /// CPU seconds of all nodes.
    pub(super) cpu_s_per_million: Option<f64>,
    /// What else the load was.
    rest: String,
}

impl Point {
    /// What the target is beside its name: all that the points of one curve of latencies have in common.
    pub(super) fn system(&self) -> String {
        let parts = [("keys", self.keys), ("shards", self.shards), ("nodes", self.nodes)];
        let parts = parts.into_iter().filter_map(|(name, count)| Some(format!("{} {name}", count?)));
        parts.collect::<Vec<_>>().join(", ")
    }

    /// All that the points of one curve over an axis have in common.
    pub(super) fn but_for(&self, axis: &str) -> String {
        let parts = [("keys", self.keys), ("shards", self.shards), ("nodes", self.nodes)];
        let parts: Vec<_> = parts.into_iter().filter(|(name, _)| *name != axis).collect();
        format!("{parts:?} {} {}", self.load, self.rest)
    }
}

/// The points of a run, or of a comparison.
///
/// # Errors
/// It is the JSON of something else.
pub(super) fn points(json: &Value) -> anyhow::Result<Vec<Point>> {
    const WHAT: &str = "this is the JSON of neither `run` nor `compare`";
    let Some(cases) = json.get("cases") else {
        let target = json.get("target").and_then(Value::as_str).context(WHAT)?;
        // A run in which nothing was answered has no figures, and is no point.
        return Ok(json
            .get("all")
            .and_then(|figures| point(target, json, figures, json))
            .into_iter()
            .collect());
    };
    let mut found = Vec::new();
    for case in cases.as_array().context(WHAT)? {
        for (target, figures) in case.get("targets").and_then(Value::as_object).context(WHAT)? {
            found.extend(point(target, case, figures, figures));
        }
    }
    Ok(found)
}

/// A point whose load, figures and cost stand here. None, if any of what it can't do without is missing.
fn point(target: &str, load: &Value, figures: &Value, cost: &Value) -> Option<Point> {
    let number = |object: &Value, name: &str| object.get(name).and_then(Value::as_f64);
    let rest = ["value_bytes", "choice", "consistency"].map(|name| load.get(name).map(Value::to_string));
    Some(Point {
        target: target.to_owned(),
        name: load.get("name")?.as_str()?.to_owned(),
        load: number(load, "clients").or(number(load, "rate"))?,
        keys: number(load, "keys"),
        shards: number(load, "shards"),
        nodes: number(load, "nodes"),
        rate: number(figures, "operations_per_second")?,
        p50_ms: number(figures, "p50_ms")?,
        p99_ms: number(figures, "p99_ms")?,
        cpu_s_per_million: number(cost, "cpu_s_per_million"),
        rest: format!("{rest:?}"),
    })
}
