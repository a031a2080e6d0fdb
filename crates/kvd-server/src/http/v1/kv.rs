//! Keys: get, put, delete, and many at once.

use std::{collections::BTreeMap, num::NonZeroU64, time::Duration};

use axum::{
    body::Body,
    extract::{Query, State},
    http::{HeaderMap, Uri},
    response::Response,
};
use futures::future::try_join_all;
use http::StatusCode;
use kvd_types::{
    Error, Key, Outcome, Read, Result, ShardId, Write, WriteOp,
    limits::ANSWER_BYTES_MAX,
    operation::{Ack, Reply, Request, Response as Answer, WriteOptions},
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};

use super::{
    super::{
        Shared,
        answer::{Failure, KeyField, VersionField},
        input::{bytes_of, condition, from_base64, key_of_path, lifetime, number, parse_body},
        query,
        rest::{BODY_BYTES_MAX, Written, mismatch},
    },
    session::{InSession, Level, ReadOptions, Session, check_shard, shard_of},
};
use crate::front::deadline_after;

const PATH_PREFIX: &str = "/v1/kv/";

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = Ack)]
pub(super) enum AckName {
    /// Once a majority of the shard's voters has it on disk.
    #[default]
    Majority,
    /// Once all of them have.
    All,
}

impl From<AckName> for Ack {
    fn from(name: AckName) -> Self {
        match name {
            AckName::Majority => Self::Majority,
            AckName::All => Self::All,
        }
    }
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct GetParameters {
    /// Read what was there as of this revision.
    #[param(value_type = Option<String>)]
    revision: Option<NonZeroU64>,
    /// How recent the read must be.
    consistency: Option<Level>,
    /// With `consistency=bounded`: how far behind it may be, in milliseconds.
    max_staleness_ms: Option<u64>,
    /// What has been seen: the token of an earlier answer.
    session: Option<String>,
    /// Any replica may serve it.
    #[serde(default, deserialize_with = "query::flag")]
    any_replica: bool,
    /// The key in the path is in base64.
    #[serde(default, deserialize_with = "query::flag")]
    key_base64: bool,
    /// How long the answer is of use, in milliseconds.
    timeout_ms: Option<u64>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct PutParameters {
    /// The key in the path is in base64.
    #[serde(default, deserialize_with = "query::flag")]
    key_base64: bool,
    /// What has been seen: the token of an earlier answer.
    session: Option<String>,
    /// How long the answer is of use, in milliseconds.
    timeout_ms: Option<u64>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DeleteParameters {
    /// The key in the path is in base64.
    #[serde(default, deserialize_with = "query::flag")]
    key_base64: bool,
    /// Only if the key's last write was at this revision.
    if_revision: Option<String>,
    /// Give the version that was removed.
    #[serde(default, deserialize_with = "query::flag")]
    prev: bool,
    /// When the delete is acknowledged.
    #[serde(default)]
    ack: AckName,
    /// What has been seen: the token of an earlier answer.
    session: Option<String>,
    /// How long the answer is of use, in milliseconds.
    timeout_ms: Option<u64>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Put)]
struct PutBody {
    /// The value, if it is text.
    value: Option<String>,
    /// The value in base64, instead.
    value_base64: Option<String>,
    /// The key goes by itself after so many milliseconds.
    ttl_ms: Option<u64>,
    /// The key goes when this lease ends.
    lease: Option<String>,
    /// Only if there is no such key.
    #[serde(default)]
    if_absent: bool,
    /// Only if the key's last write was at this revision.
    if_revision: Option<String>,
    /// Give the version that was replaced.
    #[serde(default)]
    prev: bool,
    /// When the put is acknowledged.
    #[serde(default)]
    ack: AckName,
}

/// A key and its version.
#[derive(Serialize, ToSchema)]
pub(super) struct Row {
    #[serde(flatten)]
    key: KeyField,
    #[serde(flatten)]
    version: VersionField,
}

impl Row {
    pub(super) fn new(key: &Key, version: VersionField) -> Self {
        Self { key: KeyField::new(key), version }
    }
}

/// Reads a key.
#[utoipa::path(
    get, path = "/v1/kv/{key}", tag = "keys", operation_id = "get",
    params(("key" = String, Path, description = "The key, percent-encoded; it may have slashes"), GetParameters),
    responses((status = 200, description = "The key", body = InSession<Row>),
        (status = 404, description = "There is no such key", body = Failure),
        (status = 410, description = "What was at that revision has been forgotten", body = Failure)),
)]
pub(in super::super) async fn get(
    State(shared): State<Shared>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let Query(parameters) = query::of::<GetParameters>(&uri)?;
    let options = ReadOptions {
        revision: parameters.revision,
        consistency: parameters.consistency,
        max_staleness_ms: parameters.max_staleness_ms,
        any_replica: parameters.any_replica,
    };
    let deadline = deadline_after(parameters.timeout_ms.map(Duration::from_millis));
    let read = async {
        let key = key_of_path(&uri, PATH_PREFIX, parameters.key_base64)?;
        let mut session = Session::of(&shared, &headers, parameters.session.as_deref())?;
        let shard = options.is_in_session().then(|| shard_of(&shared, &key)).transpose()?;
        let request = Request::Get(key.clone(), options.read(&session, shard)?);
        let Reply { response, served } = shared.front.execute("get", "http", Ok(request), deadline).await?;
        check_shard(shard, &served)?;
        session.sees(&served);
        match response {
            Answer::Got(found) => Ok((key, session, found, served.shard_age_ms)),
            other => Err(mismatch(&other)),
        }
    };
    let (key, session, found, age_ms) = read.await.map_err(|error| Failure::of_read(&error))?;
    match found {
        Some((key, record)) => Ok(session.answer(Row::new(&key, VersionField::at_age(&record, age_ms)))),
        None => Err(Failure::not_found(&key).in_session(session.text())),
    }
}

