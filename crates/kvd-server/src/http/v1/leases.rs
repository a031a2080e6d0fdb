//! Leases: granted, kept alive, looked at, revoked.

use std::time::Duration;

use axum::{
    Json,
    body::Body,
    extract::{Query, State},
    http::{HeaderMap, Uri},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures::{StreamExt as _, stream};
use http::StatusCode;
use kvd_types::{
    Error, Key, LeaseId, LeaseOutcome, Outcome, Result, ShardId, WriteOp,
    limits::SCAN_ROWS_MAX,
    operation::{LeaseInfo, Request, Response as Answer},
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};

use super::{
    super::{
        Shared,
        answer::{Failure, KeyField},
        input::{number, parse_body},
        query,
        rest::mismatch,
    },
    kv::{AckName, write},
};
use crate::front::deadline_after;

const PATH_PREFIX: &str = "/v1/leases/";
const KEEP_ALIVE_SUFFIX: &str = "/keep_alive";
const BODY_BYTES_MAX: usize = 4 << 10;
/// Leases or keys in an answer, if it isn't said how many.
const LIMIT_DEFAULT: usize = 1000;
/// Shards that are asked at the same time.
const SHARDS_AT_ONCE: usize = 16;
/// The highest id that is granted here: many languages have no larger whole numbers.
const ID_MAX: u64 = i64::MAX.unsigned_abs();

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = GrantLease)]
struct GrantBody {
    /// How long it lasts after each keep-alive, in milliseconds.
    ttl_ms: u64,
    /// Its id, from 1 to 2^63 - 1; none: a random one.
    id: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct TimeParameters {
    /// How long the answer is of use, in milliseconds.
    timeout_ms: Option<u64>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct LookParameters {
    /// Give the keys that are attached to it, too.
    #[serde(default, deserialize_with = "query::flag")]
    keys: bool,
    /// With `keys`: how many at most, up to 4096.
    limit: Option<usize>,
    /// With `keys`: go on where the answer before has stopped.
    after: Option<String>,
    /// How long the answer is of use, in milliseconds.
    timeout_ms: Option<u64>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListParameters {
    /// How many leases at most, up to 4096.
    limit: Option<usize>,
    /// Go on where the answer before has stopped.
    after: Option<String>,
    /// How long the answer is of use, in milliseconds.
    timeout_ms: Option<u64>,
}

/// What came of a change of a lease.
#[derive(Serialize, ToSchema)]
#[schema(as = LeaseChanged)]
pub(in super::super) struct Changed {
    /// "success".
    status: &'static str,
    /// The lease.
    id: String,
    /// How long it lasts from now on, in milliseconds; not of one that was revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_ms: Option<u64>,
}

/// A lease.
#[derive(Serialize, ToSchema)]
#[schema(as = Lease)]
pub(in super::super) struct LeaseField {
    /// Its id.
    id: String,
    /// How long it lasts after a keep-alive, in milliseconds.
    ttl_ms: u64,
    /// How long it lasts still, in milliseconds; 0: it ends.
    remaining_ms: u64,
    /// The shards that may have keys of it.
    shards: Vec<u32>,
}

/// A lease, with its keys if asked for.
#[derive(Serialize, ToSchema)]
#[schema(as = LeaseLook)]
pub(in super::super) struct Look {
    #[serde(flatten)]
    lease: LeaseField,
    /// If asked for: the keys that are attached to it, shard by shard.
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<Vec<KeyField>>,
    /// There may be more keys: where to go on, as `after`.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Leases, shard by shard.
#[derive(Serialize, ToSchema)]
#[schema(as = Leases)]
pub(in super::super) struct List {
    /// The leases.
    leases: Vec<LeaseField>,
    /// There may be more: where to go on, as `after`.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

impl LeaseField {
    fn new(lease: &LeaseInfo) -> Self {
        Self {
            id: lease.id.to_string(),
            ttl_ms: lease.ttl_ms,
            remaining_ms: lease.remaining_ms,
            shards: lease.shards.iter().map(|shard| shard.get()).collect(),
        }
    }
}

/// Grants a lease.
#[utoipa::path(
    post, path = "/v1/leases", tag = "leases", operation_id = "grant_lease", params(TimeParameters),
    request_body = GrantBody,
    responses((status = 200, description = "The lease is granted", body = Changed),
        (status = 409, description = "There is a lease with that id: nothing has changed", body = Failure)),
)]
pub(in super::super) async fn grant(
    State(shared): State<Shared>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Changed>, Failure> {
    let Query(parameters) = query::of::<TimeParameters>(&uri)?;
    let kept = shared.bodies.read(&headers, body, BODY_BYTES_MAX).await?;
    let parsed = parse_body(&kept.bytes, r#"{"ttl_ms":30000}"#)
        .and_then(|body: GrantBody| Ok((granted_id(body.id.as_deref())?, body.ttl_ms)));
    let (lease, ttl_ms) = parsed.map_err(|error| Failure::of_write(&error))?;
    let op = WriteOp::GrantLease { lease, ttl_ms };
    let reply = write(&shared, "grant_lease", op, AckName::Majority, parameters.timeout_ms).await?;
    match reply.response {
        Answer::Lease(Outcome::Lease(LeaseOutcome::Granted { ttl_ms })) => Ok(changed(lease, Some(ttl_ms))),
        Answer::Lease(Outcome::Lease(LeaseOutcome::Exists)) => {
            let message = format!("there is a lease {lease} already");
            Err(Failure::new(StatusCode::CONFLICT, "lease_exists", message).not_applied())
        }
        other => Err(Failure::of_write(&mismatch(&other))),
    }
}

/// The id that was asked for, or one that nobody else has: at random, for nodes grant without asking each other.
fn granted_id(named: Option<&str>) -> Result<LeaseId> {
    let Some(text) = named else { return Ok(LeaseId(rand::random_range(1..=ID_MAX))) };
    match number("id", text)? {
        id @ 1..=ID_MAX => Ok(LeaseId(id)),
        id => Err(Error::invalid(format!("the id of a lease is from 1 to {ID_MAX}, not {id}"))),
    }
}

/// Lets a lease last for its time to live from now on.
#[utoipa::path(
    post, path = "/v1/leases/{id}/keep_alive", tag = "leases", operation_id = "keep_lease_alive",
    params(("id" = String, Path, description = "The lease"), TimeParameters),
    responses((status = 200, description = "It lasts for its time to live from now on", body = Changed),
        (status = 404, description = "There is no such lease, or it has ended", body = Failure)),
)]
pub(in super::super) async fn keep_alive(
    State(shared): State<Shared>,
    uri: Uri,
) -> Result<Json<Changed>, Failure> {
    let Query(parameters) = query::of::<TimeParameters>(&uri)?;
    let lease = lease_of_path(&uri).map_err(|error| Failure::of_write(&error))?;
    let deadline = deadline_after(parameters.timeout_ms.map(Duration::from_millis));
    let request = Ok(Request::KeepLeaseAlive(lease));
    let reply = shared.front.execute("keep_lease_alive", "http", request, deadline).await;
    match reply.map_err(|error| Failure::of_write(&error))?.response {
        Answer::Lease(Outcome::Lease(LeaseOutcome::Alive { ttl_ms })) => Ok(changed(lease, Some(ttl_ms))),
        Answer::Lease(Outcome::Lease(LeaseOutcome::Gone)) => Err(no_lease(lease).not_applied()),
        other => Err(Failure::of_write(&mismatch(&other))),
    }
}

/// Ends a lease, and so all keys that are attached to it: they go soon, not at once.
#[utoipa::path(
    delete, path = "/v1/leases/{id}", tag = "leases", operation_id = "revoke_lease",
    params(("id" = String, Path, description = "The lease"), TimeParameters),
    responses((status = 200, description = "It ends", body = Changed),
        (status = 404, description = "There is no such lease, or it has ended", body = Failure)),
)]
pub(in super::super) async fn revoke(
    State(shared): State<Shared>,
    uri: Uri,
) -> Result<Json<Changed>, Failure> {
    let Query(parameters) = query::of::<TimeParameters>(&uri)?;
    let lease = lease_of_path(&uri).map_err(|error| Failure::of_write(&error))?;
    let op = WriteOp::RevokeLease(lease);
    let reply = write(&shared, "revoke_lease", op, AckName::Majority, parameters.timeout_ms).await?;
    match reply.response {
        Answer::Lease(Outcome::Lease(LeaseOutcome::Revoked)) => Ok(changed(lease, None)),
        Answer::Lease(Outcome::Lease(LeaseOutcome::Gone)) => Err(no_lease(lease).not_applied()),
        other => Err(Failure::of_write(&mismatch(&other))),
    }
}

/// Looks at a lease.
#[utoipa::path(
    get, path = "/v1/leases/{id}", tag = "leases", operation_id = "get_lease",
    params(("id" = String, Path, description = "The lease"), LookParameters),
    responses((status = 200, description = "The lease", body = Look),
        (status = 404, description = "There is no such lease, or it has ended", body = Failure)),
)]
pub(in super::super) async fn look(State(shared): State<Shared>, uri: Uri) -> Result<Json<Look>, Failure> {
    let Query(parameters) = query::of::<LookParameters>(&uri)?;
    let deadline = deadline_after(parameters.timeout_ms.map(Duration::from_millis));
    let looked = async {
        if !parameters.keys && (parameters.limit.is_some() || parameters.after.is_some()) {
            return Err(Error::invalid("limit and after are about keys; give ?keys, too"));
        }
        let lease = lease_of_path(&uri)?;
        let after = parameters.after.as_deref().map(KeyCursor::parse).transpose()?;
        let limit = limit_of(parameters.limit)?;
        let request = Ok(Request::GetLease(lease));
        let info = match shared.front.execute("get_lease", "http", request, deadline).await?.response {
            Answer::LeaseInfo(info) => info,
            other => return Err(mismatch(&other)),
        };
        let Some(info) = info else { return Ok((lease, None)) };
        let (keys, next) = if parameters.keys {
            let (keys, next) = keys_of(&shared, &info, after, limit, deadline).await?;
            (Some(keys), next)
        } else {
            (None, None)
        };
        Ok((lease, Some(Look { lease: LeaseField::new(&info), keys, next })))
    };
    let (lease, look) = looked.await.map_err(|error| Failure::of_read(&error))?;
    look.map(Json).ok_or_else(|| no_lease(lease))
}

