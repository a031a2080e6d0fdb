//! Which keys a verb is about: one key, a range, or a prefix.
//!
//! What can only be a mistake is refused before anything is sent: a range that ends before it starts, and an empty word where a
//! key should be, as a variable that isn't set leaves one.

use std::ops::Bound;

use kvd_client::{Client, DeleteRange, Key, Scan, Watch};

use crate::{
    cli::Selector,
    failure::{Failure, Result},
};

/// Which keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Selection {
    /// One.
    Key(Key),
    /// From the first one up to, but without, the second one if there is one.
    Range(Vec<u8>, Option<Vec<u8>>),
    /// Those that begin so.
    Prefix(Vec<u8>),
}

/// What a key alone stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alone {
    /// Itself.
    Key,
    /// It and all after it.
    Start,
}

impl Selection {
    pub(super) fn new(selector: &Selector, alone: Alone) -> Result<Self> {
        let bytes = |word: &std::ffi::OsString| word.clone().into_encoded_bytes();
        let Some(key) = &selector.key else { return Ok(Self::Prefix(Vec::new())) };
        let key = bytes(key);
        if selector.prefix {
            return Ok(Self::Prefix(key));
        }
        if selector.from_key {
            return Ok(Self::Range(key, None));
        }
        let Some(end) = &selector.range_end else {
            return match alone {
                Alone::Key => Ok(Self::Key(Key::new(key)?)),
                Alone::Start => Ok(Self::Range(Key::new(key)?.into_bytes().into(), None)),
            };
        };
        let end = bytes(end);
        if end.is_empty() {
            return Err(Failure::Input(
                "the end of the range is empty; for all keys from a key on use --from-key".into(),
            ));
        }
        if end <= key {
            return Err(Failure::Input(format!(
                "no key lies in the range: it starts at {} and ends before {}",
                key.escape_ascii(),
                end.escape_ascii()
            )));
        }
        Ok(Self::Range(key, Some(end)))
    }

    /// Whether it is all keys.
    pub(super) const fn is_everything(&self) -> bool {
        match self {
            Self::Key(_) => false,
            Self::Range(start, end) => start.is_empty() && end.is_none(),
            Self::Prefix(prefix) => prefix.is_empty(),
        }
    }

    pub(super) fn scan(&self, client: &Client) -> Scan {
        match self {
            Self::Prefix(prefix) => client.scan_prefix(prefix),
            range => client.scan::<&[u8]>(range.bounds()),
        }
    }

    pub(super) fn delete(&self, client: &Client) -> DeleteRange {
        match self {
            Self::Prefix(prefix) => client.delete_prefix(prefix),
            range => client.delete_range::<&[u8]>(range.bounds()),
        }
    }

    pub(super) fn watch(&self, client: &Client) -> Watch {
        match self {
            Self::Prefix(prefix) => client.watch_prefix(prefix),
            range => client.watch::<&[u8]>(range.bounds()),
        }
    }

    fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        match self {
            Self::Key(key) => (Bound::Included(key.as_bytes()), Bound::Included(key.as_bytes())),
            Self::Prefix(start) | Self::Range(start, None) => (Bound::Included(start), Bound::Unbounded),
            Self::Range(start, Some(end)) => (Bound::Included(start), Bound::Excluded(end)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(key: &str, range_end: Option<&str>) -> Selector {
        Selector { key: Some(key.into()), range_end: range_end.map(Into::into), ..Selector::default() }
    }

    #[test]
    fn words_become_a_selection() {
        let key = Selection::Key(Key::try_from("a").unwrap());
        let a = || selector("a", None);
        let range =
            |end: Option<&str>| Selection::Range(b"a".to_vec(), end.map(|end| end.as_bytes().to_vec()));
        for (selector, alone, selection) in [
            (a(), Alone::Key, key),
            (a(), Alone::Start, range(None)),
            (Selector { from_key: true, ..a() }, Alone::Key, range(None)),
            (Selector { prefix: true, ..a() }, Alone::Key, Selection::Prefix(b"a".to_vec())),
            (selector("a", Some("b")), Alone::Key, range(Some("b"))),
            (Selector { all: true, ..Selector::default() }, Alone::Key, Selection::Prefix(Vec::new())),
        ] {
            assert_eq!(Selection::new(&selector, alone).unwrap(), selection, "{selector:?}");
        }
    }

    #[test]
    fn mistakes_are_refused() {
        for (key, end) in [("", None), ("a", Some("")), ("b", Some("a")), ("a", Some("a"))] {
            assert!(Selection::new(&selector(key, end), Alone::Key).is_err(), "{key:?} {end:?}");
        }
        assert!(Selection::new(&selector("", None), Alone::Start).is_err());
    }

    #[test]
    fn everything_is_known_however_it_is_said() {
        let empty = |prefix, from_key| Selector { prefix, from_key, ..selector("", None) };
        for selector in [empty(true, false), empty(false, true)] {
            assert!(Selection::new(&selector, Alone::Key).unwrap().is_everything());
        }
        assert!(!Selection::new(&selector("", Some("b")), Alone::Key).unwrap().is_everything());
    }
}
