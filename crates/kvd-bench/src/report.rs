//! The figures, as a table or JSON.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    time::Duration,
};

use serde::Serialize;

use crate::{
    cli::{Format, Workload},
    expiry,
    gap::{self, Track},
    load::{self, Times},
    machine::Machine,
    scan, watch,
};

/// The figures of requests of one kind. Times are in milliseconds.
#[derive(Serialize)]
struct Figures {
    operations: u64,
    operations_per_second: f64,
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    max_ms: f64,
}

#[derive(Serialize)]
struct LoadJson<'a> {
    machine: Machine,
    target: &'static str,
    name: String,
    workload: &'static str,
    reads_percent: Option<u8>,
    /// In a closed loop.
    clients: Option<u32>,
    /// In an open loop.
    rate: Option<u32>,
    outstanding_max: Option<u32>,
    keys: u64,
    nodes: Option<usize>,
    shards: Option<usize>,
    choice: &'static str,
    consistency: &'static str,
    value_bytes: usize,
    seconds: f64,
    #[serde(flatten)]
    kinds: BTreeMap<&'static str, Figures>,
    /// Requests of all kinds.
    all: Option<Figures>,
    #[serde(flatten)]
    cost: &'a BTreeMap<&'static str, f64>,
    /// Rows or keys that requests of more than one were answered with.
    rows_per_second: Option<f64>,
    /// Requests that the target has refused because it had too much to do.
    overloaded: u64,
    /// Requests that were due in an open loop, and not made because too many were under way.
    refused_by_generator: u64,
    errors: &'a BTreeMap<String, u64>,
}

#[derive(Serialize)]
struct GapJson<'a> {
    seconds: f64,
    overall: TrackJson,
    shards: BTreeMap<u32, TrackJson>,
    errors: &'a BTreeMap<String, u64>,
}

#[derive(Serialize)]
struct TrackJson {
    writes: u64,
    longest_gap_ms: f64,
    longest_gap_began_s: f64,
}

impl Figures {
    fn new(times: &Times, elapsed: Duration) -> Option<Self> {
        let operations = times.0.len();
        if operations == 0 {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "figures for people: 53 bits are enough")]
        let (ms, rate) = (|micros: u64| micros as f64 / 1000.0, operations as f64 / elapsed.as_secs_f64());
        Some(Self {
            operations,
            operations_per_second: rate,
            p50_ms: ms(times.0.value_at_quantile(0.5)),
            p90_ms: ms(times.0.value_at_quantile(0.9)),
            p99_ms: ms(times.0.value_at_quantile(0.99)),
            p999_ms: ms(times.0.value_at_quantile(0.999)),
            max_ms: ms(times.0.max()),
        })
    }
}

/// The figures of a run.
pub(crate) fn load(out: &mut impl Write, format: Format, run: &load::RunReport) -> anyhow::Result<()> {
    let load::RunReport { target, report, cost, topology } = run;
    let open = report.load.open;
    let kinds = report.times.iter();
    let kinds = kinds.filter_map(|(kind, times)| Some((kind.name(), Figures::new(times, report.elapsed)?)));
    let mixed = matches!(report.load.workload, Workload::Mixed | Workload::Batch);
    #[expect(clippy::cast_precision_loss, reason = "figures for people: 53 bits are enough")]
    let json = LoadJson {
        machine: Machine::here()?,
        target: target.name(),
        name: report.load.name(),
        workload: report.load.workload.name(),
        reads_percent: mixed.then_some(report.load.reads_percent),
        clients: open.is_none().then_some(report.load.clients),
        rate: open.map(|open| open.rate),
        outstanding_max: open.map(|open| open.outstanding_max),
        keys: report.load.keys,
        nodes: topology.map(|size| size.nodes),
        shards: topology.map(|size| size.shards),
        choice: report.load.choice.name(),
        consistency: report.load.reads.level.name(),
        value_bytes: report.load.value_bytes,
        seconds: report.elapsed.as_secs_f64(),
        kinds: kinds.collect(),
        all: Figures::new(&report.all()?, report.elapsed),
        cost,
        rows_per_second: (report.rows > 0).then_some(report.rows as f64 / report.elapsed.as_secs_f64()),
        overloaded: report.overloaded,
        refused_by_generator: report.refused,
        errors: &report.errors,
    };
    if format == Format::Json {
        return Ok(write_json(out, &json)?);
    }
    Ok(load_table(out, &json)?)
}

