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
//! Everything else that kvd can do is under [`super::v1`].
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
use http::StatusCode;
use kvd_types::{
    Error, Key, Lifetime, Outcome, Record, Revision, Write, WriteOp,
    limits::MESSAGE_BYTES_MAX,
    operation::{Reply, Request, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Shared,
    answer::{Failure, KeyField, VersionField},
    input::{bytes_of, condition, key_of_path, parse_body},
    query,
};
use crate::front::deadline_after;

/// Largest body: a value of 1 MiB whose every byte is escaped as `\u00xx`, with its key, and some.
pub(super) const BODY_BYTES_MAX: usize = MESSAGE_BYTES_MAX;

const PATH_PREFIX: &str = "/store/";

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = StorePut)]
pub(super) struct PutBody {
    /// The key, if it is text.
    key: Option<String>,
    /// The key in base64, instead.
    key_base64: Option<String>,
    /// The value, if it is text.
    value: Option<String>,
    /// The value in base64, instead.
    value_base64: Option<String>,
    /// Only if there is no such key.
    #[serde(default)]
    if_absent: bool,
    /// Only if the key's last write was at this revision.
    if_revision: Option<String>,
    /// Give the version that was replaced.
    #[serde(default)]
    prev: bool,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PutParameters {
    /// How long the answer is of use, in milliseconds.
    timeout_ms: Option<u64>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct GetParameters {
    /// The key in the path is in base64.
    #[serde(default, deserialize_with = "query::flag")]
    key_base64: bool,
    /// How long the answer is of use, in milliseconds.
    timeout_ms: Option<u64>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DeleteParameters {
    /// The key in the path is in base64.
    #[serde(default, deserialize_with = "query::flag")]
    key_base64: bool,
    /// Only if the key's last write was at this revision.
    if_revision: Option<String>,
    /// Give the version that was removed.
    #[serde(default, deserialize_with = "query::flag")]
    prev: bool,
    /// How long the answer is of use, in milliseconds.
    timeout_ms: Option<u64>,
}

/// The answer to a get.
#[derive(Serialize, ToSchema)]
#[schema(as = StoreGot)]
pub(super) struct Got {
    #[serde(flatten)]
    key: KeyField,
    #[serde(flatten)]
    version: VersionField,
}

/// The answer to a write.
#[derive(Serialize, ToSchema)]
pub(super) struct Written {
    /// "success".
    status: &'static str,
    #[serde(flatten)]
    key: KeyField,
    /// The revision of the write.
    revision: String,
    /// Of a put: the revision at which the key came into being.
    #[serde(skip_serializing_if = "Option::is_none")]
    create_revision: Option<String>,
    /// Of a put: 1 if it created the key, one more with each write since.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    /// If asked for: the version that was replaced or removed, or null.
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<Option<VersionField>>,
}

impl Written {
    /// What a delete has done.
    pub(super) fn removed(key: &Key, revision: Revision, previous: Option<&Record>, wanted: bool) -> Self {
        Self {
            status: "success",
            key: KeyField::new(key),
            revision: revision.to_string(),
            create_revision: None,
            version: None,
            previous: wanted.then(|| previous.map(VersionField::whole)),
        }
    }

    /// What a put has done.
    pub(super) fn now_at(self, create_revision: Revision, version: u64) -> Self {
        let (create_revision, version) = (Some(create_revision.to_string()), Some(version.to_string()));
        Self { create_revision, version, ..self }
    }
}

/// Sets a key.
#[utoipa::path(
    put, path = "/store", tag = "store", operation_id = "store_put", params(PutParameters), request_body = PutBody,
    responses((status = 200, description = "The key is set", body = Written),
        (status = 412, description = "The condition does not hold: nothing has changed", body = Failure)),
)]
pub(super) async fn put(
    State(shared): State<Shared>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Written>, Failure> {
    let Query(parameters) = query::of::<PutParameters>(&uri)?;
    let kept = shared.bodies.read(&headers, body, BODY_BYTES_MAX).await?;
    let op = parse_put(&kept.bytes).map_err(|error| Failure::of_write(&error))?;
    let (key, want_previous) = match &op {
        WriteOp::Put { key, want_previous, .. } => (key.clone(), *want_previous),
        _ => return Err(Failure::of_write(&Error::internal("a put was parsed as something else"))),
    };
    match write(&shared, "put", op, parameters.timeout_ms).await? {
        Response::Put(Outcome::Put { revision, create_revision, version, previous }) => {
            let written = Written::removed(&key, revision, previous.as_ref(), want_previous);
            Ok(Json(written.now_at(create_revision, version)))
        }
        Response::Put(Outcome::ConditionFailed { current }) => {
            Err(Failure::condition(&key, current.as_ref(), want_previous))
        }
        other => Err(Failure::of_write(&mismatch(&other))),
    }
}

/// Reads a key.
#[utoipa::path(
    get, path = "/store/{key}", tag = "store", operation_id = "store_get",
    params(("key" = String, Path, description = "The key, percent-encoded; it may have slashes"), GetParameters),
    responses((status = 200, description = "The key", body = Got),
        (status = 404, description = "There is no such key", body = Failure)),
)]
pub(super) async fn get(State(shared): State<Shared>, uri: Uri) -> Result<Json<Got>, Failure> {
    let Query(parameters) = query::of::<GetParameters>(&uri)?;
    let key =
        key_of_path(&uri, PATH_PREFIX, parameters.key_base64).map_err(|error| Failure::of_read(&error))?;
    let deadline = deadline_after(parameters.timeout_ms.map(Duration::from_millis));
    let reply = shared.front.execute("get", "http", Ok(Request::get(key.clone())), deadline).await;
    match reply.map(|reply| reply.response).map_err(|error| Failure::of_read(&error))? {
        Response::Got(Some((key, record))) => {
            Ok(Json(Got { key: KeyField::new(&key), version: VersionField::whole(&record) }))
        }
        Response::Got(None) => Err(Failure::not_found(&key)),
        other => Err(Failure::of_read(&mismatch(&other))),
    }
}

