//! A comparison as a table or JSON.

use std::io::{self, Write};

use super::{
    Comparison,
    case::{Case, Ratio},
    trials::Trial,
};
use crate::{
    cli::Format,
    report::{row, write_json},
};

/// The columns of the table: how they are called, the figures, and how many decimals they have.
const COLUMNS: [(&str, &str, usize); 10] = [
    ("ops/s", "operations_per_second", 0),
    ("p50 ms", "p50_ms", 2),
    ("p90 ms", "p90_ms", 2),
    ("p99 ms", "p99_ms", 2),
    ("p99.9 ms", "p999_ms", 2),
    ("max ms", "max_ms", 1),
    ("cpu s/M", "cpu_s_per_million", 1),
    ("gen s/M", "generator_cpu_s_per_million", 1),
    ("disk x", "disk_bytes_per_user_byte", 1),
    ("MiB", "resident_mib_per_node", 0),
];

/// What the figures are, and what the targets are.
const LEGEND: &str = "\
cpu s/M: CPU seconds of all nodes for a million requests; gen: of this program; disk x: bytes that the disk wrote for each of
the user's; MiB: of a node. kvd and etcd are whole clusters; redis is a single instance without replicas (appendonly yes,
appendfsync always). echo and log are limits: kvd's frames answered by nobody, and appends to one file that is synced; both with
as many clients. unary: one call for each request, kvd's to any node, etcd's to its leader.";

/// Shows the figures.
pub(crate) fn show(out: &mut impl Write, format: Format, comparison: &Comparison) -> io::Result<()> {
    if format == Format::Json {
        return write_json(out, comparison);
    }
    let Comparison { machine, versions, value_bytes, rounds, seconds, cases, trials, errors, .. } =
        comparison;
    writeln!(
        out,
        "{} cores of {}, Linux {}; values of {value_bytes} bytes; medians of {rounds} rounds of {seconds} s",
        machine.cores, machine.processor, machine.kernel
    )?;
    versions.iter().try_for_each(|(peer, version)| writeln!(out, "{peer}: {version}"))?;
    writeln!(out, "{LEGEND}")?;
    cases.iter().try_for_each(|case| show_case(out, case))?;
    trials.iter().try_for_each(|trial| show_trial(out, trial))?;
    errors.iter().try_for_each(|(failure, count)| writeln!(out, "\n{count} x {failure}"))
}

fn show_trial(out: &mut impl Write, Trial { name, figures, skipped }: &Trial) -> io::Result<()> {
    writeln!(out, "\nkvd alone, {name}")?;
    if let Some(why) = skipped {
        writeln!(out, "not tried: {why}")?;
    }
    figures.iter().try_for_each(|(figure, value)| writeln!(out, "{value:>10.2} {}", figure.replace('_', " ")))
}

fn show_case(out: &mut impl Write, case: &Case) -> io::Result<()> {
    let Case { name, clients, keys, nodes, targets, ratios, .. } = case;
    let shards = case.shards.map_or_else(String::new, |shards| format!(", {shards} shards"));
    writeln!(out, "\n{name}: {clients} clients, {keys} keys, {nodes} nodes{shards}")?;
    let head = ["target"].into_iter().chain(COLUMNS.map(|(title, _, _)| title));
    row(out, &head.map(str::to_owned).collect::<Vec<_>>())?;
    for (target, figures) in targets {
        let cell = |(_, name, decimals): (&str, &str, usize)| {
            figures.get(name).map_or_else(|| "-".to_owned(), |value| format!("{value:.decimals$}"))
        };
        let cells: Vec<String> = [(*target).to_owned()].into_iter().chain(COLUMNS.map(cell)).collect();
        row(out, &cells)?;
    }
    for (peer, Ratio { operations, p50, p99 }) in ratios {
        writeln!(out, "kvd / {peer}: {operations:.2} x the requests, p50 {p50:.2} x, p99 {p99:.2} x")?;
    }
    Ok(())
}
