//! How the reads of a request are to be served.

use kvd_types::{Consistency, Read, Revision, ShardId};

use crate::core::Core;

/// How the reads of a request are to be served.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ReadMode {
    level: Level,
    any_replica: bool,
    at: Option<Revision>,
}

#[derive(Clone, Copy, Debug)]
enum Level {
    Fixed(Consistency),
    /// What this client has seen of the shard, when the read is sent.
    Seen,
}

impl Default for Level {
    fn default() -> Self {
        Self::Fixed(Consistency::Linearizable)
    }
}

/// On the wire zero stands for now; the first revision is before every write just as well.
pub(crate) const fn as_of(revision: Revision) -> Revision {
    if revision.get() == 0 { Revision(1) } else { revision }
}

impl ReadMode {
    pub(crate) const fn consistency(&mut self, consistency: Consistency) {
        self.level = Level::Fixed(consistency);
    }

    pub(crate) const fn seen(&mut self) {
        self.level = Level::Seen;
    }

    pub(crate) const fn any_replica(&mut self) {
        self.any_replica = true;
    }

    pub(crate) const fn at(&mut self, revision: Revision) {
        self.at = Some(as_of(revision));
    }

    /// For a read of a shard that is sent now.
    pub(crate) fn read(self, core: &Core, shard: ShardId) -> Read {
        let consistency = match self.level {
            Level::Fixed(consistency) => consistency,
            Level::Seen => Consistency::Session(core.seen.of(shard)),
        };
        Read { consistency, any_replica: self.any_replica, at: self.at }
    }
}

/// The methods by which a request with a field `mode` says how its reads are to be served.
macro_rules! read_methods {
    () => {
        /// As of a revision that an earlier answer told, as long as the cluster keeps it.
        pub const fn at(mut self, revision: kvd_types::Revision) -> Self {
            self.mode.at(revision);
            self
        }

        /// How recent it must be; linearizable if not set.
        pub const fn consistency(mut self, consistency: kvd_types::Consistency) -> Self {
            self.mode.consistency(consistency);
            self
        }

        /// It sees every write that was finished before it was asked for: the default.
        pub const fn linearizable(self) -> Self {
            self.consistency(kvd_types::Consistency::Linearizable)
        }

        /// From any replica that has what this client has seen of the shard: it reads its own writes, and never goes back.
        pub const fn session(mut self) -> Self {
            self.mode.seen();
            self.from_any_replica()
        }

        /// From any replica that misses nothing that was finished this long ago.
        pub const fn bounded_staleness(self, bound: std::time::Duration) -> Self {
            self.consistency(kvd_types::Consistency::Bounded(bound)).from_any_replica()
        }

        /// From any replica, whatever it has.
        pub const fn local(self) -> Self {
            self.consistency(kvd_types::Consistency::Local).from_any_replica()
        }

        /// Any replica may serve it, those in this client's zone first: for a linearizable read, it asks the leader only how
        /// far it must be.
        pub const fn from_any_replica(mut self) -> Self {
            self.mode.any_replica();
            self
        }

        /// How long it is tried; the client's deadline if not set.
        pub const fn deadline(mut self, deadline: std::time::Duration) -> Self {
            self.deadline = Some(deadline);
            self
        }
    };
}

pub(crate) use read_methods;
