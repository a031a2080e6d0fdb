//! How a read is served: how recent it must be, by whom, and as of when.
//!
//! What each level guarantees is what a history of reads and writes can show; who serves it is a matter of cost. The README
//! has the table of both.

use std::time::Duration;

use crate::{Error, Revision, limits::STALENESS_MAX};

/// How a read is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// How recent it must be.
    pub consistency: Consistency,
    /// Any replica may serve it: whichever node is asked does, if it has one.
    pub any_replica: bool,
    /// Read what was there as of this revision.
    pub at: Option<Revision>,
}

/// How recent a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// It sees every write that was finished before it was asked for: a majority confirms that the leader still leads.
    #[default]
    Linearizable,
    /// The same as long as clocks run no faster than the margin allows: the leader trusts the promise that it will not be
    /// replaced yet. Only where the cluster allows it.
    Lease,
    /// It sees the shard's writes up to a revision, which the reader has seen before: read your writes, and monotonic reads.
    Session(Revision),
    /// It misses nothing that was finished this long before it was asked for.
    Bounded(Duration),
    /// It sees whatever the replica has applied.
    Local,
}

impl Read {
    /// The default: linearizable, served by the leader, as of now.
    pub const LINEARIZABLE: Self =
        Self { consistency: Consistency::Linearizable, any_replica: false, at: None };

    /// The same as of a revision.
    #[must_use]
    pub const fn at(revision: Revision) -> Self {
        Self { at: Some(revision), ..Self::LINEARIZABLE }
    }

    /// Whether any replica may serve it, not only the one that leads.
    #[must_use]
    pub fn is_for_any_replica(&self) -> bool {
        self.any_replica && self.consistency != Consistency::Lease
    }

    /// Checks what the types don't.
    ///
    /// # Errors
    /// Invalid argument: what is asked for doesn't go together, or a bound is beyond its limit.
    pub fn check(&self) -> Result<(), Error> {
        if self.at.is_some() && self.consistency != Consistency::Linearizable {
            return Err(Error::invalid(
                "a read as of a revision is linearizable: it takes no other consistency",
            ));
        }
        if let Consistency::Bounded(bound) = self.consistency
            && bound > STALENESS_MAX
        {
            return Err(Error::invalid(format!(
                "a read may be up to {} s behind, not {} s; for any staleness read locally",
                STALENESS_MAX.as_secs(),
                bound.as_secs()
            )));
        }
        Ok(())
    }
}
