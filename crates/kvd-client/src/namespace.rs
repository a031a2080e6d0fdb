//! Namespaces: a prefix that a client puts before every key it sends and takes from every key it gives back.
//!
//! # The approach
//! All keys and ranges that callers name pass through here on their way in, and all keys that they are given pass through here
//! on their way out: nothing else in this crate knows of the prefix.
//!
//! # Invariants
//! - What goes in stays within the prefix: a range without an end ends where the prefix does.
//! - A key that is the prefix itself is outside: it would have no name inside.

use bytes::{Bytes, BytesMut};
use kvd_placement::{after_key, prefix_end};
use kvd_types::{Error, Event, Key, Record, Result, Txn, TxnOp};

use crate::range::KeyRange;

/// The prefix of a client's keys; empty: none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Namespace(Bytes);

impl Namespace {
    /// A namespace within this one.
    pub(crate) fn nested(&self, prefix: &Bytes) -> Self {
        Self(self.full(prefix))
    }

    /// A key on its way in.
    pub(crate) fn key(&self, key: &Bytes) -> Result<Key> {
        if key.is_empty() {
            // Not the prefix in its stead.
            return Key::new(Bytes::new());
        }
        Key::new(self.full(key))
    }

    /// A range on its way in.
    pub(crate) fn range(&self, range: &KeyRange) -> KeyRange {
        if self.0.is_empty() {
            return range.clone();
        }
        let start = if range.start.is_empty() { after_key(&self.0) } else { self.full(&range.start) };
        let end = if range.end.is_empty() { prefix_end(&self.0) } else { self.full(&range.end) };
        let is_empty = range.is_empty || (!end.is_empty() && start >= end);
        KeyRange { start, end, is_empty }
    }

    /// A transaction on its way in.
    pub(crate) fn txn(&self, txn: Txn) -> Result<Txn> {
        if self.0.is_empty() {
            return Ok(txn);
        }
        let operations = |operations: Vec<TxnOp>| -> Result<Vec<TxnOp>> {
            operations.into_iter().map(|operation| self.operation(operation)).collect()
        };
        let mut compares = txn.compares;
        for compare in &mut compares {
            compare.key = self.key(compare.key.bytes())?;
        }
        Ok(Txn { compares, then: operations(txn.then)?, otherwise: operations(txn.otherwise)? })
    }

    fn operation(&self, mut operation: TxnOp) -> Result<TxnOp> {
        match &mut operation {
            TxnOp::Get(key) | TxnOp::Put { key, .. } | TxnOp::Delete { key, .. } => {
                *key = self.key(key.bytes())?;
            }
        }
        Ok(operation)
    }

    /// A key on its way out; `None`: it is outside.
    pub(crate) fn inside(&self, key: &Key) -> Option<Key> {
        if self.0.is_empty() {
            return Some(key.clone());
        }
        let key = key.bytes();
        let name = key.strip_prefix(&self.0[..]).filter(|name| !name.is_empty())?;
        Key::new(key.slice_ref(name)).ok()
    }

    /// A row on its way out.
    pub(crate) fn row(&self, key: &Key, record: Record) -> Result<(Key, Record)> {
        Ok((self.answered(key)?, record))
    }

    /// An event on its way out.
    pub(crate) fn event(&self, event: Event) -> Result<Event> {
        Ok(Event { key: self.answered(&event.key)?, ..event })
    }

    /// A key of an answer to a range that has been through [`Namespace::range`].
    fn answered(&self, key: &Key) -> Result<Key> {
        self.inside(key).ok_or_else(|| {
            Error::internal(format!(
                "the server gave key {key}, which is outside of the namespace that was asked for"
            ))
        })
    }

    fn full(&self, name: &Bytes) -> Bytes {
        if self.0.is_empty() {
            return name.clone();
        }
        let mut full = BytesMut::with_capacity(self.0.len() + name.len());
        full.extend_from_slice(&self.0);
        full.extend_from_slice(name);
        full.freeze()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(prop_oneof![Just(0xff), Just(0), any::<u8>()], 0..5).prop_map(Bytes::from)
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(prefix in bytes(), inner in bytes(), name in bytes()) {
            let namespace = Namespace::default().nested(&prefix).nested(&inner);
            let Ok(key) = namespace.key(&name) else { return Ok(()) };
            prop_assert_eq!(key.as_bytes(), [&prefix[..], &inner[..], &name[..]].concat());
            prop_assert_eq!(namespace.inside(&key).unwrap().into_bytes(), name);
        }

        #[test]
        fn a_range_covers_the_same_keys_inside(
            prefix in bytes(), start in bytes(), end in bytes(), name in bytes(), other in bytes(),
        ) {
            let range = KeyRange { start, end, is_empty: false };
            let within = |range: &KeyRange, key: &[u8]| {
                *key >= *range.start && (range.end.is_empty() || *key < *range.end)
            };
            let namespace = Namespace::default().nested(&prefix);
            let full = namespace.range(&range);
            if let Ok(key) = namespace.key(&name) {
                prop_assert_eq!(within(&full, key.as_bytes()), within(&range, &name));
            }
            // And nothing outside.
            if let Ok(key) = Key::new(other)
                && within(&full, key.as_bytes()) {
                prop_assert!(namespace.inside(&key).is_some(), "{key}");
            }
        }
    }

    #[test]
    fn the_prefix_itself_is_outside() {
        let namespace = Namespace::default().nested(&Bytes::from("app/"));
        assert!(namespace.inside(&Key::new("app/").unwrap()).is_none());
        assert!(namespace.inside(&Key::new("other").unwrap()).is_none());
        assert!(namespace.key(&Bytes::new()).is_err());
        assert_eq!(&namespace.range(&KeyRange::default()).start[..], b"app/\0");
    }
}