/// Looks at all leases.
#[utoipa::path(
    get, path = "/v1/leases", tag = "leases", operation_id = "list_leases", params(ListParameters),
    responses((status = 200, description = "The first leases, shard by shard", body = List)),
)]
pub(in super::super) async fn list(State(shared): State<Shared>, uri: Uri) -> Result<Json<List>, Failure> {
    let Query(parameters) = query::of::<ListParameters>(&uri)?;
    let deadline = deadline_after(parameters.timeout_ms.map(Duration::from_millis));
    let listed = async {
        let after = parameters.after.as_deref().map(LeaseCursor::parse).transpose()?;
        list_after(&shared, after, limit_of(parameters.limit)?, deadline).await
    };
    listed.await.map(Json).map_err(|error| Failure::of_read(&error))
}

/// Leases in order of their shards, and of their ids.
async fn list_after(
    shared: &Shared,
    after: Option<LeaseCursor>,
    limit: usize,
    deadline: Instant,
) -> Result<List> {
    let mut shards: Vec<_> = {
        let topology = shared.front.store.topology();
        let topology = topology.borrow();
        topology.shards.iter().map(|shard| ShardId(shard.id)).collect()
    };
    if shards.is_empty() {
        return Err(Error::unavailable("the shards are not known yet"));
    }
    shards.retain(|shard| after.is_none_or(|after| *shard >= after.shard));
    shards.sort_unstable();
    let asked = shards.into_iter().map(|shard| async move {
        let last = after.filter(|after| after.shard == shard).map_or(0, |after| after.lease.get());
        let Some(from) = last.checked_add(1) else { return Ok((shard, Vec::new())) };
        let request = Ok(Request::ListLeases { shard, from: LeaseId(from), limit });
        match shared.front.execute("list_leases", "http", request, deadline).await?.response {
            Answer::Leases(leases) => Ok((shard, leases)),
            other => Err(mismatch(&other)),
        }
    });
    let mut answers = stream::iter(asked).buffered(SHARDS_AT_ONCE);
    let mut list = List { leases: Vec::new(), next: None };
    while let Some(answer) = answers.next().await {
        let (shard, leases) = answer?;
        for lease in leases {
            list.leases.push(LeaseField::new(&lease));
            if list.leases.len() == limit {
                list.next = Some(LeaseCursor { shard, lease: lease.id }.text());
                return Ok(list);
            }
        }
    }
    Ok(list)
}

