//! `plot`: the figures of runs and comparisons as an SVG.
//!
//! Any number of JSON files, each of one `run` or `compare`, give points: what one target did with one workload. Points of the
//! same workload and other numbers of clients, or rates, become a curve of latency against throughput; points of other numbers
//! of keys, shards or nodes become a curve of what a million requests cost. What there is only one point of is left out.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, ensure};

use crate::cli;

mod draw;
mod point;

use draw::Panel;
use point::{Point, points};

/// Reads the files, and draws what is in them.
pub(crate) fn run(arguments: &cli::Plot) -> anyhow::Result<String> {
    let mut found = Vec::new();
    for path in &arguments.files {
        found.extend(read(path).with_context(|| path.display().to_string())?);
    }
    let panels = panels(&found);
    ensure!(
        !panels.is_empty(),
        "there is nothing to draw: it takes two runs that differ in clients, rate, keys, shards or nodes alone, as \
         `kvd-bench compare --sweep clients --output json` makes them"
    );
    draw::draw(&panels)
}

fn read(path: &Path) -> anyhow::Result<Vec<Point>> {
    let json = serde_json::from_slice(&fs::read(path)?).context("not the JSON of one run or comparison")?;
    points(&json)
}

/// What a number of points may differ in, and how it is called.
type Axis = (&'static str, fn(&Point) -> Option<f64>);

const AXES: [Axis; 3] =
    [("keys", |point| point.keys), ("shards", |point| point.shards), ("nodes", |point| point.nodes)];

/// Everything that there are two points of.
fn panels(points: &[Point]) -> Vec<Panel> {
    let throughput = of_each(points, |point| point.name.clone()).into_iter().map(|(name, points)| {
        let mut panel = Panel::latencies(format!("{name}: latency by throughput"));
        for (target, points) in of_each(&points, |point| point.target.clone()) {
            // Keys, shards and nodes of one curve are the same, or its points would not be of one system.
            let systems = of_each(&points, Point::system);
            let several = systems.len() > 1;
            for (system, mut points) in systems {
                points.sort_by(|one, other| one.load.total_cmp(&other.load));
                let rates = |figure: fn(&Point) -> f64| {
                    points.iter().map(|point| (point.rate, figure(point))).collect::<Vec<_>>()
                };
                let label = if several { format!("{target} ({system})") } else { target.clone() };
                panel.add(format!("{label} p50"), label.clone(), rates(|point| point.p50_ms), false);
                panel.add(format!("{label} p99"), label, rates(|point| point.p99_ms), true);
            }
        }
        panel
    });
    let cost = AXES.into_iter().map(|(axis, place)| {
        let mut panel = Panel::costs(format!("cost by {axis}"), axis);
        let label = |point: &Point| format!("{} {}", point.target, point.name);
        for (label, points) in of_each(points, label) {
            for (_, points) in of_each(&points, |point| point.but_for(axis)) {
                let cost = |point: &Point| Some((place(point)?, point.cpu_s_per_million?));
                let mut costs: Vec<_> = points.iter().filter_map(cost).collect();
                costs.sort_by(|one, other| one.0.total_cmp(&other.0));
                costs.dedup_by(|one, other| one.0 == other.0);
                panel.add(label.clone(), label.clone(), costs, false);
            }
        }
        panel
    });
    throughput.chain(cost).filter(|panel| !panel.is_empty()).collect()
}

fn of_each(points: &[Point], by: impl Fn(&Point) -> String) -> BTreeMap<String, Vec<Point>> {
    let mut of_each: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for point in points {
        of_each.entry(by(point)).or_default().push(point.clone());
    }
    of_each
}

#[cfg(test)]
mod tests;
