//! What goes back as JSON: bytes, versions and failures.
//!
//! JSON has no bytes, and its numbers lose 64-bit revisions in many languages. So a key or value that isn't UTF-8 comes
//! under its name with `_base64`, and revisions and versions are text.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use kvd_types::{Error, ErrorKind, Key, Record};
use serde::Serialize;
use utoipa::ToSchema;

use crate::metrics::code_of;

/// What a client has seen, in requests and answers.
pub(super) const SESSION_HEADER: &str = "kvd-session";

/// A key under its name.
#[derive(Serialize, ToSchema)]
pub(super) struct KeyField {
    /// The key, if it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// The key in base64, if it isn't.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
}

impl KeyField {
    pub(super) fn new(key: &Key) -> Self {
        let (key, key_base64) = text_or_base64(key.bytes());
        Self { key, key_base64 }
    }
}

/// A value under its name.
#[derive(Serialize, ToSchema)]
struct ValueField {
    /// The value, if it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    /// The value in base64, if it isn't.
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

/// A version of a key, with its value if there is one to show.
#[derive(Serialize, ToSchema)]
pub(super) struct VersionField {
    #[serde(flatten)]
    value: Option<ValueField>,
    /// The revision of the key's last write.
    revision: String,
    /// The revision at which the key came into being.
    create_revision: String,
    /// 1 for the write that created the key, one more with each since.
    version: String,
    /// The lease that the key is attached to.
    #[serde(skip_serializing_if = "Option::is_none")]
    lease: Option<String>,
    /// How long the key is there still, in milliseconds, if that is known and limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_ms: Option<u64>,
}

impl VersionField {
    /// With its value.
    pub(super) fn whole(record: &Record) -> Self {
        let (value, value_base64) = text_or_base64(&record.value);
        Self { value: Some(ValueField { value, value_base64 }), ..Self::bare(record) }
    }

    /// Without its value.
    pub(super) fn bare(record: &Record) -> Self {
        Self {
            value: None,
            revision: record.revision.to_string(),
            create_revision: record.create_revision.to_string(),
            version: record.version.to_string(),
            lease: record.lease.map(|lease| lease.to_string()),
            ttl_ms: None,
        }
    }

    /// With its value, and how long it is there still at this age of its shard.
    pub(super) fn at_age(record: &Record, shard_age_ms: u64) -> Self {
        let ttl_ms = record.expires_at_age_ms.map(|at_ms| at_ms.saturating_sub(shard_age_ms));
        Self { ttl_ms, ..Self::whole(record) }
    }
}

fn text_or_base64(bytes: &Bytes) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(STANDARD.encode(bytes))),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Error,
}

/// Why a request was not answered as its sender hoped.
#[derive(Serialize, ToSchema)]
pub(super) struct Failure {
    #[serde(skip)]
    http: StatusCode,
    #[serde(skip)]
    retry_after: Option<Duration>,
    /// "error".
    #[schema(value_type = String)]
    status: Status,
    /// What kind of failure it is: `invalid_argument`, `not_found`, `condition_failed`, `lease_exists`, `compacted`,
    /// `overloaded`, `unavailable`, `not_leader`, `wrong_shard`, `deadline_exceeded`, `outcome_unknown`, `session_unknown`,
    /// `failed_precondition`, `too_large`, `unknown_path`, `wrong_method`, `unauthenticated`, `permission_denied`, `corruption`
    /// or `internal`.
    #[schema(example = "invalid_argument")]
    code: &'static str,
    /// For people: which limit, node or key; what to do.
    #[schema(value_type = String)]
    message: Box<str>,
    /// Of a write: `not_applied`, or `unknown` if it may have been applied or may yet be.
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    /// With a condition that failed: the key's current version, or null.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<VersionField>)]
    current: Option<Option<Box<VersionField>>>,
    /// With `compacted`: the oldest revision that can be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    oldest_revision: Option<Box<str>>,
    /// Where it says what there is: what has been seen, as with answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    session: Option<Box<str>>,
}

impl Failure {
    pub(super) fn new(http: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let message = message.into().into();
        Self {
            http,
            retry_after: None,
            status: Status::Error,
            code,
            message,
            outcome: None,
            current: None,
            oldest_revision: None,
            session: None,
        }
    }

    /// Of a write that changed nothing.
    pub(super) const fn not_applied(mut self) -> Self {
        self.outcome = Some("not_applied");
        self
    }

    /// With what the client has seen, this included.
    pub(super) fn in_session(mut self, session: String) -> Self {
        self.session = Some(session.into());
        self
    }

    pub(super) const fn retry_after(mut self, pause: Duration) -> Self {
        self.retry_after = Some(pause);
        self
    }

    /// The key is not there.
    pub(super) fn not_found(key: &Key) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("there is no key {key}"))
    }

    /// The condition of a write does not hold.
    pub(super) fn condition(key: &Key, current: Option<&Record>, with_value: bool) -> Self {
        let message = match current {
            Some(record) => {
                format!("the condition does not hold: key {key} is at revision {}", record.revision)
            }
            None => format!("the condition does not hold: there is no key {key}"),
        };
        let show = if with_value { VersionField::whole } else { VersionField::bare };
        let failure = Self::new(StatusCode::PRECONDITION_FAILED, "condition_failed", message).not_applied();
        Self { current: Some(current.map(|record| Box::new(show(record)))), ..failure }
    }

    /// What a read failed of.
    pub(super) fn of_read(error: &Error) -> Self {
        const BACK_OFF: Duration = Duration::from_secs(1);
        let (http, retry_after) = match &error.kind {
            ErrorKind::InvalidArgument => (StatusCode::BAD_REQUEST, None),
            ErrorKind::NotLeader(_) | ErrorKind::Unavailable | ErrorKind::WrongShard(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, Some(BACK_OFF))
            }
            ErrorKind::Overloaded { retry_after } => (StatusCode::TOO_MANY_REQUESTS, Some(*retry_after)),
            ErrorKind::DeadlineExceeded | ErrorKind::OutcomeUnknown => (StatusCode::GATEWAY_TIMEOUT, None),
            ErrorKind::SessionUnknown | ErrorKind::FailedPrecondition => (StatusCode::CONFLICT, None),
            ErrorKind::Compacted { .. } => (StatusCode::GONE, None),
            ErrorKind::NotFound => (StatusCode::NOT_FOUND, None),
            ErrorKind::Unauthenticated => (StatusCode::UNAUTHORIZED, None),
            ErrorKind::PermissionDenied => (StatusCode::FORBIDDEN, None),
            ErrorKind::Corruption | ErrorKind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, None),
        };
        let oldest_revision = match &error.kind {
            ErrorKind::Compacted { oldest } => Some(oldest.to_string().into()),
            _ => None,
        };
        Self { retry_after, oldest_revision, ..Self::new(http, code_of(error), error.message.clone()) }
    }

    /// What a write failed of, and whether it may have been applied all the same.
    pub(super) fn of_write(error: &Error) -> Self {
        let failure = Self::of_read(error);
        if error.outcome_unknown() {
            Self { outcome: Some("unknown"), ..failure }
        } else {
            failure.not_applied()
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (http, retry_after) = (self.http, self.retry_after);
        let session = self.session.as_deref().and_then(|session| HeaderValue::from_str(session).ok());
        let mut response = (http, axum::Json(self)).into_response();
        if let Some(pause) = retry_after {
            // Whole seconds, and never zero: that would mean at once.
            let seconds = pause.as_secs() + u64::from(pause.subsec_nanos() > 0);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if let Some(session) = session {
            response.headers_mut().insert(SESSION_HEADER, session);
        }
        response
    }
}
