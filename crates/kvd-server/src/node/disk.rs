//! What a node finds on its disk, opened in the order in which each part can judge the next.
//!
//! Lock, identity, log, engine. The identity says whether the applied state may be believed: after a stop that wasn't
//! clean and a reboot since (a power cut, for all we know), what the engine holds is not, and every replica is rebuilt from its
//! checkpoint and log. That verdict is kept on disk until all of them have been.

use std::{any::Any, path::PathBuf, sync::Arc};

use kvd_storage::{
    checkpoint::CheckpointStore,
    disk::Disk,
    engine::Engine,
    identity::{Identity, Joined, LOG_DIR},
    log::{self, Log, Recovery},
    space::{Room, Space, SpaceOptions},
    table::Table,
};
use kvd_types::{Error, Incarnation, ReplicaId, Result};
use parking_lot::Mutex;

use super::engine::{self, Damage};
use crate::{config, platform::Platform};

const STATE_DIR: &str = "state";
const CHECKPOINTS_DIR: &str = "checkpoints";

/// A node's opened data directory.
pub(super) struct NodeDisk {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    identity: Mutex<Identity>,
    /// The boot that the machine is in.
    boot_id: String,
    /// Whether the applied state must be rebuilt.
    distrust_state: bool,
    pub(super) log: Log,
    pub(super) engine: Arc<dyn Engine>,
    /// Whether there is room on it.
    pub(super) space: Space,
    damage: Arc<Damage>,
    _lock: Box<dyn Any + Send + Sync>,
}

impl NodeDisk {
    /// Opens the data directory, as one start more of its node. A new directory gets an identity that has joined nothing.
    pub(super) fn open(
        platform: &dyn Platform,
        config: &config::Config,
        observer: Arc<dyn log::Observer>,
        join_nonce: u128,
    ) -> Result<(Self, Recovery)> {
        let dir = config.data_dir.clone();
        let disk = platform.disk();
        let lock = platform.lock(&dir).map_err(refuse)?;
        // A start replaces small files, and must not fail for want of a few kilobytes.
        let space = Space::new(Arc::clone(&disk), &dir, space_options(config));
        space.make_room().and_then(|_| space.look()).map_err(refuse)?;
        let boot_id = platform.boot_id();
        let mut identity = Identity::load(disk.as_ref(), &dir).map_err(refuse)?.unwrap_or_else(|| {
            let new = Identity::new(join_nonce);
            Identity { boot_id: boot_id.clone(), ..new }
        });
        let distrust_state = !identity.clean_stop && (boot_id.is_empty() || identity.boot_id != boot_id);
        identity.incarnation = Incarnation(identity.incarnation.get() + 1);
        identity.clean_stop = false;
        identity.store(disk.as_ref(), &dir).map_err(refuse)?;

        let options = log::Options {
            segment_bytes: config.storage.log_segment_bytes,
            writer: platform.log_writer(),
            observer,
            ..log::Options::default()
        };
        let (log, recovery) = Log::open(Arc::clone(&disk), &dir.join(LOG_DIR), options)
            .map_err(|error| Error::corruption(format!("the log can't be opened: {error}")))?;
        let (engine, damage) = engine::open(platform.engine(), config, &dir.join(STATE_DIR))?;
        let opened = Self {
            dir,
            disk,
            identity: Mutex::new(identity),
            boot_id,
            distrust_state,
            log,
            engine,
            space,
            damage,
            _lock: lock,
        };
        Ok((opened, recovery))
    }

    /// Damage of the engine's files that was met, with which the node must stop.
    pub(super) fn damage(&self) -> Option<&str> {
        self.damage.what()
    }

    pub(super) fn identity(&self) -> Identity {
        self.identity.lock().clone()
    }

    /// Whether replicas must be rebuilt rather than taken up.
    pub(super) const fn distrusts_state(&self) -> bool {
        self.distrust_state
    }

    /// Notes that the node belongs to a cluster. Durable when this returns.
    pub(super) fn set_joined(&self, joined: Joined) -> Result<()> {
        self.update(|identity| identity.joined = Some(joined))
    }

    /// Whether it is still to be noted that replicas have been rebuilt.
    pub(super) fn awaits_rebuild(&self) -> bool {
        self.identity.lock().boot_id != self.boot_id
    }

    /// Flushes the engine, and says whether it did: on a full disk it does not, for a flush that finds no room is the
    /// engine's end, and the log has everything. Looks how much room there is *now*: what was seen half a second ago is no
    /// help against that, and counts only where the file system doesn't say.
    pub(super) fn flush(&self) -> kvd_storage::Result<bool> {
        let has_room = self.space.has_room_for(0).unwrap_or_else(|_| self.space.room() != Room::None);
        if has_room {
            self.engine.flush()?;
        }
        Ok(has_room)
    }

    /// Notes that every replica has been taken up or rebuilt in this boot; on a full disk not yet.
    pub(super) fn set_state_trusted(&self) -> Result<()> {
        if !self.flush().map_err(refuse)? {
            return Ok(());
        }
        self.update(|identity| identity.boot_id.clone_from(&self.boot_id))
    }

    /// Flushes the engine and notes that nothing was lost. The log needs nothing: what it has answered for is synced.
    pub(super) fn close(&self) -> Result<()> {
        if !self.flush().map_err(refuse)? {
            tracing::warn!(
                "the disk is full, so the engine is not flushed: the next start applies more of the log"
            );
            return Ok(());
        }
        self.update(|identity| identity.clean_stop = true)
    }

    fn update(&self, change: impl FnOnce(&mut Identity)) -> Result<()> {
        let mut identity = self.identity.lock();
        let mut changed = identity.clone();
        change(&mut changed);
        changed.store(self.disk.as_ref(), &self.dir).map_err(refuse)?;
        *identity = changed;
        Ok(())
    }

    /// A replica's rows; made anew if what points to them is damaged.
    pub(super) fn table(&self, replica: ReplicaId) -> Result<(Table, bool)> {
        match Table::open(Arc::clone(&self.engine), replica) {
            Ok(table) => Ok((table, false)),
            Err(error) if error.is_corruption() => {
                tracing::error!(%replica, %error, "the rows can't be found; rebuilding them");
                Ok((Table::recreate(Arc::clone(&self.engine), replica).map_err(refuse)?, true))
            }
            Err(error) => Err(refuse(error)),
        }
    }

    /// A replica's checkpoints.
    pub(super) fn checkpoints(&self, replica: ReplicaId) -> Result<CheckpointStore> {
        let dir = self.dir.join(CHECKPOINTS_DIR).join(replica.to_string());
        CheckpointStore::open(Arc::clone(&self.disk), &dir).map_err(refuse)
    }
}

/// Room for one more segment of the log is the least with which what grows is taken.
fn space_options(config: &config::Config) -> SpaceOptions {
    let low_bytes = config.storage.log_segment_bytes;
    let ballast_bytes = SpaceOptions::default().ballast_bytes.min(low_bytes);
    SpaceOptions { low_bytes, enough_bytes: low_bytes.saturating_add(low_bytes / 2), ballast_bytes }
}

#[expect(clippy::needless_pass_by_value, reason = "made to be passed to map_err")]
pub(super) fn refuse(error: kvd_storage::Error) -> Error {
    Error::corruption(error.to_string())
}
