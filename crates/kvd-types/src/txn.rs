//! Transactions: compares, and what is done if all of them hold, or else.
//!
//! A transaction is one command: it is applied as a whole, at one revision, or not at all. All its keys belong to one shard,
//! which is its user's choice: keys with the same hash tag share one.

use bytes::Bytes;

use crate::{
    Error, Key, LeaseId, Lifetime, Record, Revision,
    command::check_value,
    limits::{REQUEST_BYTES_MAX, TXN_OPERATIONS_MAX},
};

/// A transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold for `then` to be done.
    pub compares: Vec<Compare>,
    /// Done, in order, if all compares hold.
    pub then: Vec<TxnOp>,
    /// Done, in order, if one doesn't.
    pub otherwise: Vec<TxnOp>,
}

/// What must hold of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The key.
    pub key: Key,
    /// What of it is compared with what.
    pub subject: Subject,
    /// How.
    pub relation: Relation,
}

/// What of a key is compared, and with what. Of a key that does not exist all numbers are zero, and there is no value: a
/// compare with one never holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The revision of its last write.
    Revision(Revision),
    /// The revision at which it came into being.
    CreateRevision(Revision),
    /// How often it was written since.
    Version(u64),
    /// The lease that it is attached to; zero: none.
    Lease(LeaseId),
    /// Its value, bytewise.
    Value(Bytes),
}

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// They are equal.
    Equal,
    /// They differ.
    NotEqual,
    /// The key's is less.
    Less,
    /// The key's is greater.
    Greater,
}

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnOp {
    /// Read the key, as the operations before have left it.
    Get(Key),
    /// Set the value.
    Put {
        /// The key.
        key: Key,
        /// Its new value.
        value: Bytes,
        /// Until when it is there.
        lifetime: Lifetime,
        /// Give the version that was replaced.
        want_previous: bool,
    },
    /// Remove the key.
    Delete {
        /// The key.
        key: Key,
        /// Give the version that was removed.
        want_previous: bool,
    },
}

/// What came of an operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnResult {
    /// Of a get: the key's version.
    Got(Option<Record>),
    /// Of a put.
    Put {
        /// The revision at which the key came into being.
        create_revision: Revision,
        /// The key's version after it.
        version: u64,
        /// The version that was replaced, if asked for and there was one.
        previous: Option<Record>,
    },
    /// Of a delete.
    Deleted {
        /// Whether there was a key.
        existed: bool,
        /// The version that was removed, if asked for and there was one.
        previous: Option<Record>,
    },
}

impl Compare {
    /// Whether it holds of a key's current version.
    #[must_use]
    pub fn holds(&self, current: Option<&Record>) -> bool {
        let number = |of: fn(&Record) -> u64| current.map_or(0, of);
        let order = match &self.subject {
            Subject::Revision(revision) => number(|record| record.revision.get()).cmp(&revision.get()),
            Subject::CreateRevision(revision) => {
                number(|record| record.create_revision.get()).cmp(&revision.get())
            }
            Subject::Version(version) => number(|record| record.version).cmp(version),
            Subject::Lease(lease) => number(|record| record.lease.map_or(0, LeaseId::get)).cmp(&lease.get()),
            Subject::Value(value) => match current {
                Some(record) => record.value.cmp(value),
                None => return false,
            },
        };
        match self.relation {
            Relation::Equal => order.is_eq(),
            Relation::NotEqual => order.is_ne(),
            Relation::Less => order.is_lt(),
            Relation::Greater => order.is_gt(),
        }
    }
}

impl TxnResult {
    /// Bytes of the value in it.
    #[must_use]
    pub fn value_bytes(&self) -> usize {
        let (Self::Got(record) | Self::Put { previous: record, .. } | Self::Deleted { previous: record, .. }) =
            self;
        record.as_ref().map_or(0, |record| record.value.len())
    }
}

impl TxnOp {
    /// Its key.
    #[must_use]
    pub const fn key(&self) -> &Key {
        match self {
            Self::Get(key) | Self::Put { key, .. } | Self::Delete { key, .. } => key,
        }
    }

    /// The lease that it attaches its key to.
    #[must_use]
    pub const fn lease(&self) -> Option<LeaseId> {
        if let Self::Put { lifetime, .. } = self { lifetime.lease() } else { None }
    }

    const fn writes(&self) -> bool {
        matches!(self, Self::Put { .. } | Self::Delete { .. })
    }

    fn size_bytes(&self) -> usize {
        const FRAMING_BYTES: usize = 24;
        let value = if let Self::Put { value, .. } = self { value.len() } else { 0 };
        self.key().as_bytes().len() + value + FRAMING_BYTES
    }
}

impl Txn {
    /// All keys that it names, some perhaps more than once.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        let compared = self.compares.iter().map(|compare| &compare.key);
        compared.chain(self.then.iter().chain(&self.otherwise).map(TxnOp::key))
    }

    /// Whether it may put anything.
    #[must_use]
    pub fn puts(&self) -> bool {
        self.then.iter().chain(&self.otherwise).any(|operation| matches!(operation, TxnOp::Put { .. }))
    }

    /// Whether it may give values back.
    #[must_use]
    pub fn gives_values(&self) -> bool {
        self.then.iter().chain(&self.otherwise).any(|operation| match operation {
            TxnOp::Get(_) => true,
            TxnOp::Put { want_previous, .. } | TxnOp::Delete { want_previous, .. } => *want_previous,
        })
    }

    /// About how many bytes it takes in the log.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        const FRAMING_BYTES: usize = 24;
        let compared = self.compares.iter().map(|compare| {
            let value = if let Subject::Value(value) = &compare.subject { value.len() } else { 0 };
            compare.key.as_bytes().len() + value + FRAMING_BYTES
        });
        let done = self.then.iter().chain(&self.otherwise).map(TxnOp::size_bytes);
        compared.chain(done).sum()
    }

    /// Checks what the types don't. That all keys are of one shard is for whoever knows the ring.
    ///
    /// # Errors
    /// Invalid argument: it is empty, over a limit, has a value that is too large, or writes one key twice.
    pub fn check(&self, value_bytes_max: usize) -> Result<(), Error> {
        let count = self.compares.len() + self.then.len() + self.otherwise.len();
        if count == 0 {
            return Err(Error::invalid("the transaction is empty: it names no key"));
        }
        if count > TXN_OPERATIONS_MAX {
            return Err(Error::invalid(format!(
                "the transaction has {count} compares and operations; it has at most {TXN_OPERATIONS_MAX}"
            )));
        }
        let bytes = self.size_bytes();
        if bytes > REQUEST_BYTES_MAX {
            return Err(Error::invalid(format!(
                "the transaction has {bytes} bytes; a request has at most {REQUEST_BYTES_MAX} bytes"
            )));
        }
        [&self.then, &self.otherwise].into_iter().try_for_each(|branch| check_branch(branch, value_bytes_max))
    }
}

fn check_branch(operations: &[TxnOp], value_bytes_max: usize) -> Result<(), Error> {
    let mut written: Vec<&Key> =
        operations.iter().filter(|operation| operation.writes()).map(TxnOp::key).collect();
    written.sort_unstable();
    if let Some([twice, _]) = written.array_windows().find(|[a, b]| a == b) {
        return Err(Error::invalid(format!(
            "the transaction writes key {twice} twice; each key is written once at most"
        )));
    }
    for operation in operations {
        if let TxnOp::Put { key, value, lifetime, .. } = operation {
            check_value(key, value, value_bytes_max)?;
            lifetime.check()?;
        }
    }
    Ok(())
}