/// Keys of a lease, in order of their shards, and where to go on.
async fn keys_of(
    shared: &Shared,
    info: &LeaseInfo,
    after: Option<KeyCursor>,
    limit: usize,
    deadline: Instant,
) -> Result<(Vec<KeyField>, Option<String>)> {
    let mut shards = info.shards.clone();
    shards.retain(|shard| after.as_ref().is_none_or(|after| *shard >= after.shard));
    shards.sort_unstable();
    let (lease, after) = (info.id, &after);
    let asked = shards.into_iter().map(|shard| async move {
        let after = after.as_ref().filter(|after| after.shard == shard).map(|after| after.key.clone());
        let request = Ok(Request::LeaseKeys { shard, lease, after, limit });
        match shared.front.execute("lease_keys", "http", request, deadline).await?.response {
            Answer::LeaseKeys(keys) => Ok((shard, keys)),
            other => Err(mismatch(&other)),
        }
    });
    let mut answers = stream::iter(asked).buffered(SHARDS_AT_ONCE);
    let mut found = Vec::new();
    while let Some(answer) = answers.next().await {
        let (shard, keys) = answer?;
        for key in keys {
            found.push(KeyField::new(&key));
            if found.len() == limit {
                return Ok((found, Some(KeyCursor { shard, key }.text())));
            }
        }
    }
    Ok((found, None))
}

