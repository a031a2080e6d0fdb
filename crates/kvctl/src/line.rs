//! The lines of an import or export: one JSON object each, `{"key": "...", "value": "..."}`.
//!
//! Keys and values are bytes, JSON strings are text: what is not UTF-8 goes under `key_base64` or `value_base64` instead.
//! An export writes text wherever it can, and an import reads both, so that the two are inverse to each other.

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
    prelude::BASE64_STANDARD,
};
use bytes::Bytes;
use kvd_client::Key;
use serde::{Deserialize, Serialize};

/// Longest line, in bytes: the longest key and value with every character escaped.
pub(crate) const LINE_BYTES_MAX: usize = 8 << 20;

const CONFIG: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, CONFIG);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, CONFIG);

/// A key and its value as they stand in a line.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

impl Line {
    pub(crate) fn new(key: &Key, value: &Bytes) -> Self {
        let (key, key_base64) = text_or_base64(key.as_bytes());
        let (value, value_base64) = text_or_base64(value);
        Self { key, key_base64, value, value_base64 }
    }
}

/// Bytes as text, or else in base64.
pub(crate) fn text_or_base64(bytes: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(BASE64_STANDARD.encode(bytes))),
    }
}

/// The key and value of a line.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn parse(line: &[u8]) -> Result<(Key, Bytes), String> {
    let line: Line =
        serde_json::from_slice(line).map_err(|error| format!("not a JSON object of strings: {error}"))?;
    let key = bytes("key", line.key, line.key_base64)?;
    let value = bytes("value", line.value, line.value_base64)?;
    Ok((Key::new(key).map_err(|error| error.message)?, value))
}

/// Bytes that stand as text, or else in base64.
///
/// # Errors
/// Neither, both, or no base64.
pub(crate) fn bytes(name: &str, text: Option<String>, base64: Option<String>) -> Result<Bytes, String> {
    match (text, base64) {
        (Some(text), None) => Ok(text.into()),
        (None, Some(base64)) => STANDARD
            .decode(&base64)
            .or_else(|_| URL_SAFE.decode(&base64))
            .map(Bytes::from)
            .map_err(|error| format!("{name}_base64 is not base64: {error}")),
        (None, None) => Err(format!("there is neither {name} nor {name}_base64")),
        (Some(_), Some(_)) => Err(format!("there are both {name} and {name}_base64")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(line: &str, key: &[u8], value: &[u8]) {
        let parsed = parse(line.as_bytes()).unwrap();
        assert_eq!((parsed.0.as_bytes(), &parsed.1[..]), (key, value));
    }

    #[test]
    fn lines() {
        check(r#"{"key":"a","value":""}"#, b"a", b"");
        check(r#"{"value": "\u00e9\n", "key": "a b", "revision": "7"}"#, b"a b", "\u{e9}\n".as_bytes());
        check(r#"{"key_base64":"/wA=","value_base64":"_wA"}"#, b"\xff\0", b"\xff\0");
    }

    #[test]
    fn wrong_lines_say_what_is_wrong() {
        for (line, what) in [
            ("", "not a JSON object"),
            ("[]", "not a JSON object"),
            (r#"{"key":1,"value":"v"}"#, "not a JSON object of strings"),
            (r#"{"key":"k"}"#, "neither value nor value_base64"),
            (r#"{"value":"v"}"#, "neither key nor key_base64"),
            (r#"{"key":"k","key_base64":"aw==","value":"v"}"#, "both key and key_base64"),
            (r#"{"key":"k","value_base64":"!"}"#, "value_base64 is not base64"),
            (r#"{"key":"","value":"v"}"#, "the key is empty"),
        ] {
            let error = parse(line.as_bytes()).unwrap_err();
            assert!(error.contains(what), "{line}: {error}");
        }
    }

    proptest! {
        #[test]
        fn an_import_reads_what_an_export_writes(
            key in proptest::collection::vec(any::<u8>(), 1..20),
            value in proptest::collection::vec(any::<u8>(), 0..20),
            text in ".{0,20}",
        ) {
            for value in [value, text.into_bytes()] {
                let (key, value) = (Key::new(key.clone()).unwrap(), Bytes::from(value));
                let line = serde_json::to_vec(&Line::new(&key, &value)).unwrap();
                prop_assert!(!line.contains(&b'\n'));
                prop_assert_eq!(parse(&line), Ok((key, value)));
            }
        }
    }
}
