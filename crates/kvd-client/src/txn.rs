//! Transactions: compares, then one thing or another, all at once.
//!
//! All keys of a transaction must be in one shard. Keys with the same hash tag are: `{user:7}/name` and `{user:7}/mail`.
//!
//! ```no_run
//! # async fn example(client: kvd_client::Client) -> kvd_client::Result<()> {
//! use kvd_client::{Compare, TxnOp};
//!
//! let moved = client
//!     .txn()
//!     .when(Compare::value("{account:7}/left").equal("10"))
//!     .when(Compare::absent("{account:7}/frozen"))
//!     .then(TxnOp::put("{account:7}/left", "0"))
//!     .then(TxnOp::put("{account:7}/right", "10"))
//!     .or_else(TxnOp::get("{account:7}/left"))
//!     .await?;
//! println!("moved: {} at {}", moved.succeeded, moved.revision);
//! # Ok(()) }
//! ```

use std::{future::IntoFuture, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use kvd_types::{
    Key, LeaseId, Lifetime, Outcome, Relation, Result, Revision, Subject, TxnResult, WriteOp,
    operation::{Ack, Response},
};

use crate::{
    Client,
    attempts::unexpected,
    request::{IntoBytes, millis, write},
};

/// A transaction: made by [`Client::txn`]. Gives a [`TxnOutcome`].
#[derive(Debug)]
#[must_use = "a request does nothing until it is awaited"]
pub struct Txn {
    client: Client,
    /// What it does, or what was wrong with it first.
    txn: Result<kvd_types::Txn>,
    ack: Ack,
    deadline: Option<Duration>,
}

/// What came of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnOutcome {
    /// Whether all compares held, and so which operations were done.
    pub succeeded: bool,
    /// The revision of its writes; that of the shard's last write before, if it made none.
    pub revision: Revision,
    /// What came of the operations that were done, in order.
    pub results: Vec<TxnResult>,
}

impl Txn {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, txn: Ok(kvd_types::Txn::default()), ack: Ack::Majority, deadline: None }
    }

    /// This must hold, beside whatever else must: see [`Compare`].
    pub fn when(mut self, compare: Compare) -> Self {
        match (&mut self.txn, compare.0) {
            (Ok(txn), Ok(compare)) => txn.compares.push(compare),
            (Ok(_), Err(error)) => self.txn = Err(error),
            (Err(_), _) => {}
        }
        self
    }

    /// One more operation that is done if all compares hold.
    pub fn then(self, operation: impl Into<TxnOp>) -> Self {
        self.add(operation.into(), |txn| &mut txn.then)
    }

    /// One more operation that is done if a compare does not hold.
    pub fn or_else(self, operation: impl Into<TxnOp>) -> Self {
        self.add(operation.into(), |txn| &mut txn.otherwise)
    }

    fn add(
        mut self,
        operation: TxnOp,
        branch: fn(&mut kvd_types::Txn) -> &mut Vec<kvd_types::TxnOp>,
    ) -> Self {
        match (&mut self.txn, operation.0) {
            (Ok(txn), Ok(operation)) => branch(txn).push(operation),
            (Ok(_), Err(error)) => self.txn = Err(error),
            (Err(_), _) => {}
        }
        self
    }

    /// Answer only once all of the shard's voters have it on disk, not just a majority. If one of them doesn't until the
    /// deadline, the outcome is unknown: the transaction is applied all the same.
    pub const fn ack_all(mut self) -> Self {
        self.ack = Ack::All;
        self
    }

    /// How long it is tried; the client's deadline if not set.
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }
}

impl IntoFuture for Txn {
    type Output = Result<TxnOutcome>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let txn = self.client.namespace_of_keys().txn(self.txn?)?;
            match write(&self.client, self.deadline, WriteOp::Txn(txn), self.ack).await? {
                Response::Txn(Outcome::Txn { succeeded, revision, results }) => {
                    Ok(TxnOutcome { succeeded, revision, results })
                }
                other => Err(unexpected(&other)),
            }
        })
    }
}

/// What must hold of a key. A key that doesn't exist has version, revisions and lease 0, and no value: no compare with one
/// holds, not even [`not_equal`](CompareValue::not_equal).
#[derive(Clone, Debug)]
pub struct Compare(Result<kvd_types::Compare>);

impl Compare {
    /// Compares the key's value, bytewise.
    pub fn value(key: impl IntoBytes) -> CompareValue {
        CompareValue(Key::new(key.into_bytes()))
    }

    /// Compares how often the key was written since it came into being.
    pub fn version(key: impl IntoBytes) -> CompareNumber<u64> {
        CompareNumber { key: Key::new(key.into_bytes()), subject: Subject::Version }
    }

    /// Compares the revision of the key's last write.
    pub fn revision(key: impl IntoBytes) -> CompareNumber<Revision> {
        CompareNumber { key: Key::new(key.into_bytes()), subject: Subject::Revision }
    }

    /// Compares the revision at which the key came into being.
    pub fn create_revision(key: impl IntoBytes) -> CompareNumber<Revision> {
        CompareNumber { key: Key::new(key.into_bytes()), subject: Subject::CreateRevision }
    }

