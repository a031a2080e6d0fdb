//! As much of etcd's v3 API as a load takes: put, range, and who leads.
//!
//! The messages are those of etcd's `rpc.proto`, as far as they are used here: a field that isn't named is left out, or
//! passed over.

use std::time::Duration;

use anyhow::bail;
use bytes::Bytes;
use prost::Message;
use tonic::{Code, Request, Status, client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel};
use tonic_prost::ProstCodec;

use super::{Failure, channel, unary::kind};

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
    /// Empty: the key alone; a zero byte: all keys from it on.
    #[prost(bytes = "bytes", tag = "2")]
    range_end: Bytes,
    #[prost(int64, tag = "3")]
    limit: i64,
    #[prost(bool, tag = "7")]
    serializable: bool,
}

/// The values are decoded, as any client of etcd does.
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
        let channel = channel("etcd", address, timeout).await?;
        Ok(Self(channel))
    }

    pub(crate) async fn put(&self, key: String, value: &Bytes) -> Result<(), Failure> {
        let request = PutRequest { key: key.into(), value: value.clone() };
        let put: Result<PutResponse, _> = self.call("/etcdserverpb.KV/Put", request).await;
        put.map(drop).map_err(|status| kind(&status))
    }

    pub(crate) async fn get(&self, key: String, serializable: bool) -> Result<(), Failure> {
        self.range(RangeRequest { key: key.into(), serializable, ..RangeRequest::default() }).await.map(drop)
    }

    /// Gives how many keys there were.
    pub(crate) async fn scan(&self, from: String, rows: u32) -> Result<u64, Failure> {
        const TO_THE_LAST: Bytes = Bytes::from_static(&[0]);
        let (key, limit) = (from.into(), rows.into());
        let request = RangeRequest { key, range_end: TO_THE_LAST, limit, ..RangeRequest::default() };
        self.range(request).await.map(|found| found.kvs.len() as u64)
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Failure> {
        self.call("/etcdserverpb.KV/Range", request).await.map_err(|status| kind(&status))
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
