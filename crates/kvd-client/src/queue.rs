//! A queue of waiters for one name: what locks and elections are made of.
//!
//! # The approach
//! Each waiter puts a key of its own, attached to its lease, under a prefix that is a hash tag, so that one shard orders them all.
//! The revision at which its key came into being is its place in the queue, and its fencing token: whoever has the lowest is
//! first. Each of the others waits for the one just before it to go, so that a change wakes one waiter, not all.
//!
//! # Invariants
//! - Who is first is read linearizably, all waiters as of one revision.
//! - A waiter whose key is gone is no waiter any more: it never becomes first by mistake.

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use kvd_types::{Error, ErrorKind, Key, Record, Result, Revision, TxnResult};
use tokio::time::{Instant, timeout_at};

use crate::{Client, Compare, IntoBytes, KeptLease, Lease, TxnOp};

/// A place in a queue.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    client: Client,
    prefix: String,
    key: Bytes,
    lease: KeptLease,
    /// When its key came into being.
    number: Revision,
}

/// Revokes a lease, which ends by itself if that fails.
pub(crate) async fn end(lease: Option<Lease>) {
    if let Some(lease) = lease
        && let Err(error) = lease.revoke().await
    {
        tracing::debug!(lease = %lease.id(), %error, "the lease was not revoked and will end by itself");
    }
}

/// The lease of somebody who waits: it ends, and his place with it, if he is dropped before he was first.
#[derive(Debug)]
pub(crate) struct Waiting(Option<Lease>);

impl Waiting {
    /// `None`: the lease is somebody else's.
    pub(crate) const fn new(lease: Option<Lease>) -> Self {
        Self(lease)
    }

    /// He waits no more.
    pub(crate) fn done(mut self) -> Option<Lease> {
        self.0.take()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let lease = self.0.take();
        if let Ok(runtime) = tokio::runtime::Handle::try_current()
            && lease.is_some()
        {
            runtime.spawn(end(lease));
        }
    }
}

/// The prefix of the waiters for a name.
///
/// # Errors
/// Invalid argument: it is empty, or has a brace.
pub(crate) fn prefix(kind: &str, name: &str) -> Result<String> {
    if name.is_empty() {
        return Err(Error::invalid(format!("the {kind} has no name")));
    }
    if name.contains(['{', '}']) {
        return Err(Error::invalid(format!(
            "the name of a {kind} has no braces, as it becomes a hash tag; this is {name}"
        )));
    }
    Ok(format!("{{kvd-{kind}:{name}}}/"))
}

impl Place {
    /// Takes a place at the end of a queue, once per lease.
    pub(crate) async fn take(
        client: &Client,
        prefix: String,
        lease: KeptLease,
        value: Bytes,
    ) -> Result<Self> {
        let key = Bytes::from(format!("{prefix}{:016x}", lease.id().get()));
        let outcome = client
            .txn()
            .when(Compare::absent(&key))
            .then(TxnOp::put(&key, value).lease(lease.id()))
            .or_else(TxnOp::get(&key))
            .await?;
        let number = match outcome.results.into_iter().next() {
            Some(TxnResult::Put { create_revision, .. }) => create_revision,
            Some(TxnResult::Got(Some(record))) => record.create_revision,
            _ => return Err(Error::internal("the server says nothing of a key that it has put")),
        };
        Ok(Self { client: client.clone(), prefix, key, lease, number })
    }

    pub(crate) const fn key(&self) -> &Bytes {
        &self.key
    }

    pub(crate) const fn number(&self) -> Revision {
        self.number
    }

    pub(crate) const fn lease(&self) -> &KeptLease {
        &self.lease
    }

    /// Holds while the place is still this one's.
    pub(crate) fn fence(&self) -> Compare {
        Compare::create_revision(&self.key).equal(self.number)
    }

    /// Waits until it is first; whether it is, at the deadline.
    ///
    /// # Errors
    /// Its lease was lost, or its key is gone; else as any request.
    pub(crate) async fn await_first(&self, deadline: Option<Instant>) -> Result<bool> {
        let first = async {
            tokio::select! {
                error = self.lease.lost() => Err(error),
                first = self.walk_up() => first,
            }
        };
        match deadline {
            None => first.await.map(|()| true),
            // Looked at once, however soon the deadline is.
            Some(_) if self.is_first().await? => Ok(true),
            Some(deadline) => {
                timeout_at(deadline, first).await.map_or(Ok(false), |first| first.map(|()| true))
            }
        }
    }