/// Sets a key.
#[utoipa::path(
    put, path = "/v1/kv/{key}", tag = "keys", operation_id = "put",
    params(("key" = String, Path, description = "The key, percent-encoded; it may have slashes"), PutParameters),
    request_body = PutBody,
    responses((status = 200, description = "The key is set", body = InSession<Written>),
        (status = 412, description = "The condition does not hold: nothing has changed", body = Failure)),
)]
pub(in super::super) async fn put(
    State(shared): State<Shared>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let Query(parameters) = query::of::<PutParameters>(&uri)?;
    let kept = shared.bodies.read(&headers, body, BODY_BYTES_MAX).await?;
    let parsed = || {
        let key = key_of_path(&uri, PATH_PREFIX, parameters.key_base64)?;
        let session = Session::of(&shared, &headers, parameters.session.as_deref())?;
        let body: PutBody = parse_body(&kept.bytes, r#"{"value":"John Doe"}"#)?;
        let op = WriteOp::Put {
            key: key.clone(),
            value: bytes_of("value", body.value, body.value_base64)?,
            lifetime: lifetime(body.ttl_ms, body.lease.as_deref())?,
            condition: condition(body.if_absent, body.if_revision.as_deref())?,
            want_previous: body.prev,
        };
        Ok((key, session, op, body.prev, body.ack))
    };
    let (key, mut session, op, prev, ack) = parsed().map_err(|error| Failure::of_write(&error))?;
    let Reply { response, served } = write(&shared, "put", op, ack, parameters.timeout_ms).await?;
    match response {
        Answer::Put(Outcome::Put { revision, create_revision, version, previous }) => {
            session.sees_write(&served, revision);
            let written = Written::removed(&key, revision, previous.as_ref(), prev);
            Ok(session.answer(written.now_at(create_revision, version)))
        }
        Answer::Put(Outcome::ConditionFailed { current }) => {
            session.sees(&served);
            Err(Failure::condition(&key, current.as_ref(), prev).in_session(session.text()))
        }
        other => Err(Failure::of_write(&mismatch(&other))),
    }
}

/// Removes a key.
#[utoipa::path(
    delete, path = "/v1/kv/{key}", tag = "keys", operation_id = "delete",
    params(("key" = String, Path, description = "The key, percent-encoded; it may have slashes"), DeleteParameters),
    responses((status = 200, description = "The key is gone", body = InSession<Written>),
        (status = 404, description = "There is no such key", body = Failure),
        (status = 412, description = "The condition does not hold: nothing has changed", body = Failure)),
)]
pub(in super::super) async fn delete(
    State(shared): State<Shared>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let Query(parameters) = query::of::<DeleteParameters>(&uri)?;
    let parsed = || {
        let key = key_of_path(&uri, PATH_PREFIX, parameters.key_base64)?;
        let session = Session::of(&shared, &headers, parameters.session.as_deref())?;
        let condition = condition(false, parameters.if_revision.as_deref())?;
        Ok((key.clone(), session, WriteOp::Delete { key, condition, want_previous: parameters.prev }))
    };
    let (key, mut session, op) = parsed().map_err(|error| Failure::of_write(&error))?;
    let reply = write(&shared, "delete", op, parameters.ack, parameters.timeout_ms).await?;
    let Reply { response, served } = reply;
    session.sees(&served);
    match response {
        Answer::Deleted(Outcome::Deleted { revision, previous }) => {
            session.sees_write(&served, revision);
            Ok(session.answer(Written::removed(&key, revision, previous.as_ref(), parameters.prev)))
        }
        Answer::Deleted(Outcome::NotFound) => {
            Err(Failure::not_found(&key).not_applied().in_session(session.text()))
        }
        Answer::Deleted(Outcome::ConditionFailed { current }) => {
            let failure = Failure::condition(&key, current.as_ref(), parameters.prev);
            Err(failure.in_session(session.text()))
        }
        other => Err(Failure::of_write(&mismatch(&other))),
    }
}

