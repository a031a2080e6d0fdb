//! The part of an address after `?`. What isn't known there is refused: a misspelt condition must not be passed over.

use axum::{extract::Query, http::Uri};
use http::StatusCode;
use serde::{Deserialize as _, Deserializer, de::DeserializeOwned, de::Error as _};

use super::answer::Failure;

/// The parameters of an address.
///
/// # Errors
/// 400, for what isn't known or makes no sense.
pub(super) fn of<T: DeserializeOwned>(uri: &Uri) -> Result<Query<T>, Failure> {
    let raw = uri.query().unwrap_or_default();
    if percent_encoding::percent_decode_str(raw).decode_utf8().is_err() {
        // It would be mended silently, and mean other bytes.
        let message = "the part after ? is not UTF-8; bytes that aren't text go in base64";
        return Err(Failure::new(StatusCode::BAD_REQUEST, "invalid_argument", message));
    }
    Query::try_from_uri(uri)
        .map_err(|error| Failure::new(StatusCode::BAD_REQUEST, "invalid_argument", error.body_text()))
}

/// A flag: set by its name alone, by `=1` or by `=true`.
pub(super) fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    match String::deserialize(deserializer)?.as_str() {
        "" | "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        other => Err(D::Error::custom(format!("\"{other}\" is neither 1 nor 0"))),
    }
}
