//! Whose disk this is.
//!
//! # The problem
//! A node's votes and acknowledged entries are on its disk. Should the disk be swapped for an empty one, for a copy or for
//! another cluster's, a node that came back under its old id would break promises that it has forgotten.
//!
//! # The approach
//! The file `IDENTITY` in the data directory says which cluster and node the directory belongs to, and how often it has
//! been started. It is written before the log has its first entry, so the one without the other tells of a loss, and
//! [`Identity::load`] refuses. It is replaced as a whole: temporary name, sync, rename, sync of the directory. [`DirLock`]
//! keeps two processes apart.
//!
//! # The format, version 1
//! Lines of text, so that a person can read it; all of them, in this order:
//!
//! ```text
//! format=1
//! cluster=00000000000000000000000000000000
//! node=0
//! meta_replica=0
//! join_nonce=00000000000000000000000000000000
//! incarnation=0
//! boot_id=
//! clean_stop=false
//! crc32=00000000
//! ```
//!
//! The numbers of 32 digits are hexadecimal, as is the CRC-32 of all that is before its line. Node 0 is a node that has
//! not joined yet; its cluster and meta replica are 0 too.
//!
//! # Invariants
//! - The log's directory is made before the first `IDENTITY`, and stays empty until after it: whatever is in it belongs to
//!   an identity.
//! - A node opens its log before it joins: a directory of a node that has joined never has an empty log.
//!
//! # What is deliberately absent
//! Whether the cluster still knows the node, and whether this is the newest copy of its disk: the meta group decides that
//! by incarnation. No randomness, no clock, no `/proc`: the caller brings nonce and boot id.

use std::{
    fmt::{Display, Write as _},
    io,
    path::Path,
    str::FromStr,
};

use kvd_types::{ClusterId, Incarnation, NodeId, ReplicaId};

use crate::{
    disk::Disk,
    error::{Error, Result},
    files,
};

mod lock;

#[cfg(test)]
mod tests;

pub use self::lock::DirLock;

/// The newest version of the identity's format.
pub const FORMAT_VERSION: u32 = 1;
/// The log's directory within the data directory.
pub const LOG_DIR: &str = "log";

const FILE: &str = "IDENTITY";
const TEMPORARY: &str = "IDENTITY.tmp";
/// Longest file, in bytes. Ours have some 250.
const FILE_BYTES_MAX: u64 = 4096;
/// Longest boot id, in bytes; the kernel's have 36.
const BOOT_ID_BYTES_MAX: usize = 64;
/// Other directories that belong to a node: without an identity they are somebody's loss.
const OTHER_DIRS: [&str; 2] = ["checkpoints", "state"];

/// Whose disk this is, and how often it has been started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The random number under which the node asks to join, so that asking twice makes one node.
    pub join_nonce: u128,
    /// Where it belongs; `None` until it has joined.
    pub joined: Option<Joined>,
    /// How often it has started.
    pub incarnation: Incarnation,
    /// The machine's boot id at the last start, to tell a killed process from a power cut.
    pub boot_id: String,
    /// Whether it has stopped in good order since.
    pub clean_stop: bool,
}

/// The node that a data directory belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// Its replica of the meta group.
    pub meta_replica: ReplicaId,
}

impl Identity {
    /// The identity of a directory that has never been started.
    #[must_use]
    pub const fn new(join_nonce: u128) -> Self {
        Self {
            join_nonce,
            joined: None,
            incarnation: Incarnation(0),
            boot_id: String::new(),
            clean_stop: false,
        }
    }

    /// Whose data directory this is; `None` if it is nobody's yet and may become ours.
    ///
    /// # Errors
    /// [`Error::Corruption`] if the file is damaged; [`Error::NewerFormat`]; [`Error::Refused`] if the identity has lost
    /// its data or the data its identity; [`Error::Io`].
    pub fn load(disk: &dyn Disk, data_dir: &Path) -> Result<Option<Self>> {
        let log_files = files::list_if_present(disk, &data_dir.join(LOG_DIR))?.map(|files| files.len());
        let path = data_dir.join(FILE);
        let refused =
            |reason: &str| Err(Error::Refused { path: data_dir.to_owned(), reason: reason.to_owned() });
        let Some(text) = read_if_present(disk, &path)? else {
            let mut has_data = log_files.is_some_and(|files| files > 0);
            for dir in OTHER_DIRS {
                has_data |= files::list_if_present(disk, &data_dir.join(dir))?.is_some();
            }
            if has_data {
                return refused(
                    "it has a node's data but no IDENTITY, so it can't be told whose data that is. If the file was \
                     lost, remove the directory, or start with an empty one: the node then joins as a new one under the \
                     same addresses and takes the old one's place",
                );
            }
            return Ok(None);
        };
        let identity = Self::decode(&path, &text)?;
        if log_files.is_none() || (identity.joined.is_some() && log_files == Some(0)) {
            return refused(
                "its IDENTITY is there but its log is gone, so the node has forgotten its votes and entries and must \
                 not come back under its old id. Put the log back if it is mounted elsewhere; else remove the \
                 directory, or start with an empty one: the node then joins as a new one under the same addresses and \
                 takes the old one's place",
            );
        }
        Ok(Some(identity))
    }

