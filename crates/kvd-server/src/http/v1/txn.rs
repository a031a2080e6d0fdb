//! Transactions.

use axum::{
    body::Body,
    extract::{Query, State},
    http::{HeaderMap, Uri},
    response::Response,
};
use kvd_types::{
    Compare, Error, Key, LeaseId, Outcome, Relation, Result, Revision, Subject, Txn, TxnOp, TxnResult,
    WriteOp,
    operation::{Reply, Response as Answer},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    super::{
        Shared,
        answer::{Failure, KeyField, VersionField},
        input::{bytes_of, from_base64, lifetime, number, parse_body},
        query,
        rest::{BODY_BYTES_MAX, Written, mismatch},
    },
    kv::{AckName, BodyParameters, Row, write},
    session::{InSession, Session},
};

const EXAMPLE: &str = r#"{"compares":[{"key":"a","version":"1","is":"="}],"then":[{"put":{"key":"a","value":"2"}}],"otherwise":[{"get":{"key":"a"}}]}"#;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Txn)]
struct TxnBody {
    /// All must hold for `then` to be done.
    #[serde(default)]
    compares: Vec<CompareBody>,
    /// Done, in order, if all compares hold.
    #[serde(default)]
    then: Vec<OpBody>,
    /// Done, in order, if one doesn't.
    #[serde(default)]
    otherwise: Vec<OpBody>,
    /// When the transaction is acknowledged.
    #[serde(default)]
    ack: AckName,
}

/// What must hold of a key: one of `value`, `value_base64`, `revision`, `create_revision`, `version` and `lease` is compared.
/// Of a key that does not exist all numbers are 0, and no compare with a value holds.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Compare)]
struct CompareBody {
    /// The key, if it is text.
    key: Option<String>,
    /// The key in base64, instead.
    key_base64: Option<String>,
    /// How the key's is to what is given.
    #[serde(default)]
    is: RelationName,
    /// Its value, if it is text.
    value: Option<String>,
    /// Its value in base64, instead.
    value_base64: Option<String>,
    /// The revision of its last write.
    revision: Option<String>,
    /// The revision at which it came into being.
    create_revision: Option<String>,
    /// How often it was written since.
    version: Option<String>,
    /// The lease that it is attached to.
    lease: Option<String>,
}

/// How two values are compared.
#[derive(Clone, Copy, Default, Deserialize, ToSchema)]
#[schema(as = Relation)]
enum RelationName {
    #[default]
    #[serde(rename = "=")]
    Equal,
    #[serde(rename = "!=")]
    NotEqual,
    #[serde(rename = "<")]
    Less,
    #[serde(rename = ">")]
    Greater,
}

/// One operation of a transaction.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
#[schema(as = TxnOperation)]
enum OpBody {
    /// Read the key, as the operations before have left it.
    Get(GetOp),
    /// Set the key.
    Put(PutOp),
    /// Remove the key.
    Delete(DeleteOp),
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TxnGet)]
struct GetOp {
    /// The key, if it is text.
    key: Option<String>,
    /// The key in base64, instead.
    key_base64: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TxnPut)]
struct PutOp {
    /// The key, if it is text.
    key: Option<String>,
    /// The key in base64, instead.
    key_base64: Option<String>,
    /// The value, if it is text.
    value: Option<String>,
    /// The value in base64, instead.
    value_base64: Option<String>,
    /// The key goes by itself after so many milliseconds.
    ttl_ms: Option<u64>,
    /// The key goes when this lease ends.
    lease: Option<String>,
    /// Give the version that was replaced.
    #[serde(default)]
    prev: bool,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TxnDelete)]
struct DeleteOp {
    /// The key, if it is text.
    key: Option<String>,
    /// The key in base64, instead.
    key_base64: Option<String>,
    /// Give the version that was removed.
    #[serde(default)]
    prev: bool,
}

/// What came of a transaction.
#[derive(Serialize, ToSchema)]
struct TxnDone {
    /// "success".
    status: &'static str,
    /// Whether all compares held.
    succeeded: bool,
    /// The revision of its writes; of the shard's last write, if it made none.
    revision: String,
    /// Of the operations that were done, in order.
    results: Vec<OpDone>,
}

/// What came of an operation of a transaction.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = TxnResult)]
enum OpDone {
    /// The key; null: there is no such key.
    Get(Option<Row>),
    Put(Written),
    Delete(Deleted),
}

/// What came of a delete in a transaction.
#[derive(Serialize, ToSchema)]
#[schema(as = TxnDeleted)]
struct Deleted {
    #[serde(flatten)]
    key: KeyField,
    /// Whether there was such a key.
    existed: bool,
    /// If asked for: the version that was removed, or null.
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<Option<VersionField>>,
}

