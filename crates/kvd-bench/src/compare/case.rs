//! What is compared: requests of one kind, of so many clients, and what came of them.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{cli::Workload, clusters::Size, cost::Figures, load::Load, target::Target};

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) workload: Workload,
    /// How many of 100 requests are gets, where they are mixed.
    pub(super) reads_percent: u8,
    pub(super) clients: u32,
    /// One call for each request, in place of the client library's frames.
    pub(super) unary: bool,
}

const fn plan(workload: Workload, reads_percent: u8, clients: u32, unary: bool) -> Plan {
    Plan { workload, reads_percent, clients, unary }
}

/// Everything, in the order of the report.
pub(super) const PLANS: [Plan; 8] = [
    plan(Workload::Put, 0, 1, false),
    plan(Workload::Put, 0, 64, false),
    plan(Workload::Put, 0, 256, false),
    plan(Workload::Get, 100, 256, false),
    plan(Workload::Mixed, 95, 256, false),
    plan(Workload::Mixed, 50, 256, false),
    plan(Workload::Put, 0, 64, true),
    plan(Workload::Get, 100, 64, true),
];

/// Puts and gets of so many clients.
pub(super) fn puts_and_gets(clients: u32) -> [Plan; 2] {
    [plan(Workload::Put, 0, clients, false), plan(Workload::Get, 100, clients, false)]
}

impl Plan {
    /// What it is called in reports.
    pub(super) fn name(self) -> String {
        let load = Load { reads_percent: self.reads_percent, ..Load::of(self.workload) };
        if self.unary { format!("unary {}", load.name()) } else { load.name() }
    }

    /// Which of kvd's ways in is measured.
    pub(super) const fn own(self) -> Target {
        if self.unary { Target::KvdUnary } else { Target::Kvd }
    }

    /// Whether a target takes part.
    pub(super) fn has(self, target: Target) -> bool {
        let kvd = matches!(target, Target::Kvd | Target::KvdUnary);
        // Frames and pipelines of many requests are another way in, for which there are the other plans.
        let other_way_in = if kvd { target != self.own() } else { self.unary && target != Target::Etcd };
        target.serves(self.workload) && !other_way_in
    }
}

/// What is measured of the same clusters.
#[derive(Clone, Debug)]
pub(super) struct Point {
    pub(super) size: Size,
    pub(super) keys: u64,
    pub(super) value_bytes: usize,
    pub(super) plans: Vec<Plan>,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub(super) struct Case {
    pub(super) name: String,
    workload: &'static str,
    pub(super) clients: u32,
    pub(super) keys: u64,
    pub(super) nodes: u16,
    /// Of kvd.
    pub(super) shards: Option<usize>,
    value_bytes: usize,
    pub(super) targets: BTreeMap<&'static str, Figures>,
    /// kvd's figure divided by the peer's.
    pub(super) ratios: BTreeMap<&'static str, Ratio>,
}

/// kvd's figure divided by a peer's.
#[derive(Debug, Serialize)]
pub(super) struct Ratio {
    pub(super) operations: f64,
    pub(super) p50: f64,
    pub(super) p99: f64,
}

impl Case {
    pub(super) fn new(
        plan: Plan,
        point: &Point,
        shards: Option<usize>,
        targets: &BTreeMap<Target, Figures>,
    ) -> Self {
        let ratio = |peer: &Figures| {
            let kvd = targets.get(&plan.own())?;
            let of = |name: &str| Some(kvd.get(name)? / peer.get(name)?);
            let operations = of("operations_per_second")?;
            Some(Ratio { operations, p50: of("p50_ms")?, p99: of("p99_ms")? })
        };
        let peers = targets.iter().filter(|(target, _)| **target != plan.own());
        let ratios = peers.filter_map(|(target, figures)| Some((target.name(), ratio(figures)?))).collect();
        let targets = targets.iter().map(|(target, figures)| (target.name(), figures.clone())).collect();
        Self {
            name: plan.name(),
            workload: plan.workload.name(),
            clients: plan.clients,
            keys: point.keys,
            nodes: point.size.nodes,
            shards,
            value_bytes: point.value_bytes,
            targets,
            ratios,
        }
    }
}

/// The median of each figure.
pub(super) fn medians(samples: &[Figures]) -> Figures {
    let names = samples.first().into_iter().flat_map(BTreeMap::keys);
    let median = |name: &'static str| {
        let mut values: Vec<f64> = samples.iter().filter_map(|sample| sample.get(name).copied()).collect();
        values.sort_by(f64::total_cmp);
        Some((name, *values.get(values.len() / 2)?))
    };
    names.copied().filter_map(median).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_medians_each_by_itself() {
        let sample = |rate, p50| Figures::from([("operations_per_second", rate), ("p50_ms", p50)]);
        let samples = [sample(10.0, 3.0), sample(30.0, 1.0), sample(20.0, 9.0)];
        assert_eq!(medians(&samples), sample(20.0, 3.0));
        assert_eq!(medians(&[]), Figures::new());
    }

    #[test]
    fn ratios_are_kvds_figure_by_the_peers() {
        let figures =
            |rate, ms| Figures::from([("operations_per_second", rate), ("p50_ms", ms), ("p99_ms", 2.0 * ms)]);
        for (unary, own) in [(false, Target::Kvd), (true, Target::KvdUnary)] {
            let targets = BTreeMap::from([(own, figures(100.0, 1.0)), (Target::Etcd, figures(10.0, 4.0))]);
            let plans = vec![plan(Workload::Put, 0, 64, unary)];
            let size = Size { nodes: 3, shards: None };
            let point = Point { size, keys: 7, value_bytes: 8, plans };
            let case = Case::new(point.plans[0], &point, None, &targets);
            let Ratio { operations, p50, p99 } = case.ratios["etcd"];
            assert_eq!((operations, p50, p99), (10.0, 0.25, 0.25));
            assert_eq!(case.ratios.len(), 1);
        }
    }

    #[test]
    fn kvd_comes_by_the_way_in_that_is_measured() {
        for plan in PLANS {
            assert!(plan.has(plan.own()) && plan.has(Target::Etcd), "{}", plan.name());
            assert_ne!(plan.has(Target::Kvd), plan.has(Target::KvdUnary), "{}", plan.name());
            assert_eq!(plan.has(Target::Echo), !plan.unary, "{}", plan.name());
        }
        let names: Vec<_> = PLANS.into_iter().map(Plan::name).collect();
        assert_eq!(names[4..], ["mixed 95/5", "mixed 50/50", "unary put", "unary get"]);
    }
}
