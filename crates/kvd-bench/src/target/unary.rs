//! kvd without its client library: one gRPC call for each request, as a client in any language makes it that was generated
//! from the public interface.
//!
//! It knows no ring and no leaders: its connections go to the nodes in turn, and each node passes on what another one leads.

use std::time::Duration;

use bytes::Bytes;
use tonic::{Code, Status, transport::Channel};

use super::{Failure, Reads, channel};
use crate::{
    cli::Level,
    wire::v1::{
        GetRequest, Lifetime, PutRequest, ReadOptions, kv_client::KvClient, lifetime,
        read_options::Consistency as Wanted,
    },
};

/// A connection to one node.
#[derive(Clone)]
pub(crate) struct Connection(KvClient<Channel>);

impl Connection {
    pub(crate) async fn open(address: &str, timeout: Duration) -> anyhow::Result<Self> {
        let channel = channel("kvd", address, timeout).await?;
        Ok(Self(KvClient::new(channel)))
    }

    pub(crate) async fn put(&self, key: String, value: &Bytes, ttl: Option<Duration>) -> Result<(), Failure> {
        let ttl_ms = |ttl: Duration| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let lifetime = ttl.map(|ttl| Lifetime { kind: Some(lifetime::Kind::TtlMs(ttl_ms(ttl))) });
        let request = PutRequest { key: key.into(), value: value.clone(), lifetime, ..PutRequest::default() };
        self.0.clone().put(request).await.map(drop).map_err(|status| kind(&status))
    }

    pub(crate) async fn get(&self, key: String, reads: Reads) -> Result<(), Failure> {
        let request = GetRequest { key: key.into(), read: options(reads) };
        self.0.clone().get(request).await.map(drop).map_err(|status| kind(&status))
    }
}

/// None: linearizable.
fn options(reads: Reads) -> Option<ReadOptions> {
    let bound_ms = u64::try_from(reads.bound.as_millis()).unwrap_or(u64::MAX);
    let consistency = match reads.level {
        // What a client has seen is for the client to remember, and this one doesn't.
        Level::Linearizable | Level::Session => return None,
        Level::Lease => Wanted::Lease(true),
        Level::Bounded => Wanted::BoundedStalenessMs(bound_ms),
        Level::Local => Wanted::Local(true),
    };
    let any_replica = reads.level != Level::Lease;
    Some(ReadOptions { consistency: Some(consistency), any_replica, at_revision: 0 })
}

/// What it is called in reports; a server that has too much to do, as the client library calls it.
pub(super) fn kind(status: &Status) -> Failure {
    match status.code() {
        Code::ResourceExhausted => super::OVERLOADED.to_owned(),
        code => format!("{code:?}"),
    }
}
