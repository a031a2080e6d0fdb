//! How reads are asked for, and what a client has seen.
//!
//! Every answer about keys has a `session`: a token of the latest revision of each shard that the client's answers took into
//! account. It is small text that the client keeps and sends along, in the parameter or header of its name; nothing is kept of
//! it here. A read with `consistency=session` then sees at least as much, whichever node it is asked of.

use std::{num::NonZeroU64, time::Duration};

use axum::{
    Json,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, HeaderValue};
use kvd_proto::token::{self, SessionToken};
use kvd_types::{Consistency, Error, Key, Read, Result, Revision, ShardId, operation::Served};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::{Shared, answer::SESSION_HEADER};

/// How recent a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = Consistency)]
pub(super) enum Level {
    /// It sees every write that was finished before.
    #[default]
    Linearizable,
    /// The same as long as clocks keep their rate within a margin; where the cluster allows it.
    Lease,
    /// It sees what the client has seen before.
    Session,
    /// It misses nothing that was finished `max_staleness_ms` before.
    Bounded,
    /// It sees whatever the replica has applied.
    Local,
}

/// How a read is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ReadOptions {
    pub(super) revision: Option<NonZeroU64>,
    pub(super) consistency: Option<Level>,
    pub(super) max_staleness_ms: Option<u64>,
    pub(super) any_replica: bool,
}

/// What a client has seen, answers included that it is about to get.
#[derive(Debug)]
pub(super) struct Session {
    token: SessionToken,
    is_given: bool,
}

impl ReadOptions {
    pub(super) const fn is_in_session(&self) -> bool {
        matches!(self.consistency, Some(Level::Session))
    }

    /// The read, of this shard if it is one in a session.
    pub(super) fn read(&self, session: &Session, shard: Option<ShardId>) -> Result<Read> {
        let level = self.consistency.unwrap_or_default();
        if self.max_staleness_ms.is_some() && level != Level::Bounded {
            return Err(Error::invalid("max_staleness_ms goes with consistency=bounded"));
        }
        let consistency = match level {
            Level::Linearizable => Consistency::Linearizable,
            Level::Lease => Consistency::Lease,
            Level::Session => {
                if !session.is_given {
                    return Err(Error::invalid(
                        "consistency=session needs a session: the token of an earlier answer, in the parameter session or the header kvd-session",
                    ));
                }
                let seen = shard.and_then(|shard| session.token.revisions.get(&shard));
                Consistency::Session(seen.copied().unwrap_or_default())
            }
            Level::Bounded => {
                let bound_ms = self.max_staleness_ms.ok_or_else(|| {
                    Error::invalid("consistency=bounded needs max_staleness_ms: how far behind it may be")
                })?;
                Consistency::Bounded(Duration::from_millis(bound_ms))
            }
            Level::Local => Consistency::Local,
        };
        let at = self.revision.map(|revision| Revision(revision.get()));
        Ok(Read { consistency, any_replica: self.any_replica, at })
    }
}

impl Session {
    /// What came in, in the parameter, the header, or both.
    pub(super) fn of(shared: &Shared, headers: &HeaderMap, parameter: Option<&str>) -> Result<Self> {
        let cluster_id = cluster_id(shared)?;
        let is_given = parameter.is_some() || headers.contains_key(SESSION_HEADER);
        let mut session = Self { token: SessionToken { cluster_id, ..SessionToken::default() }, is_given };
        for header in headers.get_all(SESSION_HEADER) {
            let text = header.to_str().map_err(|_| Error::invalid("the header kvd-session is not text"))?;
            session.merge(text)?;
        }
        if let Some(text) = parameter {
            session.merge(text)?;
        }
        Ok(session)
    }

    fn merge(&mut self, text: &str) -> Result<()> {
        let token = SessionToken::decode(&token::from_text(text)?, &self.token.cluster_id)?;
        for (shard, revision) in token.revisions {
            self.note(shard, revision);
        }
        Ok(())
    }

    fn note(&mut self, shard: ShardId, revision: Revision) {
        let seen = self.token.revisions.entry(shard).or_default();
        *seen = revision.max(*seen);
    }

    /// An answer is given that took into account what was served so.
    pub(super) fn sees(&mut self, served: &Served) {
        self.note(served.shard, served.revision);
    }

    /// A write was made at this revision.
    pub(super) fn sees_write(&mut self, served: &Served, revision: Revision) {
        self.note(served.shard, served.revision.max(revision));
    }

    pub(super) fn text(&self) -> String {
        token::to_text(&self.token.encode())
    }

    /// An answer with its session, which the body has too.
    pub(super) fn answer<T: Serialize>(&self, body: T) -> Response {
        let session = self.text();
        let header = HeaderValue::from_str(&session);
        let mut response = Json(InSession { body, session }).into_response();
        if let Ok(header) = header {
            response.headers_mut().insert(SESSION_HEADER, header);
        }
        response
    }
}

/// An answer, and what the client has seen with it.
#[derive(Serialize, ToSchema)]
pub(super) struct InSession<T> {
    #[serde(flatten)]
    body: T,
    /// What the client has seen, this answer included: to be sent along by whoever wants to see at least as much later.
    session: String,
}

/// The cluster that tokens are of.
pub(super) fn cluster_id(shared: &Shared) -> Result<String> {
    let cluster_id = shared.front.store.topology().borrow().cluster_id.clone();
    if cluster_id.is_empty() {
        return Err(Error::unavailable("the node doesn't know its cluster yet"));
    }
    Ok(cluster_id)
}

/// The shard that a key is in.
pub(super) fn shard_of(shared: &Shared, key: &Key) -> Result<ShardId> {
    let located = shared.front.store.locate(key)?;
    located
        .shard
        .map(|shard| ShardId(shard.id))
        .ok_or_else(|| Error::unavailable("the ring is not known yet"))
}

/// A read in a session saw what its shard had to show. Had the ring moved the key meanwhile, that would be another shard's.
pub(super) fn check_shard(expected: Option<ShardId>, served: &Served) -> Result<()> {
    match expected {
        Some(shard) if shard != served.shard => {
            Err(Error::unavailable("the ring has changed while the key was read; try again"))
        }
        _ => Ok(()),
    }
}
