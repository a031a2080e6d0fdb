//! What a load has cost: the CPU time of those who serve and of this program, which works on the same cores and is told
//! apart; memory; and what the disk wrote.

use std::{collections::BTreeMap, io, path::Path};

use crate::{
    load::{self, Report},
    usage::{Usage, written_to_disk_of},
};

/// Figures by name, in the units that the name ends with.
pub(crate) type Figures = BTreeMap<&'static str, f64>;

/// Counts what is used from its start on.
pub(crate) struct Meter<'a> {
    /// The processes that serve.
    nodes: &'a [u32],
    data_dir: &'a Path,
    served: Usage,
    generated: Usage,
    written_bytes: Option<u64>,
}

impl<'a> Meter<'a> {
    /// # Errors
    /// If one of the processes has ended.
    pub(crate) fn start(nodes: &'a [u32], data_dir: &'a Path) -> io::Result<Self> {
        let (served, generated) = (Usage::of(nodes)?, Usage::of(&[std::process::id()])?);
        Ok(Self { nodes, data_dir, served, generated, written_bytes: written_to_disk_of(data_dir) })
    }

    /// What a load that was made meanwhile has cost.
    ///
    /// # Errors
    /// If one of the processes has ended.
    #[expect(clippy::cast_precision_loss, reason = "figures for people: 53 bits are enough")]
    pub(crate) fn stop(self, report: &Report) -> io::Result<Figures> {
        let requests = report.times.values().map(|times| times.0.len()).sum::<u64>().max(1);
        let per_million = |used: Usage| used.cpu_seconds / requests as f64 * 1e6;
        let generated = Usage::of(&[std::process::id()])?.since(self.generated);
        let mut figures = Figures::from([("generator_cpu_s_per_million", per_million(generated))]);
        if !self.nodes.is_empty() {
            let served = Usage::of(self.nodes)?.since(self.served);
            let resident_mib = served.resident_bytes as f64 / f64::from(1 << 20);
            figures.insert("cpu_s_per_million", per_million(served));
            figures.insert("resident_mib_per_node", resident_mib / self.nodes.len() as f64);
        }
        let values = report.times.iter().map(|(&kind, times)| times.0.len() * report.load.values_of(kind));
        let values = values.sum::<u64>();
        let written_bytes = written_to_disk_of(self.data_dir).zip(self.written_bytes);
        if let Some((after, before)) = written_bytes.filter(|_| values > 0) {
            let user_bytes = values as f64 * (report.load.value_bytes + load::key(0).len()) as f64;
            figures.insert("disk_bytes_per_user_byte", after.saturating_sub(before) as f64 / user_bytes);
        }
        Ok(figures)
    }
}
