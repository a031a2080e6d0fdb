//! How results look: as tables or plain lines for people, as JSON for programs.
//!
//! JSON follows the mapping of proto3: 64-bit numbers are strings. Keys and values are text where they are UTF-8, and
//! otherwise stand in base64 under `key_base64` and `value_base64`, as in the REST interface. Leases are in hexadecimal, as
//! the command line takes them. One result is one line.

use std::io::{self, Write};

use bytes::Bytes;
use comfy_table::{Table, presets};
use kvd_client::{
    Conditional, DeleteResult, Key, LeaseId, Location, Node, NodeId, PutResult, Record, Shard, ShardId,
    Topology,
};
use serde::Serialize;

use crate::{
    cli::Format,
    line::{Line, text_or_base64},
};

mod check;
mod cluster;
mod coordination;
mod range;
mod txn;
mod watch;

pub(crate) use check::{PerfReport, Phase};
pub(crate) use cluster::NodeReport;
use cluster::{NodeJson, ShardJson, StatusJson};
pub(crate) use coordination::Left;
pub(crate) use range::Shown;

/// A lease's id as the command line has it.
pub(crate) fn hex(lease: LeaseId) -> String {
    format!("{:016x}", lease.get())
}

/// Where results go.
pub(crate) struct Output<W> {
    to: W,
    format: Format,
}

/// A version of a key.
#[derive(Default, Serialize)]
struct Row {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    revision: String,
    create_revision: String,
    version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease: Option<String>,
}

impl Row {
    fn new(key: Option<&Key>, record: &Record) -> Self {
        let (key, key_base64) = key.map_or((None, None), |key| text_or_base64(key.as_bytes()));
        let (value, value_base64) = text_or_base64(&record.value);
        Self {
            key,
            key_base64,
            value,
            value_base64,
            revision: record.revision.to_string(),
            create_revision: record.create_revision.to_string(),
            version: record.version.to_string(),
            lease: record.lease.map(hex),
        }
    }

    /// Without the value, which was not asked for.
    fn without_value(record: &Record) -> Self {
        Self { value: None, value_base64: None, ..Self::new(None, record) }
    }

    /// The key without the value.
    fn of_key(key: &Key, record: &Record) -> Self {
        Self { value: None, value_base64: None, ..Self::new(Some(key), record) }
    }
}

#[derive(Default, Serialize)]
struct Written {
    succeeded: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    create_revision: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<Row>,
    #[serde(skip_serializing_if = "Option::is_none")]
    current: Option<Row>,
}

impl<W: Write> Output<W> {
    pub(crate) const fn new(to: W, format: Format) -> Self {
        Self { to, format }
    }

    /// What a put came to. As a line: `OK`, then the previous value if there is one to show.
    pub(crate) fn put(&mut self, result: &Conditional<PutResult>, with_values: bool) -> io::Result<()> {
        match (self.format, result) {
            (Format::Json, Conditional::Done(put)) => self.json(&Written {
                succeeded: true,
                revision: Some(put.revision.to_string()),
                create_revision: Some(put.create_revision.to_string()),
                version: Some(put.version.to_string()),
                previous: put.previous.as_ref().map(|previous| Row::new(None, previous)),
                ..Written::default()
            }),
            (Format::Table, Conditional::Done(put)) => {
                writeln!(self.to, "OK")?;
                self.previous(put.previous.as_ref())
            }
            (_, Conditional::Failed { current }) => self.condition_failed(current.as_ref(), with_values),
        }
    }

    /// What a delete came to. As lines: how many keys were removed, then the previous value if there is one to show.
    pub(crate) fn deleted(
        &mut self,
        result: &Conditional<DeleteResult>,
        with_values: bool,
    ) -> io::Result<()> {
        match (self.format, result) {
            (Format::Json, Conditional::Done(deleted)) => self.json(&Written {
                succeeded: true,
                deleted: Some(deleted.deleted()),
                revision: deleted.revision.map(|revision| revision.to_string()),
                previous: deleted.previous.as_ref().map(|previous| Row::new(None, previous)),
                ..Written::default()
            }),
            (Format::Table, Conditional::Done(deleted)) => {
                writeln!(self.to, "{}", u8::from(deleted.deleted()))?;
                self.previous(deleted.previous.as_ref())
            }
            (_, Conditional::Failed { current }) => self.condition_failed(current.as_ref(), with_values),
        }
    }

