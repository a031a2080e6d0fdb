//! What comes in as JSON, or in an address: bytes, numbers and conditions.
//!
//! JSON has no bytes, and its numbers lose 64-bit revisions in many languages. So a key or value that isn't UTF-8 comes under
//! its name with `_base64`, and revisions, versions and ids of leases are text. Times are numbers: the longest, in
//! milliseconds, is far below what is lost.

use axum::http::Uri;
use base64::{
    Engine as _,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use kvd_types::{Condition, Error, Key, LeaseId, Lifetime, Revision};
use serde::de::DeserializeOwned;

pub(super) fn bytes_of(name: &str, text: Option<String>, base64: Option<String>) -> Result<Bytes, Error> {
    match (text, base64) {
        (Some(text), None) => Ok(Bytes::from(text)),
        (None, Some(base64)) => from_base64(&format!("{name}_base64"), &base64),
        (None, None) => Err(Error::invalid(format!("the body needs {name} or {name}_base64"))),
        (Some(_), Some(_)) => {
            Err(Error::invalid(format!("the body has both {name} and {name}_base64; give one of them")))
        }
    }
}

/// Bytes from base64 in either alphabet, with or without padding.
pub(super) fn from_base64(name: &str, text: &str) -> Result<Bytes, Error> {
    const CONFIG: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let alphabet = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    let decoded = GeneralPurpose::new(alphabet, CONFIG).decode(text);
    decoded.map(Bytes::from).map_err(|error| Error::invalid(format!("{name} is not base64: {error}")))
}

pub(super) fn condition(if_absent: bool, if_revision: Option<&str>) -> Result<Condition, Error> {
    match (if_absent, if_revision) {
        (false, None) => Ok(Condition::Always),
        (true, None) => Ok(Condition::Absent),
        (false, Some(text)) => {
            let revision = text.parse().map_err(|_| {
                Error::invalid(format!(
                    "if_revision is \"{text}\"; it must be a revision as in an earlier answer, as text"
                ))
            })?;
            Ok(Condition::RevisionIs(Revision(revision)))
        }
        (true, Some(_)) => Err(Error::invalid("if_absent and if_revision can't both hold; give one of them")),
    }
}

/// The key after a prefix of the path. Taken from the address as it came: a key is bytes, not a path of text.
pub(super) fn key_of_path(uri: &Uri, prefix: &str, is_base64: bool) -> Result<Key, Error> {
    let encoded = uri.path().strip_prefix(prefix).unwrap_or_default();
    let decoded: Vec<u8> = percent_encoding::percent_decode_str(encoded).collect();
    if !is_base64 {
        return Key::new(decoded);
    }
    let text = String::from_utf8(decoded).map_err(|_| Error::invalid("the key in the path is not base64"))?;
    Key::new(from_base64("the key in the path", &text)?)
}

/// A number of 64 bits that came as text.
pub(super) fn number(name: &str, text: &str) -> Result<u64, Error> {
    text.parse().map_err(|_| {
        Error::invalid(format!("{name} is \"{text}\"; it must be a whole number from 0 to 2^64 - 1, as text"))
    })
}

/// Until when a key is there.
pub(super) fn lifetime(ttl_ms: Option<u64>, lease: Option<&str>) -> Result<Lifetime, Error> {
    match (ttl_ms, lease) {
        (None, None) => Ok(Lifetime::Forever),
        (Some(ttl_ms), None) => Ok(Lifetime::Ttl(ttl_ms)),
        (None, Some(lease)) => Ok(Lifetime::Lease(LeaseId(number("lease", lease)?))),
        (Some(_), Some(_)) => {
            Err(Error::invalid("a key has a time to live or a lease, not both: give ttl_ms or lease"))
        }
    }
}

/// A body, which must look like this example.
pub(super) fn parse_body<T: DeserializeOwned>(body: &[u8], example: &str) -> Result<T, Error> {
    serde_json::from_slice(body)
        .map_err(|error| Error::invalid(format!("the body must be JSON such as {example}: {error}")))
}