    /// Compares the lease that the key is attached to; 0: none.
    pub fn lease(key: impl IntoBytes) -> CompareNumber<LeaseId> {
        CompareNumber { key: Key::new(key.into_bytes()), subject: Subject::Lease }
    }

    /// The key exists.
    pub fn exists(key: impl IntoBytes) -> Self {
        Self::create_revision(key).greater(Revision::ZERO)
    }

    /// The key does not exist.
    pub fn absent(key: impl IntoBytes) -> Self {
        Self::create_revision(key).equal(Revision::ZERO)
    }

    fn new(key: Result<Key>, subject: Subject, relation: Relation) -> Self {
        Self(key.map(|key| kvd_types::Compare { key, subject, relation }))
    }
}

/// A key whose value is about to be compared.
#[derive(Clone, Debug)]
#[must_use = "say with what it is compared"]
pub struct CompareValue(Result<Key>);

impl CompareValue {
    /// It is this.
    pub fn equal(self, value: impl IntoBytes) -> Compare {
        self.with(Relation::Equal, value.into_bytes())
    }

    /// It is another one.
    pub fn not_equal(self, value: impl IntoBytes) -> Compare {
        self.with(Relation::NotEqual, value.into_bytes())
    }

    /// It is less.
    pub fn less(self, value: impl IntoBytes) -> Compare {
        self.with(Relation::Less, value.into_bytes())
    }

    /// It is greater.
    pub fn greater(self, value: impl IntoBytes) -> Compare {
        self.with(Relation::Greater, value.into_bytes())
    }

    fn with(self, relation: Relation, value: Bytes) -> Compare {
        Compare::new(self.0, Subject::Value(value), relation)
    }
}

/// A key of which a number is about to be compared.
#[derive(Clone, Debug)]
#[must_use = "say with what it is compared"]
pub struct CompareNumber<T> {
    key: Result<Key>,
    subject: fn(T) -> Subject,
}

impl<T> CompareNumber<T> {
    /// It is this.
    pub fn equal(self, number: impl Into<T>) -> Compare {
        self.with(Relation::Equal, number.into())
    }

    /// It is another one.
    pub fn not_equal(self, number: impl Into<T>) -> Compare {
        self.with(Relation::NotEqual, number.into())
    }

    /// It is less.
    pub fn less(self, number: impl Into<T>) -> Compare {
        self.with(Relation::Less, number.into())
    }

    /// It is greater.
    pub fn greater(self, number: impl Into<T>) -> Compare {
        self.with(Relation::Greater, number.into())
    }

    fn with(self, relation: Relation, number: T) -> Compare {
        Compare::new(self.key, (self.subject)(number), relation)
    }
}

/// One operation of a transaction.
#[derive(Clone, Debug)]
pub struct TxnOp(Result<kvd_types::TxnOp>);

/// A put in a transaction.
#[derive(Clone, Debug)]
pub struct TxnPut {
    key: Result<Key>,
    value: Bytes,
    lifetime: Lifetime,
    want_previous: bool,
}

/// A delete in a transaction.
#[derive(Clone, Debug)]
pub struct TxnDelete {
    key: Result<Key>,
    want_previous: bool,
}

impl TxnOp {
    /// Reads the key, as the operations before have left it.
    pub fn get(key: impl IntoBytes) -> Self {
        Self(Key::new(key.into_bytes()).map(kvd_types::TxnOp::Get))
    }

    /// Sets the key.
    pub fn put(key: impl IntoBytes, value: impl IntoBytes) -> TxnPut {
        TxnPut {
            key: Key::new(key.into_bytes()),
            value: value.into_bytes(),
            lifetime: Lifetime::Forever,
            want_previous: false,
        }
    }

    /// Removes the key.
    pub fn delete(key: impl IntoBytes) -> TxnDelete {
        TxnDelete { key: Key::new(key.into_bytes()), want_previous: false }
    }
}

impl TxnPut {
    /// The key lapses after this long, unless it is written again before.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.lifetime = Lifetime::Ttl(millis(ttl));
        self
    }

    /// The key goes when the lease ends, unless it is written again before.
    #[must_use]
    pub const fn lease(mut self, lease: LeaseId) -> Self {
        self.lifetime = Lifetime::Lease(lease);
        self
    }

    /// Give the version that it replaces.
    #[must_use]
    pub const fn return_previous(mut self) -> Self {
        self.want_previous = true;
        self
    }
}

impl TxnDelete {
    /// Give the version that it removes.
    #[must_use]
    pub const fn return_previous(mut self) -> Self {
        self.want_previous = true;
        self
    }
}

impl From<TxnPut> for TxnOp {
    fn from(put: TxnPut) -> Self {
        let TxnPut { key, value, lifetime, want_previous } = put;
        Self(key.map(|key| kvd_types::TxnOp::Put { key, value, lifetime, want_previous }))
    }
}

impl From<TxnDelete> for TxnOp {
    fn from(delete: TxnDelete) -> Self {
        let want_previous = delete.want_previous;
        Self(delete.key.map(|key| kvd_types::TxnOp::Delete { key, want_previous }))
    }
}