    async fn is_first(&self) -> Result<bool> {
        let (queue, _) = waiters(&self.client, &self.prefix).await?;
        Ok(before(&queue, self.number) == Turn::First)
    }

    async fn walk_up(&self) -> Result<()> {
        loop {
            let (queue, at) = waiters(&self.client, &self.prefix).await?;
            match before(&queue, self.number) {
                Turn::First => return Ok(()),
                Turn::Gone => return Err(self.gone()),
                Turn::After(key) => self.await_gone(&key, at).await?,
            }
        }
    }

    /// Waits until a key that was there at a revision is gone.
    async fn await_gone(&self, key: &Key, at: Revision) -> Result<()> {
        let mut changes = self.client.watch_key(key.as_bytes()).no_puts().after(at).stream();
        loop {
            match changes.try_next().await {
                Ok(Some(item)) if item.events.is_empty() => {}
                Ok(_) => return Ok(()),
                // What happened since has been forgotten: look again.
                Err(error) if matches!(error.kind, ErrorKind::Compacted { .. }) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Replaces what stands in its key.
    ///
    /// # Errors
    /// Failed precondition: its key is gone; else as any request.
    pub(crate) async fn set(&self, value: impl IntoBytes) -> Result<Revision> {
        let put = TxnOp::put(&self.key, value).lease(self.lease.id());
        let outcome = self.client.txn().when(self.fence()).then(put).await?;
        if outcome.succeeded { Ok(outcome.revision) } else { Err(self.gone()) }
    }

    /// Leaves the queue; whether it was still in it.
    pub(crate) async fn leave(&self) -> Result<bool> {
        let outcome = self.client.txn().when(self.fence()).then(TxnOp::delete(&self.key)).await?;
        Ok(outcome.succeeded)
    }

    fn gone(&self) -> Error {
        Error::new(
            ErrorKind::FailedPrecondition,
            format!("key {} is gone: its lease has ended, or somebody deleted it", self.key.escape_ascii()),
        )
    }
}

/// The waiters, and as of when.
pub(crate) async fn waiters(client: &Client, prefix: &str) -> Result<(Vec<(Key, Record)>, Revision)> {
    let mut rows = client.scan_prefix(prefix).stream();
    let waiters = rows.by_ref().try_collect().await?;
    let at = rows.revision().ok_or_else(|| Error::internal("a scan ended without a revision"))?;
    Ok((waiters, at))
}

/// Who has the first place.
pub(crate) fn first(waiters: Vec<(Key, Record)>) -> Option<(Key, Record)> {
    waiters.into_iter().min_by_key(|(_, record)| record.create_revision)
}

#[derive(Debug, PartialEq, Eq)]
enum Turn {
    First,
    /// It has no place any more.
    Gone,
    /// Just after the one with this key.
    After(Key),
}

fn before(waiters: &[(Key, Record)], number: Revision) -> Turn {
    if waiters.iter().all(|(_, record)| record.create_revision != number) {
        return Turn::Gone;
    }
    let earlier = waiters.iter().filter(|(_, record)| record.create_revision < number);
    match earlier.max_by_key(|(_, record)| record.create_revision) {
        Some((key, _)) => Turn::After(key.clone()),
        None => Turn::First,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(numbers: &[(&str, u64)]) -> Vec<(Key, Record)> {
        let waiter = |&(key, number): &(&str, u64)| {
            let record = Record { create_revision: Revision(number), ..Record::default() };
            (Key::try_from(key).unwrap(), record)
        };
        numbers.iter().map(waiter).collect()
    }

    #[test]
    fn each_waits_for_the_one_just_before_it() {
        let queue = queue(&[("a", 30), ("b", 10), ("c", 20)]);
        assert_eq!(before(&queue, Revision(10)), Turn::First);
        assert_eq!(before(&queue, Revision(20)), Turn::After(Key::try_from("b").unwrap()));
        assert_eq!(before(&queue, Revision(30)), Turn::After(Key::try_from("c").unwrap()));
        assert_eq!(before(&queue, Revision(15)), Turn::Gone);
        assert_eq!(before(&[], Revision(15)), Turn::Gone);
        assert_eq!(first(queue).unwrap().0, Key::try_from("b").unwrap());
        assert_eq!(first(Vec::new()), None);
    }

    #[test]
    fn a_name_is_a_hash_tag() {
        let of_lock = |name: &str| prefix("lock", name);
        assert_eq!(of_lock("jobs").unwrap(), "{kvd-lock:jobs}/");
        for bad in ["", "a}", "{a"] {
            assert_eq!(of_lock(bad).unwrap_err().kind, ErrorKind::InvalidArgument);
        }
    }
}