    fn previous(&mut self, previous: Option<&Record>) -> io::Result<()> {
        match previous {
            Some(previous) => self.bytes_line(&previous.value),
            None => Ok(()),
        }
    }

    /// People are told on standard error.
    fn condition_failed(&mut self, current: Option<&Record>, with_values: bool) -> io::Result<()> {
        if self.format == Format::Table {
            return Ok(());
        }
        let row = |record| if with_values { Row::new(None, record) } else { Row::without_value(record) };
        self.json(&Written { current: current.map(row), ..Written::default() })
    }

    /// A row of an export.
    pub(crate) fn exported(&mut self, key: &Key, value: &Bytes) -> io::Result<()> {
        self.json(&Line::new(key, value))
    }

    /// How many lines an import wrote. People are told on standard error.
    pub(crate) fn imported(&mut self, lines: u64) -> io::Result<()> {
        #[derive(Serialize)]
        struct Imported {
            imported: String,
        }
        match self.format {
            Format::Json => self.json(&Imported { imported: lines.to_string() }),
            Format::Table => Ok(()),
        }
    }

    /// The whole cluster.
    pub(crate) fn status(&mut self, topology: &Topology, nodes: &[NodeReport]) -> io::Result<()> {
        if self.format == Format::Json {
            return self.json(&StatusJson::new(topology, nodes));
        }
        let ring_epoch = topology.ring.as_ref().map_or(0, |ring| ring.epoch.get());
        writeln!(
            self.to,
            "cluster {}, epoch {}, ring epoch {ring_epoch}, {} replicas per shard\n",
            topology.cluster_id, topology.epoch, topology.replication_factor
        )?;
        self.table(cluster::status_nodes(topology, nodes))?;
        writeln!(self.to)?;
        self.table(cluster::shards(&topology.shards))
    }

    /// The shards.
    pub(crate) fn shards(&mut self, shards: &[Shard]) -> io::Result<()> {
        match self.format {
            Format::Json => self.json(&shards.iter().map(ShardJson::new).collect::<Vec<_>>()),
            Format::Table => self.table(cluster::shards(shards)),
        }
    }

    /// The nodes.
    pub(crate) fn nodes(&mut self, nodes: &[Node]) -> io::Result<()> {
        match self.format {
            Format::Json => self.json(&nodes.iter().map(NodeJson::new).collect::<Vec<_>>()),
            Format::Table => self.table(cluster::nodes(nodes)),
        }
    }

    /// Where a key lives.
    pub(crate) fn location(&mut self, location: &Location) -> io::Result<()> {
        #[derive(Serialize)]
        struct LocationJson<'a> {
            hash: String,
            shard: ShardJson<'a>,
        }
        let hash = format!("{:016x}", location.hash);
        match self.format {
            Format::Json => self.json(&LocationJson { hash, shard: ShardJson::new(&location.shard) }),
            Format::Table => {
                writeln!(self.to, "hash {hash}\n")?;
                self.table(cluster::shards(std::slice::from_ref(&location.shard)))
            }
        }
    }

    /// Who leads a shard now.
    pub(crate) fn moved(&mut self, shard: ShardId, leader: NodeId) -> io::Result<()> {
        #[derive(Serialize)]
        struct Moved {
            shard: u32,
            leader: String,
        }
        match self.format {
            Format::Json => self.json(&Moved { shard: shard.get(), leader: leader.to_string() }),
            Format::Table => writeln!(self.to, "shard {shard} is led by node {leader}"),
        }
    }

    /// The version of this program.
    pub(crate) fn version(&mut self) -> io::Result<()> {
        #[derive(Serialize)]
        struct Version {
            version: &'static str,
        }
        let version = env!("CARGO_PKG_VERSION");
        match self.format {
            Format::Json => self.json(&Version { version }),
            Format::Table => writeln!(self.to, "kvctl {version}"),
        }
    }

    /// What is still on its way.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }

    fn bytes_line(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.to.write_all(bytes)?;
        self.to.write_all(b"\n")
    }

    fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.to, value).map_err(io::Error::from)?;
        self.to.write_all(b"\n")
    }

    fn table(&mut self, (header, rows): cluster::Cells) -> io::Result<()> {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(header).add_rows(rows);
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        writeln!(self.to, "{}", table.trim_fmt())
    }
}

#[cfg(test)]
mod tests;