    /// Writes the identity, durably and as a whole: after a crash the directory has the old one or this one. Makes the
    /// data directory and the log's directory if this is the first.
    ///
    /// # Errors
    /// [`Error::Misuse`] if a field can't be written; [`Error::Io`]: the old one stands; [`Error::Fatal`].
    pub fn store(&self, disk: &dyn Disk, data_dir: &Path) -> Result<()> {
        let text = self.encode()?;
        let (path, temporary) = (data_dir.join(FILE), data_dir.join(TEMPORARY));
        if files::list_if_present(disk, data_dir)?.is_none_or(|entries| !entries.contains(&path)) {
            files::create_dir(disk, &data_dir.join(LOG_DIR))?;
        }
        files::remove_if_present(disk, &temporary)?;
        let file = disk.create(&temporary).map_err(Error::io("create", &temporary))?;
        file.write_all_at(text.as_bytes(), 0).map_err(Error::io("write", &temporary))?;
        files::sync_data(file.as_ref(), &temporary)?;
        fail::fail_point!(crate::failpoints::IDENTITY_BEFORE_RENAME);
        disk.rename(&temporary, &path).map_err(Error::io("replace", &path))?;
        fail::fail_point!(crate::failpoints::IDENTITY_AFTER_RENAME);
        files::sync_dir(disk, data_dir)
    }

    fn encode(&self) -> Result<String> {
        let boot_id = self.boot_id.trim();
        if boot_id.len() > BOOT_ID_BYTES_MAX || boot_id.contains(|c: char| c.is_control() || c == '=') {
            return Err(Error::Misuse(format!("{boot_id:?} is no boot id")));
        }
        let none = Joined { cluster: ClusterId(0), node: NodeId(0), meta_replica: ReplicaId(0) };
        if self.joined.is_some_and(|joined| joined.node == none.node) {
            return Err(Error::Misuse("node 0 is no node".to_owned()));
        }
        let Joined { cluster, node, meta_replica } = self.joined.unwrap_or(none);
        let mut text = format!(
            "format={FORMAT_VERSION}\ncluster={cluster}\nnode={node}\nmeta_replica={meta_replica}\n\
             join_nonce={:032x}\nincarnation={}\nboot_id={boot_id}\nclean_stop={}\n",
            self.join_nonce, self.incarnation, self.clean_stop,
        );
        let crc = crc32fast::hash(text.as_bytes());
        writeln!(text, "crc32={crc:08x}").map_err(|error| Error::Misuse(error.to_string()))?;
        Ok(text)
    }

    fn decode(path: &Path, text: &[u8]) -> Result<Self> {
        let corrupt = |what: String| Error::corruption(path.display().to_string(), what);
        let text = std::str::from_utf8(text).map_err(|_| corrupt("it is no text".to_owned()))?;
        let mut fields = Fields { lines: text.lines() };
        // A newer format may be anything from here on, so this comes before all checks.
        let format = fields.number::<u32>("format").map_err(corrupt)?;
        if format > FORMAT_VERSION {
            let path = path.to_owned();
            return Err(Error::NewerFormat { path, found: format, supported: FORMAT_VERSION });
        }
        let identity = fields.identity().map_err(corrupt)?;
        // What encodes to the same bytes has passed every check there is, the checksum first of all.
        if identity.encode().ok().as_deref() != Some(text) {
            return Err(corrupt("its checksum does not fit its content".to_owned()));
        }
        Ok(identity)
    }
}

/// The lines of the file, one after the other.
struct Fields<'a> {
    lines: std::str::Lines<'a>,
}

impl<'a> Fields<'a> {
    fn text(&mut self, name: &str) -> Result<&'a str, String> {
        let line = self.lines.next().ok_or_else(|| format!("it ends before its line {name}"))?;
        line.strip_prefix(name)
            .and_then(|rest| rest.strip_prefix('='))
            .ok_or_else(|| format!("instead of its line {name} it has {line:?}"))
    }

    fn number<T: FromStr<Err: Display>>(&mut self, name: &str) -> Result<T, String> {
        let text = self.text(name)?;
        text.parse().map_err(|error| format!("its line {name} has {text:?}: {error}"))
    }

    fn hexadecimal(&mut self, name: &str) -> Result<u128, String> {
        let text = self.text(name)?;
        u128::from_str_radix(text, 16).map_err(|error| format!("its line {name} has {text:?}: {error}"))
    }

    fn identity(&mut self) -> Result<Identity, String> {
        let cluster = ClusterId(self.hexadecimal("cluster")?);
        let node = NodeId(self.number("node")?);
        let meta_replica = ReplicaId(self.number("meta_replica")?);
        Ok(Identity {
            joined: (node != NodeId(0)).then_some(Joined { cluster, node, meta_replica }),
            join_nonce: self.hexadecimal("join_nonce")?,
            incarnation: Incarnation(self.number("incarnation")?),
            boot_id: self.text("boot_id")?.to_owned(),
            clean_stop: self.number("clean_stop")?,
        })
    }
}

fn read_if_present(disk: &dyn Disk, path: &Path) -> Result<Option<Vec<u8>>> {
    let file = match disk.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("open", path)(error)),
    };
    let size_bytes = file.size_bytes().map_err(Error::io("read the size of", path))?;
    let length = usize::try_from(size_bytes.min(FILE_BYTES_MAX + 1)).unwrap_or(usize::MAX);
    if size_bytes > FILE_BYTES_MAX {
        let what = format!("its {size_bytes} bytes are beyond the {FILE_BYTES_MAX} that it may have");
        return Err(Error::corruption(path.display().to_string(), what));
    }
    let mut text = vec![0; length];
    file.read_exact_at(&mut text, 0).map_err(Error::io("read", path))?;
    Ok(Some(text))
}
