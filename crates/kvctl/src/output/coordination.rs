//! Leases, times to live, locks and elections.

use std::{
    io::{self, Write},
    time::Duration,
};

use kvd_client::{Key, Leader, LeaseId, LeaseStatus, Revision};
use serde::Serialize;

use super::{Output, hex};
use crate::{cli::Format, line::text_or_base64};

/// How long a key is there still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// As long as nobody deletes it.
    Forever,
    /// For this long, by its own time to live.
    Own(Duration),
    /// For this long, by that of its lease.
    Lease(LeaseId, Duration),
}

/// Seconds with milliseconds, without zeros at the end.
fn seconds(duration: Duration) -> String {
    let (seconds, millis) = (duration.as_secs(), duration.subsec_millis());
    if millis == 0 {
        return format!("{seconds}s");
    }
    format!("{}s", format!("{seconds}.{millis:03}").trim_end_matches('0'))
}

fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}

#[derive(Default, Serialize)]
struct LeaseJson {
    lease: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_ms: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remaining_ms: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<Vec<KeyJson>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked: Option<bool>,
}

/// A key, and a value if there is one to show.
#[derive(Default, Serialize)]
struct KeyJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remaining_ms: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    forever: Option<bool>,
}

impl KeyJson {
    fn new(key: &[u8]) -> Self {
        let (key, key_base64) = text_or_base64(key);
        Self { key, key_base64, ..Self::default() }
    }

    fn with_value(self, value: &[u8]) -> Self {
        let (value, value_base64) = text_or_base64(value);
        Self { value, value_base64, ..self }
    }
}

impl<W: Write> Output<W> {
    /// A lease that was granted.
    pub(crate) fn lease_granted(&mut self, lease: LeaseId, ttl: Duration) -> io::Result<()> {
        self.lease_fact(lease, ttl, "granted")
    }

    /// A lease that was kept alive.
    pub(crate) fn lease_kept(&mut self, lease: LeaseId, ttl: Duration) -> io::Result<()> {
        self.lease_fact(lease, ttl, "keepalived")
    }

    fn lease_fact(&mut self, lease: LeaseId, ttl: Duration, what: &str) -> io::Result<()> {
        match self.format {
            Format::Json => {
                self.json(&LeaseJson { lease: hex(lease), ttl_ms: Some(millis(ttl)), ..LeaseJson::default() })
            }
            Format::Table => writeln!(self.to, "lease {} {what} with TTL({})", hex(lease), seconds(ttl)),
        }
    }

    /// A lease that was revoked.
    pub(crate) fn lease_revoked(&mut self, lease: LeaseId) -> io::Result<()> {
        match self.format {
            Format::Json => {
                self.json(&LeaseJson { lease: hex(lease), revoked: Some(true), ..LeaseJson::default() })
            }
            Format::Table => writeln!(self.to, "lease {} revoked", hex(lease)),
        }
    }

    /// How long a lease lasts still, and its keys, a line each, if they are to be shown.
    pub(crate) fn lease_status(&mut self, status: &LeaseStatus, keys: Option<&[Key]>) -> io::Result<()> {
        if self.format == Format::Json {
            let keys = keys.map(|keys| keys.iter().map(|key| KeyJson::new(key.as_bytes())).collect());
            return self.json(&LeaseJson { keys, ..lease_json(status) });
        }
        let (id, ttl, remaining) = (hex(status.id), seconds(status.ttl), seconds(status.remaining));
        match keys {
            None => writeln!(self.to, "lease {id} granted with TTL({ttl}), remaining({remaining})"),
            Some(keys) => {
                writeln!(
                    self.to,
                    "lease {id} granted with TTL({ttl}), remaining({remaining}), {} attached {}",
                    keys.len(),
                    if keys.len() == 1 { "key" } else { "keys" }
                )?;
                keys.iter().try_for_each(|key| self.bytes_line(key.as_bytes()))
            }
        }
    }

    /// Begins a list of leases.
    pub(crate) fn leases_begin(&mut self) -> io::Result<()> {
        match self.format {
            Format::Json => Ok(()),
            Format::Table => writeln!(self.to, "{:16}  {:>12}  {:>12}", "LEASE", "TTL", "REMAINING"),
        }
    }

    /// A line of a list of leases, which may be long: columns have a fixed width, so that each can be written as it comes.
    pub(crate) fn lease_row(&mut self, status: &LeaseStatus) -> io::Result<()> {
        match self.format {
            Format::Json => self.json(&lease_json(status)),
            Format::Table => writeln!(
                self.to,
                "{}  {:>12}  {:>12}",
                hex(status.id),
                seconds(status.ttl),
                seconds(status.remaining)
            ),
        }
    }

    /// How long a key is there still. As a line: seconds, or `forever`.
    pub(crate) fn time_left(&mut self, key: &Key, left: Left) -> io::Result<()> {
        if self.format == Format::Table {
            return match left {
                Left::Forever => writeln!(self.to, "forever"),
                Left::Own(left) | Left::Lease(_, left) => writeln!(self.to, "{}", seconds(left)),
            };
        }
        let json = KeyJson::new(key.as_bytes());
        self.json(&match left {
            Left::Forever => KeyJson { forever: Some(true), ..json },
            Left::Own(left) => KeyJson { remaining_ms: Some(millis(left)), ..json },
            Left::Lease(lease, left) => {
                KeyJson { remaining_ms: Some(millis(left)), lease: Some(hex(lease)), ..json }
            }
        })
    }

    /// A lock that is held. As lines: its key and its fencing token.
    pub(crate) fn locked(&mut self, key: &[u8], token: Revision, lease: LeaseId) -> io::Result<()> {
        match self.format {
            Format::Json => self.json(&KeyJson {
                token: Some(token.to_string()),
                lease: Some(hex(lease)),
                ..KeyJson::new(key)
            }),
            Format::Table => {
                self.bytes_line(key)?;
                writeln!(self.to, "{token}")
            }
        }
    }

    /// An election that is won. As lines: the leader's key, value and fencing token.
    pub(crate) fn elected(&mut self, key: &[u8], value: &[u8], token: Revision) -> io::Result<()> {
        match self.format {
            Format::Json => {
                let json = KeyJson::new(key).with_value(value);
                self.json(&KeyJson { token: Some(token.to_string()), ..json })
            }
            Format::Table => {
                self.bytes_line(key)?;
                self.bytes_line(value)?;
                writeln!(self.to, "{token}")
            }
        }
    }

    /// Who leads. As lines: the leader's key and value. Whether anything was written: where nobody leads, people are told on
    /// standard error.
    pub(crate) fn leader(&mut self, leader: Option<&Leader>) -> io::Result<bool> {
        #[derive(Serialize)]
        struct LeaderJson {
            leader: Option<KeyJson>,
        }
        match (self.format, leader) {
            (Format::Json, leader) => {
                let leader = leader.map(|leader| KeyJson {
                    token: Some(leader.token.to_string()),
                    revision: Some(leader.revision.to_string()),
                    ..KeyJson::new(leader.key.as_bytes()).with_value(&leader.value)
                });
                self.json(&LeaderJson { leader })?;
            }
            (Format::Table, Some(leader)) => {
                self.bytes_line(leader.key.as_bytes())?;
                self.bytes_line(&leader.value)?;
            }
            (Format::Table, None) => return Ok(false),
        }
        Ok(true)
    }
}

fn lease_json(status: &LeaseStatus) -> LeaseJson {
    LeaseJson {
        lease: hex(status.id),
        ttl_ms: Some(millis(status.ttl)),
        remaining_ms: Some(millis(status.remaining)),
        ..LeaseJson::default()
    }
}
