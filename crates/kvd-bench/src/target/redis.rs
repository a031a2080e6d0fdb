//! Redis, through its own client crate: one instance, nothing replicated. It is another kind of system, and stands beside the
//! others to say what one process alone does that syncs each write.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use redis::{AsyncCommands as _, AsyncConnectionConfig, Client, RedisError, aio::MultiplexedConnection};

use super::Failure;

/// A connection, whose clones share it: requests that wait travel together.
#[derive(Clone)]
pub(crate) struct Connection(MultiplexedConnection);

impl Connection {
    pub(crate) async fn open(address: &str, timeout: Duration) -> anyhow::Result<Self> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(timeout))
            .set_response_timeout(Some(timeout));
        let client = Client::open(format!("redis://{address}"))?;
        let connection = client.get_multiplexed_async_connection_with_config(&config).await;
        Ok(Self(connection.with_context(|| format!("no redis answers at {address}"))?))
    }

    pub(crate) async fn put(&self, key: String, value: &Bytes) -> Result<(), Failure> {
        self.0.clone().set(key, &value[..]).await.map_err(|error| kind(&error))
    }

    pub(crate) async fn get(&self, key: String) -> Result<(), Failure> {
        let found: Result<Option<Vec<u8>>, _> = self.0.clone().get(key).await;
        found.map(drop).map_err(|error| kind(&error))
    }
}

fn kind(error: &RedisError) -> Failure {
    error.category().to_owned()
}
