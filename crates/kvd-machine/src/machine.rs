//! One replica's machine, whichever kind its group is.

use std::sync::Arc;

use bytes::Bytes;
use kvd_storage::table::Table;
use kvd_types::{GroupId, Outcome, Proposal};

use crate::{Error, MetaMachine, Position, ReadAhead, ShardMachine};

/// The state machine of one replica.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a replica has one of these and never moves it")]
pub enum Machine {
    /// Of a shard.
    Shard(ShardMachine),
    /// Of the meta group.
    Meta(MetaMachine),
}

impl Machine {
    /// Opens the machine of a group's replica on its table, and loads what it keeps in memory. An empty table is a
    /// replica that has applied nothing. The table must have been opened or replaced just before: in one that another
    /// machine has written to, rows may be ahead of the books, and entries would be applied to them twice.
    ///
    /// # Errors
    /// The table can't be read, or holds another group's rows, a later format's or corrupt ones.
    pub fn open(group: GroupId, table: Arc<Table>) -> Result<Self, Error> {
        match group.shard() {
            Some(shard) => ShardMachine::open(shard, table).map(Self::Shard),
            None => MetaMachine::open(table).map(Self::Meta),
        }
    }

    /// Keeps about so many bytes of what writes will ask for at hand. Of no effect on what comes of them.
    pub fn keep_at_hand(&mut self, bytes_max: u64) {
        match self {
            Self::Shard(machine) => machine.keep_at_hand(bytes_max),
            Self::Meta(_) => {}
        }
    }

    /// Which rows an entry will ask for that are not at hand. On a table that waits for the disk whoever applies entries reads
    /// them all at once before the entry; see [`Self::read_ahead`].
    #[must_use]
    pub fn wanted(&self, proposal: &Proposal) -> ReadAhead {
        match self {
            Self::Shard(machine) => machine.wanted(proposal),
            Self::Meta(_) => ReadAhead::default(),
        }
    }

    /// Takes what the table has of rows that were [wanted](Self::wanted), for the next entry. Of no effect on what comes of
    /// it, and none at all if another entry was applied since it was asked which rows are wanted.
    pub fn read_ahead(&mut self, ahead: ReadAhead) {
        match self {
            Self::Shard(machine) => machine.read_ahead(ahead),
            Self::Meta(_) => {}
        }
    }

    /// Applies an entry: one outcome per command, in order.
    ///
    /// # Errors
    /// A fault of the table or of the log, after which the replica must stop; never for what a command says.
    pub fn apply(&mut self, position: Position, proposal: &Proposal) -> Result<Vec<Outcome>, Error> {
        match self {
            Self::Shard(machine) => machine.apply(position, proposal),
            Self::Meta(machine) => machine.apply(position, proposal),
        }
    }

    /// Passes over an entry without commands (a blank or a membership): only the applied position moves.
    ///
    /// # Errors
    /// [`Error::OutOfOrder`].
    pub fn skip(&mut self, position: Position) -> Result<(), Error> {
        match self {
            Self::Shard(machine) => machine.skip(position),
            Self::Meta(machine) => machine.skip(position),
        }
    }

    /// The last entry that was applied or skipped; `None`: none ever.
    #[must_use]
    pub const fn applied(&self) -> Option<Position> {
        match self {
            Self::Shard(machine) => machine.applied(),
            Self::Meta(machine) => machine.applied(),
        }
    }

    /// Sets the opaque bytes that are stored in the same generation as the state that they belong to.
    pub fn set_header(&mut self, header: Bytes) {
        match self {
            Self::Shard(machine) => machine.set_header(header),
            Self::Meta(machine) => machine.set_header(header),
        }
    }

    /// The opaque bytes that were last set, or that were found in the table.
    #[must_use]
    pub fn header(&self) -> Option<Bytes> {
        match self {
            Self::Shard(machine) => machine.header(),
            Self::Meta(machine) => machine.header(),
        }
    }

    /// Writes to the table what is only in memory, so that the table's next freeze cuts off exactly the state at
    /// [`Self::applied`]. Call it before each freeze, with nothing applied in between: a generation that was frozen
    /// otherwise would hold rows that are ahead of its books.
    pub fn prepare_freeze(&mut self) {
        match self {
            Self::Shard(machine) => machine.prepare_freeze(),
            Self::Meta(machine) => machine.prepare_freeze(),
        }
    }

    /// Loads everything anew, right after the table's rows were replaced by a snapshot's.
    ///
    /// # Errors
    /// As [`Self::open`]. The machine is then as it was before.
    pub fn reload(&mut self) -> Result<(), Error> {
        match self {
            Self::Shard(machine) => machine.reload(),
            Self::Meta(machine) => machine.reload(),
        }
    }

    /// A digest of the contents, equal for all replicas that have applied the same entries.
    #[must_use]
    pub fn digest(&self) -> u64 {
        match self {
            Self::Shard(machine) => machine.digest(),
            Self::Meta(machine) => machine.digest(),
        }
    }
}