/// Makes a write without a session of the shard's: a retry is a second write.
pub(super) async fn write(
    shared: &Shared,
    method: &'static str,
    op: WriteOp,
    ack: AckName,
    timeout_ms: Option<u64>,
) -> Result<Reply, Failure> {
    let deadline = deadline_after(timeout_ms.map(Duration::from_millis));
    let options = WriteOptions { ack: ack.into(), ..WriteOptions::default() };
    let request = Request::Write(Write { session: None, op }, options);
    let reply = shared.front.execute(method, "http", Ok(request), deadline).await;
    reply.map_err(|error| Failure::of_write(&error))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct BodyParameters {
    /// What has been seen: the token of an earlier answer.
    pub(super) session: Option<String>,
    /// How long the answer is of use, in milliseconds.
    pub(super) timeout_ms: Option<u64>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = BatchGet)]
struct BatchGetBody {
    /// The keys, if all are text.
    keys: Option<Vec<String>>,
    /// The keys in base64, instead.
    keys_base64: Option<Vec<String>>,
    /// Read what was there as of this revision.
    revision: Option<String>,
    /// How recent the reads must be.
    consistency: Option<Level>,
    /// With `"consistency":"bounded"`: how far behind they may be, in milliseconds.
    max_staleness_ms: Option<u64>,
    /// Any replica may serve them.
    #[serde(default)]
    any_replica: bool,
}

/// The answer to a batch-get.
#[derive(Serialize, ToSchema)]
#[schema(as = BatchGot)]
pub(super) struct BatchGot {
    /// In the order asked for; null: there is no such key.
    results: Vec<Option<Row>>,
}