/// The last lease of an answer. It names a place and nothing else, so any that can be read is as good as any other.
#[derive(Clone, Copy)]
struct LeaseCursor {
    shard: ShardId,
    lease: LeaseId,
}

impl LeaseCursor {
    fn text(self) -> String {
        format!("{}.{}", self.shard, self.lease)
    }

    fn parse(text: &str) -> Result<Self> {
        let (shard, lease) = text.split_once('.').ok_or_else(no_cursor)?;
        let (shard, lease) =
            (shard.parse().map_err(|_| no_cursor())?, lease.parse().map_err(|_| no_cursor())?);
        Ok(Self { shard: ShardId(shard), lease: LeaseId(lease) })
    }
}

/// The last key of an answer.
struct KeyCursor {
    shard: ShardId,
    key: Key,
}

impl KeyCursor {
    fn text(&self) -> String {
        format!("{}.{}", self.shard, URL_SAFE_NO_PAD.encode(self.key.as_bytes()))
    }

    fn parse(text: &str) -> Result<Self> {
        let (shard, key) = text.split_once('.').ok_or_else(no_cursor)?;
        let shard = shard.parse().map_err(|_| no_cursor())?;
        let key = URL_SAFE_NO_PAD.decode(key).map_err(|_| no_cursor())?;
        Ok(Self { shard: ShardId(shard), key: Key::new(key).map_err(|_| no_cursor())? })
    }
}

fn no_cursor() -> Error {
    Error::invalid(
        "after is not what an answer had as next: use it as it was given, or begin anew without it",
    )
}

fn limit_of(limit: Option<usize>) -> Result<usize> {
    match limit.unwrap_or(LIMIT_DEFAULT) {
        limit @ 1..=SCAN_ROWS_MAX => Ok(limit),
        limit => Err(Error::invalid(format!("the limit is from 1 to {SCAN_ROWS_MAX}, not {limit}"))),
    }
}

fn lease_of_path(uri: &Uri) -> Result<LeaseId> {
    let id = uri.path().strip_prefix(PATH_PREFIX).unwrap_or_default();
    let id = id.strip_suffix(KEEP_ALIVE_SUFFIX).unwrap_or(id);
    number("the id in the path", id).map(LeaseId)
}

fn changed(lease: LeaseId, ttl_ms: Option<u64>) -> Json<Changed> {
    Json(Changed { status: "success", id: lease.to_string(), ttl_ms })
}

fn no_lease(lease: LeaseId) -> Failure {
    let message = format!("there is no lease {lease}, or it has ended");
    Failure::new(StatusCode::NOT_FOUND, "not_found", message)
}
