//! What a client has seen of each shard, so that later reads see at least as much.
//!
//! # The problem
//! A read that any replica may serve can miss a write of the same client that another replica has, or go back behind an
//! earlier read.
//!
//! # The approach
//! Every answer tells the revision of the shard's last write that it takes into account. The client keeps the latest one of
//! each shard, and a read with session consistency asks for a replica that has applied that much. A [`SessionToken`]
//! carries the same to another process: whoever has it sees what this one has seen.
//!
//! Each write takes the latest of these revisions along and gets a later one. So a reader of several shards as of one revision who
//! sees the write sees as well what its writer had seen: causes come before their effects.
//!
//! # What it deliberately does not do
//! Reads with session consistency promise nothing across shards: they see a write of one shard without what was written to
//! another before.

use std::{collections::BTreeMap, fmt, str::FromStr};

use kvd_proto::token;
use kvd_types::{Error, Result, Revision, ShardId};
use parking_lot::Mutex;

/// What a client has seen, to be handed to another one: see [`Client::session_token`](crate::Client::session_token).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionToken(token::SessionToken);

impl SessionToken {
    /// Adds what another one has seen.
    ///
    /// # Errors
    /// Invalid argument: it is of another cluster.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if self.0.cluster_id.is_empty() {
            self.0.cluster_id.clone_from(&other.0.cluster_id);
        } else if !other.0.cluster_id.is_empty() && self.0.cluster_id != other.0.cluster_id {
            return Err(Error::invalid(format!(
                "one session token is of cluster {}, the other of cluster {}",
                self.0.cluster_id, other.0.cluster_id
            )));
        }
        for (&shard, &revision) in &other.0.revisions {
            raise(&mut self.0.revisions, shard, revision);
        }
        Ok(())
    }
}

/// As text that is safe in URLs and headers.
impl fmt::Display for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&token::to_text(&self.0.encode()))
    }
}

impl FromStr for SessionToken {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        token::SessionToken::decode_of_any_cluster(&token::from_text(text)?).map(Self)
    }
}

/// The latest revision seen of each shard.
#[derive(Debug, Default)]
pub(crate) struct Seen(Mutex<BTreeMap<ShardId, Revision>>);

impl Seen {
    pub(crate) fn raise(&self, shard: ShardId, revision: Revision) {
        raise(&mut self.0.lock(), shard, revision);
    }

    pub(crate) fn of(&self, shard: ShardId) -> Revision {
        self.0.lock().get(&shard).copied().unwrap_or_default()
    }

    /// The latest of all.
    pub(crate) fn latest(&self) -> Revision {
        self.0.lock().values().max().copied().unwrap_or_default()
    }

    pub(crate) fn token(&self, cluster_id: String) -> SessionToken {
        SessionToken(token::SessionToken { cluster_id, revisions: self.0.lock().clone() })
    }

    pub(crate) fn take(&self, token: &SessionToken, cluster_id: &str) -> Result<()> {
        let token = &token.0;
        if !token.cluster_id.is_empty() && token.cluster_id != cluster_id {
            return Err(Error::invalid(format!(
                "the session token is of cluster {}, this is cluster {cluster_id}",
                token.cluster_id
            )));
        }
        let mut seen = self.0.lock();
        for (&shard, &revision) in &token.revisions {
            raise(&mut seen, shard, revision);
        }
        Ok(())
    }
}

fn raise(seen: &mut BTreeMap<ShardId, Revision>, shard: ShardId, revision: Revision) {
    let known = seen.entry(shard).or_default();
    *known = revision.max(*known);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_only_grows_and_travels_as_text() {
        let (one, other) = (Seen::default(), Seen::default());
        one.raise(ShardId(1), Revision(5));
        one.raise(ShardId(1), Revision(3));
        other.raise(ShardId(1), Revision(4));
        other.raise(ShardId(2), Revision(7));
        let token: SessionToken = other.token("c".into()).to_string().parse().unwrap();
        one.take(&token, "c").unwrap();
        assert_eq!([1, 2, 3].map(|shard| one.of(ShardId(shard)).get()), [5, 7, 0]);
        assert!(one.take(&token, "d").unwrap_err().message.contains("cluster c"));

        let mut merged = SessionToken::default();
        merged.merge(&token).unwrap();
        merged.merge(&one.token("c".into())).unwrap();
        assert_eq!(merged, one.token("c".into()));
        assert!(merged.merge(&other.token("d".into())).is_err());
        assert!("no token".parse::<SessionToken>().is_err());
    }
}
