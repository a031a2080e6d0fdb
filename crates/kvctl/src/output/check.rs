//! What a check has found: each figure, what it should be, and the verdict.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use serde::Serialize;

use super::Output;
use crate::cli::{Format, Load};

/// What a cluster should do at least, and what its requests may take at most. Told in the help of `check perf`.
const WRITES_PER_SECOND_MIN: f64 = 500.0;
const READS_PER_SECOND_MIN: f64 = 1000.0;
const P99_MS_MAX: f64 = 250.0;
const SLOWEST_MS_MAX: f64 = 1000.0;

/// What `check perf` has found.
#[derive(Debug)]
pub(crate) struct PerfReport {
    load: Load,
    clients: u64,
    value_bytes: usize,
    pub(crate) puts: Phase,
    pub(crate) gets: Phase,
    /// Requests that failed, by why.
    pub(crate) errors: BTreeMap<String, u64>,
}

/// Requests of one kind.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Phase {
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) slowest_ms: f64,
}

/// One figure.
struct Line {
    what: &'static str,
    measured: String,
    /// What it should be, and whether it is; nothing, where it only informs.
    judged: Option<(String, bool)>,
}

impl PerfReport {
    pub(crate) fn new(load: Load, clients: u64, value_bytes: usize) -> Self {
        let (puts, gets) = (Phase::default(), Phase::default());
        Self { load, clients, value_bytes, puts, gets, errors: BTreeMap::new() }
    }

    /// Whether all is as it should be.
    pub(crate) fn passed(&self) -> bool {
        self.lines().iter().filter_map(|line| line.judged.as_ref()).all(|(_, passed)| *passed)
    }

    fn lines(&self) -> Vec<Line> {
        let rate = |what, measured: f64, least: f64| Line {
            what,
            measured: format!("{measured:.0}/s"),
            judged: Some((format!("at least {least:.0}/s"), measured >= least)),
        };
        let time = |what, measured: f64, most: f64| Line {
            what,
            measured: format!("{measured:.1} ms"),
            judged: Some((format!("at most {most:.0} ms"), measured <= most)),
        };
        let median = |what, measured: f64| Line { what, measured: format!("{measured:.1} ms"), judged: None };
        let errors: u64 = self.errors.values().sum();
        let (puts, gets) = (&self.puts, &self.gets);
        vec![
            rate("writes", puts.per_second, WRITES_PER_SECOND_MIN),
            median("median write", puts.p50_ms),
            time("99% of writes", puts.p99_ms, P99_MS_MAX),
            time("slowest write", puts.slowest_ms, SLOWEST_MS_MAX),
            rate("reads", gets.per_second, READS_PER_SECOND_MIN),
            median("median read", gets.p50_ms),
            time("99% of reads", gets.p99_ms, P99_MS_MAX),
            time("slowest read", gets.slowest_ms, SLOWEST_MS_MAX),
            Line { what: "errors", measured: errors.to_string(), judged: Some(("none".into(), errors == 0)) },
        ]
    }
}

const fn verdict(passed: bool) -> &'static str {
    if passed { "PASS" } else { "FAIL" }
}

impl<W: Write> Output<W> {
    /// What `check perf` has found.
    pub(crate) fn perf(&mut self, report: &PerfReport) -> io::Result<()> {
        #[derive(Serialize)]
        struct PerfJson<'a> {
            load: &'static str,
            clients: String,
            value_bytes: String,
            passed: bool,
            writes: Phase,
            reads: Phase,
            errors: BTreeMap<&'a str, String>,
        }
        if self.format == Format::Json {
            let errors = report.errors.iter().map(|(error, count)| (error.as_str(), count.to_string()));
            return self.json(&PerfJson {
                load: report.load.name(),
                clients: report.clients.to_string(),
                value_bytes: report.value_bytes.to_string(),
                passed: report.passed(),
                writes: report.puts,
                reads: report.gets,
                errors: errors.collect(),
            });
        }
        writeln!(self.to, "{} clients, values of {} bytes\n", report.clients, report.value_bytes)?;
        let row = |line: Line| {
            let (limit, passed) = match line.judged {
                Some((limit, passed)) => (limit, verdict(passed)),
                None => ("-".into(), "-"),
            };
            vec![line.what.to_owned(), line.measured, limit, passed.to_owned()]
        };
        let rows = report.lines().into_iter().map(row).collect();
        self.table((vec!["WHAT", "MEASURED", "SHOULD BE", "VERDICT"], rows))?;
        for (error, count) in &report.errors {
            writeln!(self.to, "{count} x {error}")?;
        }
        writeln!(self.to, "\n{}", verdict(report.passed()))
    }
}
