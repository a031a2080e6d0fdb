//! As much of etcd's v3 API as a load takes: put, range of one key, and who leads.
//!
//! The messages are those of etcd's `rpc.proto`, as far as they are used here: a field that isn't named is left out, or
//! passed over.

use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use prost::Message;
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use super::{Failure, unary::kind};

#[derive(Clone, PartialEq, Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct PutResponse {}

#[derive(Clone, PartialEq, Message)]
struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
}

/// The value is decoded, as any client of etcd does.
#[derive(Clone, PartialEq, Message)]
struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(bytes = "bytes", tag = "5")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

#[derive(Clone, PartialEq, Message)]
struct ResponseHeader {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

/// A connection to one member.
#[derive(Clone)]
pub(crate) struct Connection(Channel);

impl Connection {
    pub(crate) async fn open(address: &str, timeout: Duration) -> anyhow::Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?
            .connect_timeout(timeout)
            .timeout(timeout)
            .tcp_nodelay(true);
        let channel = endpoint.connect().await.with_context(|| format!("no etcd answers at {address}"))?;
        Ok(Self(channel))
    }

    pub(crate) async fn put(&self, key: String, value: &Bytes) -> Result<(), Failure> {
        let request = PutRequest { key: key.into(), value: value.clone() };
        let put: Result<PutResponse, _> = self.call("/etcdserverpb.KV/Put", request).await;
        put.map(drop).map_err(|status| kind(&status))
    }

    pub(crate) async fn get(&self, key: String) -> Result<(), Failure> {
        let request = RangeRequest { key: key.into() };
        let found: Result<RangeResponse, _> = self.call("/etcdserverpb.KV/Range", request).await;
        found.map(drop).map_err(|status| kind(&status))
    }

    async fn call<M, T>(&self, method: &'static str, message: M) -> Result<T, Status>
    where
        M: Message + 'static,
        T: Message + Default + 'static,
    {
        let mut grpc = Grpc::new(self.0.clone());
        grpc.ready().await.map_err(|error| Status::new(Code::Unavailable, error.to_string()))?;
        let path = PathAndQuery::from_static(method);
        Ok(grpc.unary(Request::new(message), path, ProstCodec::default()).await?.into_inner())
    }
}

/// The address of the member that leads: whoever asks another one pays for a hop more.
pub(crate) async fn leader(endpoints: &str, timeout: Duration) -> anyhow::Result<String> {
    for address in endpoints.split(',') {
        let connection = Connection::open(address, timeout).await?;
        let status: StatusResponse =
            connection.call("/etcdserverpb.Maintenance/Status", StatusRequest {}).await?;
        let member = status.header.unwrap_or_default().member_id;
        if status.leader != 0 && status.leader == member {
            return Ok(address.to_owned());
        }
    }
    bail!("none of {endpoints} leads its etcd cluster")
}
