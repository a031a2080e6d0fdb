//! The range of keys that an address names.

use bytes::Bytes;
use kvd_types::{Error, Key, Result, operation::check_range};

use super::super::input::from_base64;

/// A range of keys: from `start` on (empty: from the first one), before `end` (empty: to the last one).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) start: Bytes,
    pub(super) end: Bytes,
}

/// A range as it is named.
#[derive(Default)]
pub(super) struct Named {
    pub(super) start: Option<String>,
    pub(super) end: Option<String>,
    pub(super) prefix: Option<String>,
    pub(super) key: Option<String>,
    pub(super) is_base64: bool,
}

impl Bounds {
    /// The range that is named by a start and an end, a prefix, or one key.
    pub(super) fn of(named: Named) -> Result<Self> {
        let is_base64 = named.is_base64;
        let bytes = |name: &str, text: Option<String>| match text {
            None => Ok(None),
            Some(text) if is_base64 => from_base64(name, &text).map(Some),
            Some(text) => Ok(Some(Bytes::from(text))),
        };
        let (start, end) = (bytes("start", named.start)?, bytes("end", named.end)?);
        let (prefix, key) = (bytes("prefix", named.prefix)?, bytes("key", named.key)?);
        let ways = [start.is_some() || end.is_some(), prefix.is_some(), key.is_some()];
        if ways.into_iter().filter(|is_used| *is_used).count() > 1 {
            return Err(Error::invalid(
                "the range is named twice: give start and end, or prefix, or where it is possible key",
            ));
        }
        if let Some(prefix) = prefix {
            return Ok(Self { end: after_prefix(&prefix), start: prefix });
        }
        if let Some(key) = key {
            let key = Key::new(key)?;
            let end = [key.as_bytes(), &[0]].concat();
            return Ok(Self { start: key.into_bytes(), end: end.into() });
        }
        let (start, end) = (start.unwrap_or_default(), end.unwrap_or_default());
        check_range(&start, &end)?;
        Ok(Self { start, end })
    }

    /// Whether it is all keys.
    pub(super) const fn is_everything(&self) -> bool {
        self.start.is_empty() && self.end.is_empty()
    }

    /// Whether no key can be in it.
    pub(super) fn is_nothing(&self) -> bool {
        !self.end.is_empty() && self.start == self.end
    }
}

/// The first key after all that begin so; empty: there is none.
fn after_prefix(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            break;
        }
    }
    end.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_a_prefix() {
        for (prefix, end) in [
            (&b""[..], &b""[..]),
            (b"a", b"b"),
            (b"a/", b"a0"),
            (b"a\xff", b"b"),
            (b"a\xff\xff", b"b"),
            (b"\xff\xff", b""),
            (b"a\xfeb", b"a\xfec"),
        ] {
            assert_eq!(after_prefix(prefix), end, "{}", prefix.escape_ascii());
        }
    }

    #[test]
    fn one_key_is_a_range_of_that_key() {
        let bounds = Bounds::of(Named { key: Some("a".to_owned()), ..Named::default() }).unwrap();
        assert_eq!(bounds, Bounds { start: Bytes::from("a"), end: Bytes::from("a\0") });
    }
}