fn load_table(out: &mut impl Write, json: &LoadJson<'_>) -> io::Result<()> {
    let Machine { cores, processor, kernel } = &json.machine;
    writeln!(out, "{cores} cores of {processor}, Linux {kernel}")?;
    let makers = match (json.clients, json.rate) {
        (_, Some(rate)) => format!("{rate} requests due each second"),
        (clients, None) => format!("{} clients", clients.unwrap_or_default()),
    };
    writeln!(
        out,
        "{}: {makers}, values of {} bytes, {:.1} s\n",
        json.target, json.value_bytes, json.seconds
    )?;
    head(out)?;
    for (name, it) in &json.kinds {
        figures(out, name, it)?;
    }
    if let Some(all) = json.all.as_ref().filter(|_| json.kinds.len() > 1) {
        figures(out, "all", all)?;
    }
    writeln!(out)?;
    if let Some(rows) = json.rows_per_second {
        writeln!(out, "{rows:>10.0}  rows per second")?;
    }
    for (name, value) in json.cost {
        writeln!(out, "{value:>10.1}  {}", name.replace('_', " "))?;
    }
    if json.overloaded > 0 {
        writeln!(out, "{:>10}  refused by the target: it had too much to do", json.overloaded)?;
    }
    if json.refused_by_generator > 0 {
        let refused = json.refused_by_generator;
        writeln!(out, "{refused:>10}  refused by the generator: too many under way, see --outstanding")?;
    }
    errors(out, json.errors)
}

fn head(out: &mut impl Write) -> io::Result<()> {
    let columns = ["op", "count", "ops/s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms"];
    row(out, &columns.map(str::to_owned))
}

fn figures(out: &mut impl Write, name: &str, it: &Figures) -> io::Result<()> {
    let times = [it.p50_ms, it.p90_ms, it.p99_ms, it.p999_ms, it.max_ms].map(|ms| format!("{ms:.2}"));
    let counts = [name.to_owned(), it.operations.to_string(), format!("{:.0}", it.operations_per_second)];
    row(out, &[&counts[..], &times].concat())
}

#[derive(Serialize)]
struct ScanJson {
    rows: u64,
    value_bytes: u64,
    seconds: f64,
    rows_per_second: f64,
    first_row_ms: f64,
}

/// The figures of scans, one after the other.
pub(crate) fn scans(out: &mut impl Write, format: Format, rounds: &[scan::Round]) -> io::Result<()> {
    #[expect(clippy::cast_precision_loss, reason = "figures for people: 53 bits are enough")]
    let figures = rounds.iter().map(|round| ScanJson {
        rows: round.rows,
        value_bytes: round.value_bytes,
        seconds: round.elapsed.as_secs_f64(),
        rows_per_second: round.rows as f64 / round.elapsed.as_secs_f64(),
        first_row_ms: round.first_row.as_secs_f64() * 1000.0,
    });
    if format == Format::Json {
        return write_json(out, &figures.collect::<Vec<_>>());
    }
    row(out, &["rows", "bytes", "s", "rows/s", "first ms"].map(str::to_owned))?;
    for it in figures {
        let numbers = [it.seconds, it.rows_per_second, it.first_row_ms].map(|number| format!("{number:.1}"));
        row(out, &[&[it.rows.to_string(), it.value_bytes.to_string()][..], &numbers].concat())?;
    }
    Ok(())
}

#[derive(Serialize)]
struct WatchJson<'a> {
    watchers: u32,
    clients: u32,
    value_bytes: usize,
    seconds: f64,
    put: Option<Figures>,
    /// From the call of the put to a watcher's being told.
    told: Option<Figures>,
    /// Changes that a watcher has not been told of when the writers had ended for ten seconds.
    missing: u64,
    errors: &'a BTreeMap<String, u64>,
}

/// The figures of watchers.
pub(crate) fn watches(out: &mut impl Write, format: Format, report: &watch::Report) -> io::Result<()> {
    let json = WatchJson {
        watchers: report.watchers,
        clients: report.clients,
        value_bytes: report.value_bytes,
        seconds: report.elapsed.as_secs_f64(),
        put: Figures::new(&report.puts, report.written),
        told: Figures::new(&report.told, report.elapsed),
        missing: report.missing,
        errors: &report.errors,
    };
    if format == Format::Json {
        return write_json(out, &json);
    }
    writeln!(
        out,
        "{} watchers, {} clients, values of {} bytes, {:.1} s, {} changes not told\n",
        json.watchers, json.clients, json.value_bytes, json.seconds, json.missing
    )?;
    head(out)?;
    for (name, it) in [("put", &json.put), ("told", &json.told)] {
        if let Some(it) = it {
            figures(out, name, it)?;
        }
    }
    errors(out, json.errors)
}

#[derive(Serialize)]
struct ExpiryJson<'a> {
    keys: u64,
    clients: u32,
    value_bytes: usize,
    /// From when the keys' time was up, or nothing kept their lease alive any more, until a key was gone.
    until_first_ms: f64,
    /// From then on until none was left.
    until_none_ms: f64,
    keys_per_second: f64,
    put_before: Option<Figures>,
    put_during: Option<Figures>,
    errors: &'a BTreeMap<String, u64>,
}