/// Reads many keys, each by itself: not all at one moment, unless as of a revision.
#[utoipa::path(
    post, path = "/v1/batch_get", tag = "keys", operation_id = "batch_get", params(BodyParameters),
    request_body = BatchGetBody,
    responses((status = 200, description = "The keys, in the order asked for", body = InSession<BatchGot>),
        (status = 410, description = "What was at that revision has been forgotten", body = Failure)),
)]
pub(in super::super) async fn batch_get(
    State(shared): State<Shared>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let Query(parameters) = query::of::<BodyParameters>(&uri)?;
    let kept = shared.bodies.read(&headers, body, BODY_BYTES_MAX).await?;
    let deadline = deadline_after(parameters.timeout_ms.map(Duration::from_millis));
    let read = async {
        let mut session = Session::of(&shared, &headers, parameters.session.as_deref())?;
        let (keys, options) = parse_batch(&kept.bytes)?;
        // What is wrong with the whole is told of the whole.
        Request::BatchGet(keys.clone(), Read::LINEARIZABLE).check(shared.front.value_bytes_max)?;
        let results = read_batch(&shared, &mut session, keys, options, deadline).await?;
        Ok(session.answer(BatchGot { results }))
    };
    read.await.map_err(|error: Error| Failure::of_read(&error))
}

fn parse_batch(body: &[u8]) -> Result<(Vec<Key>, ReadOptions)> {
    let body: BatchGetBody = parse_body(body, r#"{"keys":["a","b"]}"#)?;
    let keys: Vec<Key> = match (body.keys, body.keys_base64) {
        (Some(keys), None) => keys.into_iter().map(Key::new).collect::<Result<_>>()?,
        (None, Some(keys)) => {
            keys.iter().map(|key| Key::new(from_base64("keys_base64", key)?)).collect::<Result<_>>()?
        }
        _ => return Err(Error::invalid("the body needs keys or keys_base64, and not both")),
    };
    if keys.is_empty() {
        return Err(Error::invalid("the batch has no keys"));
    }
    let revision = body.revision.map(|revision| number("revision", &revision)).transpose()?;
    let zero = || Error::invalid("revision 0 is before every write");
    let revision = revision.map(|revision| NonZeroU64::new(revision).ok_or_else(zero)).transpose()?;
    let (consistency, max_staleness_ms) = (body.consistency, body.max_staleness_ms);
    Ok((keys, ReadOptions { revision, consistency, max_staleness_ms, any_replica: body.any_replica }))
}

/// Reads keys shard by shard: each shard has an age and a revision of its own, which the answer needs.
async fn read_batch(
    shared: &Shared,
    session: &mut Session,
    keys: Vec<Key>,
    options: ReadOptions,
    deadline: Instant,
) -> Result<Vec<Option<Row>>> {
    let mut of_shards: BTreeMap<ShardId, Vec<(usize, Key)>> = BTreeMap::new();
    let count = keys.len();
    for (place, key) in keys.into_iter().enumerate() {
        of_shards.entry(shard_of(shared, &key)?).or_default().push((place, key));
    }
    let seen = &*session;
    let parts = of_shards.into_iter().map(|(shard, keys)| async move {
        let (places, keys): (Vec<_>, Vec<_>) = keys.into_iter().unzip();
        let request = options.read(seen, Some(shard)).map(|read| Request::BatchGet(keys, read));
        let Reply { response, served } = shared.front.execute("batch_get", "http", request, deadline).await?;
        check_shard(Some(shard), &served)?;
        match response {
            Answer::GotBatch(found) if found.len() == places.len() => Ok((places, found, served)),
            other => Err(mismatch(&other)),
        }
    });
    let mut results: Vec<Option<Row>> = Vec::new();
    results.resize_with(count, || None);
    let mut bytes = 0;
    for (places, found, served) in try_join_all(parts).await? {
        session.sees(&served);
        for (place, found) in places.into_iter().zip(found) {
            let (Some(slot), Some((key, record))) = (results.get_mut(place), found) else { continue };
            bytes += key.as_bytes().len() + record.value.len();
            *slot = Some(Row::new(&key, VersionField::at_age(&record, served.shard_age_ms)));
        }
    }
    if bytes > ANSWER_BYTES_MAX {
        return Err(Error::invalid(format!(
            "the batch's answer has {bytes} bytes; an answer has at most {ANSWER_BYTES_MAX} bytes: ask for fewer keys"
        )));
    }
    Ok(results)
}

/// `/v1/kv/` without a key.
pub(in super::super) async fn no_key() -> Failure {
    Failure::new(StatusCode::BAD_REQUEST, "invalid_argument", "the key is missing: /v1/kv/{key}")
}
