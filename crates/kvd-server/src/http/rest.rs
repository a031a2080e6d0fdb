//! The REST interface: keys and values as JSON.
//!
//! # Setting a key
//! `PUT /store` with `{"key":"user:123","value":"John Doe"}` answers
//! `{"status":"success","key":"user:123","revision":"…","create_revision":"…","version":"1"}`. More that the body may say:
//! - `key_base64`, `value_base64` in place of `key`, `value`: bytes that aren't UTF-8, in base64 (either alphabet);
//! - `"if_absent":true`: only if the key does not exist; `"if_revision":"123"`: only if its current version was written
//!   at that revision. If it doesn't hold: 412 with the `current` version;
//! - `"prev":true`: the answer has the replaced version as `previous`.
//!
//! # Reading and removing a key
//! `GET /store/{key}` answers `{"key":…,"value":…,"revision":…,"create_revision":…,"version":…}` or 404. `DELETE
//! /store/{key}` answers `{"status":"success",…}` or 404, and takes `?if_revision=…` and `?prev`. The key is everything
//! after `/store/`, percent-decoded: `/store/a/b` and `/store/a%2Fb` are both the key `a/b`, and `/store/%FF` is a byte
//! that isn't text. Where percent-encoding is unhandy, `/store/{key in base64}?key_base64` does too.
//!
//! Each takes `?timeout_ms=…`: how long the answer is of use.
//!
//! # What is deliberately absent
//! No sessions: a retry after 504 with `"outcome":"unknown"` is a second write, unless it has a condition.

use std::time::Duration;