/// The figures of keys that expire.
pub(crate) fn expiries(out: &mut impl Write, format: Format, report: &expiry::Report) -> io::Result<()> {
    #[expect(clippy::cast_precision_loss, reason = "figures for people: 53 bits are enough")]
    let json = ExpiryJson {
        keys: report.keys,
        clients: report.clients,
        value_bytes: report.value_bytes,
        until_first_ms: report.until_first.as_secs_f64() * 1000.0,
        until_none_ms: report.until_none.as_secs_f64() * 1000.0,
        keys_per_second: report.keys as f64 / report.until_none.as_secs_f64().max(f64::EPSILON),
        put_before: Figures::new(&report.before.times, report.before.elapsed),
        put_during: Figures::new(&report.during.times, report.during.elapsed),
        errors: &report.errors,
    };
    if format == Format::Json {
        return write_json(out, &json);
    }
    writeln!(
        out,
        "{} keys: the first gone after {:.1} s, all of them {:.1} s later, {:.0} keys/s\n",
        json.keys,
        json.until_first_ms / 1000.0,
        json.until_none_ms / 1000.0,
        json.keys_per_second
    )?;
    head(out)?;
    for (name, it) in [("before", &json.put_before), ("during", &json.put_during)] {
        if let Some(it) = it {
            figures(out, name, it)?;
        }
    }
    errors(out, json.errors)
}

/// The figures of a gap run.
pub(crate) fn gaps(out: &mut impl Write, format: Format, report: &gap::Report) -> io::Result<()> {
    let track = |track: &Track| TrackJson {
        writes: track.writes,
        longest_gap_ms: track.longest.as_secs_f64() * 1000.0,
        longest_gap_began_s: track.longest_began.as_secs_f64(),
    };
    let json = GapJson {
        seconds: report.elapsed.as_secs_f64(),
        overall: track(&report.overall),
        shards: report.shards.iter().map(|(shard, it)| (shard.get(), track(it))).collect(),
        errors: &report.errors,
    };
    if format == Format::Json {
        return write_json(out, &json);
    }
    row(out, &["shard", "writes", "gap ms", "began s"].map(str::to_owned))?;
    let mut line = |name: String, track: &TrackJson| {
        let gap = format!("{:.1}", track.longest_gap_ms);
        row(out, &[name, track.writes.to_string(), gap, format!("{:.2}", track.longest_gap_began_s)])
    };
    for (shard, track) in &json.shards {
        line(shard.to_string(), track)?;
    }
    line("all".to_owned(), &json.overall)?;
    errors(out, json.errors)
}

fn errors(out: &mut impl Write, errors: &BTreeMap<String, u64>) -> io::Result<()> {
    if errors.is_empty() {
        return writeln!(out, "\nno errors");
    }
    writeln!(out, "\nerrors:")?;
    errors.iter().try_for_each(|(error, count)| writeln!(out, "{count:>10}  {error}"))
}

pub(crate) fn row(out: &mut impl Write, cells: &[String]) -> io::Result<()> {
    let cells: Vec<String> = cells.iter().map(|cell| format!("{cell:>10}")).collect();
    writeln!(out, "{}", cells.join(" "))
}

pub(crate) fn write_json(out: &mut impl Write, json: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, json).map_err(io::Error::from)?;
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Target;

    #[test]
    fn a_run() {
        let mut puts = Times::new().unwrap();
        for micros in [1000, 2000, 3000, 4000] {
            puts.0.record(micros).unwrap();
        }
        let report = load::Report {
            load: load::Load { clients: 2, ..load::Load::of(Workload::Put) },
            elapsed: Duration::from_secs(2),
            times: BTreeMap::from([(load::Kind::Put, puts)]),
            errors: [("Unavailable".to_owned(), 3)].into(),
            rows: 14,
            overloaded: 5,
            refused: 6,
        };
        let cost = [("cpu_s_per_million", 7.25)].into();
        let report = load::RunReport { target: Target::Kvd, report, cost, topology: None };
        let mut table = Vec::new();
        load(&mut table, Format::Table, &report).unwrap();
        let table = String::from_utf8(table).unwrap();
        let (machine, figures) = table.split_once('\n').unwrap();
        assert!(machine.contains("cores of"), "{machine}");
        assert_eq!(
            figures,
            "\
kvd: 2 clients, values of 128 bytes, 2.0 s

        op      count      ops/s     p50 ms     p90 ms     p99 ms   p99.9 ms     max ms
       put          4          2       2.00       4.00       4.00       4.00       4.00

         7  rows per second
       7.2  cpu s per million
         5  refused by the target: it had too much to do
         6  refused by the generator: too many under way, see --outstanding

errors:
         3  Unavailable
"
        );
        let mut json = Vec::new();
        load(&mut json, Format::Json, &report).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!((&json["put"]["operations"], &json["get"]), (&4.into(), &serde_json::Value::Null));
        assert_eq!((&json["all"]["operations"], &json["cpu_s_per_million"]), (&4.into(), &7.25.into()));
    }
}
