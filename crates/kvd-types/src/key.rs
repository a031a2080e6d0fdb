//! A key, and its partition key.
//!
//! A key is 1 to [`KEY_BYTES_MAX`] bytes of anything, ordered bytewise. Its *partition key* is what the ring hashes: the
//! part between the first `{` and the next `}` if that is non-empty, else the whole key (the rule of Redis Cluster's
//! hash tags), so that `{user:7}/name` and `{user:7}/mail` share a shard.

use std::fmt;

use bytes::Bytes;

use crate::{Error, limits::KEY_BYTES_MAX};

/// A key: 1 to [`KEY_BYTES_MAX`] bytes. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Bytes);

impl Key {
    /// Checks the length.
    ///
    /// # Errors
    /// Invalid argument, for an empty or over-long key.
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, Error> {
        let bytes = bytes.into();
        match bytes.len() {
            0 => Err(Error::invalid("the key is empty; a key has 1 to 4096 bytes")),
            1..=KEY_BYTES_MAX => Ok(Self(bytes)),
            length => Err(Error::invalid(format!(
                "the key has {length} bytes; a key has 1 to {KEY_BYTES_MAX} bytes"
            ))),
        }
    }

    /// The key's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The key's bytes, shared.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// The key's bytes, without a copy.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.0
    }

    /// What the ring hashes.
    #[must_use]
    pub fn partition_key(&self) -> &[u8] {
        partition_key(&self.0)
    }
}

/// The partition key of a key's bytes.
#[must_use]
pub fn partition_key(key: &[u8]) -> &[u8] {
    let tag = || {
        let after_open = key.get(key.iter().position(|&byte| byte == b'{')? + 1..)?;
        let length = after_open.iter().position(|&byte| byte == b'}')?;
        (length > 0).then(|| &after_open[..length])
    };
    tag().unwrap_or(key)
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// For messages: the key as text, escaped where it isn't, cut after 64 bytes.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_BYTES: usize = 64;
        let shown = &self.0[..self.0.len().min(SHOWN_BYTES)];
        write!(f, "{}", shown.escape_ascii())?;
        if self.0.len() > SHOWN_BYTES { f.write_str("…") } else { Ok(()) }
    }
}

impl TryFrom<&str> for Key {
    type Error = Error;

    fn try_from(text: &str) -> Result<Self, Error> {
        Self::new(Bytes::copy_from_slice(text.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn partition_keys() {
        for (key, expected) in [
            ("user:7", "user:7"),
            ("{user:7}/name", "user:7"),
            ("a{b}c{d}", "b"),
            ("{}x", "{}x"),
            ("a{b", "a{b"),
            ("a}b{c}", "c"),
            ("{{a}}", "{a"),
            ("}{", "}{"),
        ] {
            assert_eq!(partition_key(key.as_bytes()), expected.as_bytes(), "{key}");
        }
    }

    #[test]
    fn length_is_checked() {
        assert!(Key::new("").is_err());
        assert!(Key::new(vec![0; KEY_BYTES_MAX]).is_ok());
        let error = Key::new(vec![0; KEY_BYTES_MAX + 1]).unwrap_err();
        assert!(error.message.contains("4097"), "{error}");
    }

    proptest! {
        #[test]
        fn a_partition_key_is_a_non_empty_part_of_the_key(key in proptest::collection::vec(any::<u8>(), 1..64)) {
            let part = partition_key(&key);
            prop_assert!(!part.is_empty());
            prop_assert!(key.windows(part.len()).any(|window| window == part));
        }
    }
}
