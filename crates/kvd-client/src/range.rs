//! A range of keys, as callers give it: by its bounds or by a prefix.

use std::ops::{Bound, RangeBounds};

use bytes::Bytes;
use kvd_placement::{after_key, prefix_end};

/// A range of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeyRange {
    /// The first key; empty: from the first one.
    pub(crate) start: Bytes,
    /// The first key that is not in it; empty: to the last one.
    pub(crate) end: Bytes,
    /// Nothing can lie in it, though its bounds may not say so.
    pub(crate) is_empty: bool,
}

impl KeyRange {
    pub(crate) fn of<K: AsRef<[u8]>>(range: &impl RangeBounds<K>) -> Self {
        let start = match range.start_bound() {
            Bound::Included(key) => Bytes::copy_from_slice(key.as_ref()),
            Bound::Excluded(key) => after_key(key.as_ref()),
            Bound::Unbounded => Bytes::new(),
        };
        let (end, bounded) = match range.end_bound() {
            Bound::Included(key) => (after_key(key.as_ref()), true),
            Bound::Excluded(key) => (Bytes::copy_from_slice(key.as_ref()), true),
            Bound::Unbounded => (Bytes::new(), false),
        };
        let is_empty = bounded && start >= end;
        Self { start, end, is_empty }
    }

    pub(crate) fn prefix(prefix: &[u8]) -> Self {
        Self { start: Bytes::copy_from_slice(prefix), end: prefix_end(prefix), is_empty: false }
    }

    pub(crate) fn key(key: &[u8]) -> Self {
        Self { start: Bytes::copy_from_slice(key), end: after_key(key), is_empty: key.is_empty() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_become_a_start_and_an_end() {
        let range = |start: &'static str, end: &'static str| KeyRange {
            start: start.into(),
            end: end.into(),
            is_empty: false,
        };
        assert_eq!(KeyRange::of(&("a".."c")), range("a", "c"));
        assert_eq!(KeyRange::of(&("a"..="c")), range("a", "c\0"));
        assert_eq!(KeyRange::of(&("a"..)), range("a", ""));
        assert_eq!(KeyRange::of::<&str>(&(..)), range("", ""));
        assert_eq!(KeyRange::prefix(b"a/"), range("a/", "a0"));
        assert_eq!(KeyRange::key(b"a"), range("a", "a\0"));
        assert!(KeyRange::of(&("b".."a")).is_empty);
        assert!(KeyRange::of(&("".."")).is_empty);
    }
}