/// Removes a key.
#[utoipa::path(
    delete, path = "/store/{key}", tag = "store", operation_id = "store_delete",
    params(("key" = String, Path, description = "The key, percent-encoded; it may have slashes"), DeleteParameters),
    responses((status = 200, description = "The key is gone", body = Written),
        (status = 404, description = "There is no such key", body = Failure),
        (status = 412, description = "The condition does not hold: nothing has changed", body = Failure)),
)]
pub(super) async fn delete(State(shared): State<Shared>, uri: Uri) -> Result<Json<Written>, Failure> {
    let Query(parameters) = query::of::<DeleteParameters>(&uri)?;
    let key =
        key_of_path(&uri, PATH_PREFIX, parameters.key_base64).map_err(|error| Failure::of_write(&error))?;
    let condition =
        condition(false, parameters.if_revision.as_deref()).map_err(|error| Failure::of_write(&error))?;
    let op = WriteOp::Delete { key: key.clone(), condition, want_previous: parameters.prev };
    match write(&shared, "delete", op, parameters.timeout_ms).await? {
        Response::Deleted(Outcome::Deleted { revision, previous }) => {
            Ok(Json(Written::removed(&key, revision, previous.as_ref(), parameters.prev)))
        }
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
    let request = Request::write(Write { session: None, op });
    let reply = shared.front.execute(method, "http", Ok(request), deadline).await;
    reply.map(|Reply { response, .. }| response).map_err(|error| Failure::of_write(&error))
}

/// A reply of the wrong kind is a bug of the core's; what happened can't be told from it.
pub(super) fn mismatch(response: &Response) -> Error {
    tracing::error!(?response, "the store answered with a reply of another kind");
    Error::internal("the store answered with a reply of another kind")
}

fn parse_put(body: &[u8]) -> Result<WriteOp, Error> {
    let body: PutBody = parse_body(body, r#"{"key":"user:123","value":"John Doe"}"#)?;
    Ok(WriteOp::Put {
        key: Key::new(bytes_of("key", body.key, body.key_base64)?)?,
        value: bytes_of("value", body.value, body.value_base64)?,
        lifetime: Lifetime::Forever,
        condition: condition(body.if_absent, body.if_revision.as_deref())?,
        want_previous: body.prev,
    })
}