use axum::{
    Json,
    body::Body,
    extract::{Query, State},
    http::{HeaderMap, Uri},
};
use base64::{
    Engine as _,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use http::StatusCode;
use kvd_types::{
    Condition, Error, Key, Outcome, Record, Revision, Write, WriteOp,
    limits::MESSAGE_BYTES_MAX,
    operation::{Reply, Request, Response},
};
use serde::{Deserialize, Serialize};

use super::{
    Shared,
    answer::{Failure, KeyField, VersionField},
    query,
};
use crate::front::deadline_after;

/// Largest body: a value of 1 MiB whose every byte is escaped as `\u00xx`, with its key, and some.
pub(super) const BODY_BYTES_MAX: usize = MESSAGE_BYTES_MAX;

const PATH_PREFIX: &str = "/store/";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PutBody {
    key: Option<String>,
    key_base64: Option<String>,
    value: Option<String>,
    value_base64: Option<String>,
    #[serde(default)]
    if_absent: bool,
    if_revision: Option<String>,
    #[serde(default)]
    prev: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PutParameters {
    timeout_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GetParameters {
    #[serde(default, deserialize_with = "query::flag")]
    key_base64: bool,
    timeout_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeleteParameters {
    #[serde(default, deserialize_with = "query::flag")]
    key_base64: bool,
    if_revision: Option<String>,
    #[serde(default, deserialize_with = "query::flag")]
    prev: bool,
    timeout_ms: Option<u64>,
}

/// The answer to a get.
#[derive(Serialize)]
pub(super) struct Got {
    #[serde(flatten)]
    key: KeyField,
    #[serde(flatten)]
    version: VersionField,
}

/// The answer to a write.
#[derive(Serialize)]
pub(super) struct Written {
    status: &'static str,
    #[serde(flatten)]
    key: KeyField,
    revision: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    create_revision: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    /// If asked for: the version that was replaced or removed, or null.
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<Option<VersionField>>,
}

pub(super) async fn put(
    State(shared): State<Shared>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Written>, Failure> {
    let Query(parameters) = query::of::<PutParameters>(&uri)?;
    let kept = shared.bodies.read(&headers, body, BODY_BYTES_MAX).await?;
    let op = parse_put(&kept.bytes).map_err(|error| Failure::of_write(&error))?;
    let (key, want_previous) = (op.key().clone(), matches!(op, WriteOp::Put { want_previous: true, .. }));
    match write(&shared, "put", op, parameters.timeout_ms).await? {
        Response::Put(Outcome::Put { revision, create_revision, version, previous }) => Ok(Json(Written {
            status: "success",
            key: KeyField::new(&key),
            revision: revision.to_string(),
            create_revision: Some(create_revision.to_string()),
            version: Some(version.to_string()),
            previous: previous_field(previous.as_ref(), want_previous),
        })),
        Response::Put(Outcome::ConditionFailed { current }) => {
            Err(Failure::condition(&key, current.as_ref(), want_previous))
        }
        other => Err(Failure::of_write(&mismatch(&other))),
    }
}

pub(super) async fn get(State(shared): State<Shared>, uri: Uri) -> Result<Json<Got>, Failure> {
    let Query(parameters) = query::of::<GetParameters>(&uri)?;
    let key = key_of_path(&uri, parameters.key_base64).map_err(|error| Failure::of_read(&error))?;
    let deadline = deadline_after(parameters.timeout_ms.map(Duration::from_millis));
    let reply = shared.front.execute("get", "http", Ok(Request::Get(key.clone())), deadline).await;
    match reply.map(|reply| reply.response).map_err(|error| Failure::of_read(&error))? {
        Response::Got(Some((key, record))) => {
            Ok(Json(Got { key: KeyField::new(&key), version: VersionField::whole(&record) }))
        }
        Response::Got(None) => Err(Failure::not_found(&key)),
        other => Err(Failure::of_read(&mismatch(&other))),
    }
}

pub(super) async fn delete(State(shared): State<Shared>, uri: Uri) -> Result<Json<Written>, Failure> {
    let Query(parameters) = query::of::<DeleteParameters>(&uri)?;
    let key = key_of_path(&uri, parameters.key_base64).map_err(|error| Failure::of_write(&error))?;
    let condition =
        condition(false, parameters.if_revision.as_deref()).map_err(|error| Failure::of_write(&error))?;
    let op = WriteOp::Delete { key: key.clone(), condition, want_previous: parameters.prev };
    match write(&shared, "delete", op, parameters.timeout_ms).await? {
        Response::Deleted(Outcome::Deleted { revision, previous }) => Ok(Json(Written {
            status: "success",
            key: KeyField::new(&key),
            revision: revision.to_string(),
            create_revision: None,
            version: None,
            previous: previous_field(previous.as_ref(), parameters.prev),
        })),
        Response::Deleted(Outcome::NotFound) => Err(Failure::not_found(&key).not_applied()),
        Response::Deleted(Outcome::ConditionFailed { current }) => {
            Err(Failure::condition(&key, current.as_ref(), parameters.prev))
        }
        other => Err(Failure::of_write(&mismatch(&other))),
    }
}

/// `/store/` without a key.
pub(super) async fn no_key() -> Failure {
    Failure::new(StatusCode::BAD_REQUEST, "invalid_argument", "the key is missing: /store/{key}")
}

async fn write(
    shared: &Shared,
    method: &'static str,
    op: WriteOp,
    timeout_ms: Option<u64>,
) -> Result<Response, Failure> {
    let deadline = deadline_after(timeout_ms.map(Duration::from_millis));
    let request = Request::Write(Write { session: None, op });
    let reply = shared.front.execute(method, "http", Ok(request), deadline).await;
    reply.map(|Reply { response, .. }| response).map_err(|error| Failure::of_write(&error))
}

fn previous_field(previous: Option<&Record>, wanted: bool) -> Option<Option<VersionField>> {
    wanted.then(|| previous.map(VersionField::whole))
}

/// A reply of the wrong kind is a bug of the core's; what happened can't be told from it.
fn mismatch(response: &Response) -> Error {
    tracing::error!(?response, "the store answered with a reply of another kind");
    Error::internal("the store answered with a reply of another kind")
}

fn parse_put(body: &[u8]) -> Result<WriteOp, Error> {
    let body: PutBody = serde_json::from_slice(body).map_err(|error| {
        Error::invalid(format!(
            "the body must be JSON such as {{\"key\":\"user:123\",\"value\":\"John Doe\"}}: {error}"
        ))
    })?;
    Ok(WriteOp::Put {
        key: Key::new(bytes_of("key", body.key, body.key_base64)?)?,
        value: bytes_of("value", body.value, body.value_base64)?,
        condition: condition(body.if_absent, body.if_revision.as_deref())?,
        want_previous: body.prev,
    })
}

fn bytes_of(name: &str, text: Option<String>, base64: Option<String>) -> Result<Bytes, Error> {
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
fn from_base64(name: &str, text: &str) -> Result<Bytes, Error> {
    const CONFIG: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let alphabet = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    let decoded = GeneralPurpose::new(alphabet, CONFIG).decode(text);
    decoded.map(Bytes::from).map_err(|error| Error::invalid(format!("{name} is not base64: {error}")))
}

fn condition(if_absent: bool, if_revision: Option<&str>) -> Result<Condition, Error> {
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

/// The key after `/store/`. Taken from the address as it came: a key is bytes, not a path of text.
fn key_of_path(uri: &Uri, is_base64: bool) -> Result<Key, Error> {
    let encoded = uri.path().strip_prefix(PATH_PREFIX).unwrap_or_default();
    let decoded: Vec<u8> = percent_encoding::percent_decode_str(encoded).collect();
    if !is_base64 {
        return Key::new(decoded);
    }
    let text = String::from_utf8(decoded).map_err(|_| Error::invalid("the key in the path is not base64"))?;
    Key::new(from_base64("the key in the path", &text)?)
}
