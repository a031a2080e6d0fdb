//! gRPC for clients: `kvd.v1.Kv`, `kvd.v1.Cluster`, health and reflection, on one port.
//!
//! # How it stops
//! Once told to stop, the server takes no more connections, calls itself unhealthy, ends the streams that have no end of
//! their own (a pipeline answers what it has begun), and waits for calls to finish. Connections that are still there
//! after the grace are cut.
//!
//! # Bounds
//! Connections: `limits.connections_max`. Calls on one connection: [`STREAMS_MAX`]. A message: `MESSAGE_BYTES_MAX`; a
//! request within it: `REQUEST_BYTES_MAX`. Bytes that a client may send ahead of their use: the HTTP/2 windows. A
//! pipeline's operations and their bytes: see [`pipeline`]. What waits inside the node is the core's to bound.
//!
//! Together: on one connection [`CONNECTION_WINDOW_BYTES`] may wait that no call has taken yet, and each call may hold a
//! message that has not arrived whole, 16 MiB and up to 8 GiB; on as many connections as are allowed by default, 4096 times
//! that. This is a bound on each client, not on the node's memory. A client that means well holds next to nothing of it: a
//! call takes what arrives at once, and a message arrives whole. One that means ill can fill the memory, so the port is for
//! clients that are trusted not to; fewer connections (`limits.connections_max`) lower what they can do together. Smaller
//! windows would not help: what a call has taken is no longer in a window, and for a sum of 256 MiB each connection's would
//! have 64 KiB, less than one frame of a pipeline. It would take a count of the bytes of all connections.

use std::{sync::Arc, time::Duration};

use kvd_proto::{
    net::Listen,
    v1::{cluster_server::ClusterServer, kv_server::KvServer},
};
use kvd_types::limits::MESSAGE_BYTES_MAX;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::{
    connections::{Cut, Gate, HTTP2_OPENING_BYTES, ServiceLimits},
    front::Front,
    metrics::SharedMetrics,
    store::Store,
};

mod cluster;
mod deadline;
mod health;
mod kv;
mod pipeline;
mod ranges;

/// Calls and streams on one connection at a time.
const STREAMS_MAX: u32 = 1024;
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// A connection without traffic is asked for a sign of life so often, and has so long to give one.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// The names of the services that are offered, for health and reflection.
const SERVICES: [&str; 2] = ["kvd.v1.Kv", "kvd.v1.Cluster"];

/// Serves clients until told to stop, and as long after that as the grace allows.
///
/// # Errors
/// The services can't be set up. What goes wrong with one connection is that connection's affair.
pub async fn serve(
    listener: Box<dyn Listen>,
    store: Arc<dyn Store>,
    limits: ServiceLimits,
    shutdown: CancellationToken,
    metrics: SharedMetrics,
) -> anyhow::Result<()> {
    let cut = Cut::new();
    let gate = Gate::new("client", listener, HTTP2_OPENING_BYTES, &limits, Arc::clone(&metrics), &cut);
    let front = Front { store: Arc::clone(&store), metrics, value_bytes_max: limits.value_bytes_max };

    let kv = KvServer::new(kv::KvService::new(front, shutdown.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX);
    let cluster = ClusterServer::new(cluster::ClusterService::new(Arc::clone(&store), shutdown.clone()));
    let (reporter, health_service) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(kvd_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name(SERVICES[0])
        .with_service_name(SERVICES[1])
        .with_service_name("grpc.health.v1.Health")
        .with_service_name("grpc.reflection.v1.ServerReflection")
        .build_v1()?;

    let server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(kv)
        .add_service(cluster)
        .add_service(health_service)
        .add_service(reflection)
        .serve_with_incoming_shutdown(gate.connections(), shutdown.clone().cancelled_owned());
    let out_of_time = async {
        shutdown.cancelled().await;
        tokio::time::sleep(limits.grace).await;
    };
    let health = health::follow(reporter, store, shutdown.clone());

    tokio::select! {
        served = async { tokio::join!(server, health).0 } => served?,
        () = out_of_time => tracing::info!("cutting client connections that outlast shutdown.grace_ms"),
    }
    drop(cut);
    Ok(())
}

#[cfg(test)]
mod tests;