/// Compares, then reads and changes many keys of one shard, all at once or not at all.
#[utoipa::path(
    post, path = "/v1/txn", tag = "keys", operation_id = "txn", params(BodyParameters), request_body = TxnBody,
    responses((status = 200, description = "One of the branches was done", body = InSession<TxnDone>)),
)]
pub(in super::super) async fn txn(
    State(shared): State<Shared>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let Query(parameters) = query::of::<BodyParameters>(&uri)?;
    let kept = shared.bodies.read(&headers, body, BODY_BYTES_MAX).await?;
    let parsed = Session::of(&shared, &headers, parameters.session.as_deref())
        .and_then(|session| Ok((session, parse(&kept.bytes)?)));
    let (mut session, (txn, ack)) = parsed.map_err(|error| Failure::of_write(&error))?;
    let branches = [summary(&txn.otherwise), summary(&txn.then)];
    let Reply { response, served } =
        write(&shared, "txn", WriteOp::Txn(txn), ack, parameters.timeout_ms).await?;
    let Answer::Txn(Outcome::Txn { succeeded, revision, results }) = response else {
        return Err(Failure::of_write(&mismatch(&response)));
    };
    session.sees_write(&served, revision);
    let [otherwise, then] = branches;
    let operations = if succeeded { then } else { otherwise };
    if operations.len() != results.len() {
        let error = Error::internal("the transaction was answered with another number of results");
        return Err(Failure::of_write(&error));
    }
    let results = operations.into_iter().zip(&results);
    let results =
        results.map(|((key, prev), result)| done(&key, prev, revision, result, served.shard_age_ms));
    Ok(session.answer(TxnDone {
        status: "success",
        succeeded,
        revision: revision.to_string(),
        results: results.collect(),
    }))
}

/// Of each operation what its result is told with: the key, and whether the previous version was asked for.
fn summary(operations: &[TxnOp]) -> Vec<(Key, bool)> {
    let of = |operation: &TxnOp| {
        let prev = match operation {
            TxnOp::Get(_) => false,
            TxnOp::Put { want_previous, .. } | TxnOp::Delete { want_previous, .. } => *want_previous,
        };
        (operation.key().clone(), prev)
    };
    operations.iter().map(of).collect()
}

fn done(key: &Key, prev: bool, revision: Revision, result: &TxnResult, shard_age_ms: u64) -> OpDone {
    match result {
        TxnResult::Got(record) => OpDone::Get(
            record.as_ref().map(|record| Row::new(key, VersionField::at_age(record, shard_age_ms))),
        ),
        TxnResult::Put { create_revision, version, previous } => {
            let written = Written::removed(key, revision, previous.as_ref(), prev);
            OpDone::Put(written.now_at(*create_revision, *version))
        }
        TxnResult::Deleted { existed, previous } => OpDone::Delete(Deleted {
            key: KeyField::new(key),
            existed: *existed,
            previous: prev.then(|| previous.as_ref().map(VersionField::whole)),
        }),
    }
}

fn parse(body: &[u8]) -> Result<(Txn, AckName)> {
    let body: TxnBody = parse_body(body, EXAMPLE)?;
    let operations = |branch: Vec<OpBody>| branch.into_iter().map(operation).collect::<Result<_>>();
    let txn = Txn {
        compares: body.compares.into_iter().map(compare).collect::<Result<_>>()?,
        then: operations(body.then)?,
        otherwise: operations(body.otherwise)?,
    };
    Ok((txn, body.ack))
}

fn compare(body: CompareBody) -> Result<Compare> {
    let subjects = [
        body.value.map(|value| Ok(Subject::Value(value.into()))),
        body.value_base64.map(|value| from_base64("value_base64", &value).map(Subject::Value)),
        body.revision.map(|text| Ok(Subject::Revision(Revision(number("revision", &text)?)))),
        body.create_revision
            .map(|text| Ok(Subject::CreateRevision(Revision(number("create_revision", &text)?)))),
        body.version.map(|text| number("version", &text).map(Subject::Version)),
        body.lease.map(|text| Ok(Subject::Lease(LeaseId(number("lease", &text)?)))),
    ];
    let mut given = subjects.into_iter().flatten();
    let (Some(subject), None) = (given.next(), given.next()) else {
        return Err(Error::invalid(
            "a compare needs one of value, value_base64, revision, create_revision, version and lease",
        ));
    };
    let relation = match body.is {
        RelationName::Equal => Relation::Equal,
        RelationName::NotEqual => Relation::NotEqual,
        RelationName::Less => Relation::Less,
        RelationName::Greater => Relation::Greater,
    };
    Ok(Compare { key: Key::new(bytes_of("key", body.key, body.key_base64)?)?, subject: subject?, relation })
}

fn operation(body: OpBody) -> Result<TxnOp> {
    Ok(match body {
        OpBody::Get(GetOp { key, key_base64 }) => TxnOp::Get(Key::new(bytes_of("key", key, key_base64)?)?),
        OpBody::Put(put) => TxnOp::Put {
            key: Key::new(bytes_of("key", put.key, put.key_base64)?)?,
            value: bytes_of("value", put.value, put.value_base64)?,
            lifetime: lifetime(put.ttl_ms, put.lease.as_deref())?,
            want_previous: put.prev,
        },
        OpBody::Delete(DeleteOp { key, key_base64, prev }) => {
            TxnOp::Delete { key: Key::new(bytes_of("key", key, key_base64)?)?, want_previous: prev }
        }
    })
}
