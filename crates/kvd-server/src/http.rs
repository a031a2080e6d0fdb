//! HTTP: the REST interface, probes and metrics, on one port.
//!
//! - `PUT /store`, `GET`, `DELETE /store/{key}`: see [`rest`].
//! - Everything else that kvd can do, under `/v1`: see [`v1`].
//! - `GET /openapi.json`: all of this, for machines; see [`openapi`].
//! - `GET /livez`, `GET /readyz`: 200, or 503 with the reasons. Text; JSON if `Accept` names it or with `?verbose`.
//! - `GET /metrics`: for Prometheus.
//!
//! Whatever goes wrong is told as JSON, `{"status":"error","code":…,"message":…}`, an unknown path (404) and a wrong
//! method (405) included.
//!
//! # Bounds
//! Connections: `limits.connections_max`, one request at a time on each. A request's head: [`HEAD_BYTES_MAX`], within
//! [`HEAD_TIMEOUT`]. A body: [`rest::BODY_BYTES_MAX`] (413), counted before it is kept, within a time of its own (408);
//! all bodies together: a budget, beyond which requests are refused with 429.
//!
//! # Refusing before all is read
//! A request is answered as soon as it is known to be refused, with its body still on the way. Were the connection closed
//! then, the system would tell its other end so at the next byte, and the answer would be lost with it. So what comes
//! afterwards is read and thrown away: see [`linger`].
//!
//! # What is deliberately absent
//! No HTTP/2, and no requests in streams: whoever needs speed speaks gRPC. No TLS: that is a proxy's part.

#![expect(unused_qualifications, reason = "what utoipa's macros expand to")]

use std::{future::poll_fn, pin::Pin, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Query, State},
    http::{HeaderMap, Uri, header},
    response::{IntoResponse as _, Response},
};
use http::StatusCode;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use kvd_proto::net::Listen;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use utoipa::{IntoParams, ToSchema};

use crate::{
    connections::{Connection, Cut, Gate, ServiceLimits},
    front::Front,
    metrics::{self, SharedMetrics},
    store::{Health, Store},
};

mod answer;
mod body;
mod input;
mod openapi;
mod query;
mod rest;
mod routes;
mod v1;

use answer::Failure;
use routes::{Routes, Verb};

/// A connection that hasn't sent the head of a request within this time is closed; it is also how long it may idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest head of a request, in bytes: a key of 4 KiB, percent-encoded, and room for headers.
const HEAD_BYTES_MAX: usize = 32 << 10;

/// After an answer that ends the conversation, so much of what still arrives is thrown away…
const LINGER_BYTES_MAX: usize = 64 << 20;
/// …for so long.
const LINGER_TIMEOUT: Duration = Duration::from_secs(10);

/// What handlers work with.
#[derive(Clone)]
struct Shared {
    front: Front,
    bodies: body::Budget,
    /// Ends the streams.
    shutdown: CancellationToken,
}

/// Serves HTTP until told to stop, and as long after that as the grace allows.
pub async fn serve(
    listener: Box<dyn Listen>,
    store: Arc<dyn Store>,
    limits: ServiceLimits,
    shutdown: CancellationToken,
    metrics: SharedMetrics,
) {
    let cut = Cut::new();
    let gate = Gate::new("http", listener, 1, &limits, Arc::clone(&metrics), &cut);
    let front = Front { store, metrics, value_bytes_max: limits.value_bytes_max };
    let router = router(Shared { front, bodies: body::Budget::new(), shutdown: shutdown.clone() });

    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            connection = gate.accept() => {
                connections.spawn(converse(connection, router.clone(), shutdown.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
    drop(gate);
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.grace, ended).await.is_err() {
        tracing::info!("cutting HTTP connections that outlast shutdown.grace_ms");
    }
    drop(cut);
}

/// One connection's life.
async fn converse(connection: Connection, router: Router, shutdown: CancellationToken) {
    let mut conversation = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(connection), TowerToHyperService::new(router));
    let ended = tokio::select! {
        ended = poll_fn(|cx| conversation.poll_without_shutdown(cx)) => Some(ended),
        () = shutdown.cancelled() => None,
    };
    let ended = if let Some(ended) = ended {
        ended
    } else {
        Pin::new(&mut conversation).graceful_shutdown();
        poll_fn(|cx| conversation.poll_without_shutdown(cx)).await
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection ended early");
        if error.is_timeout() {
            // Nothing was on the way.
            return;
        }
    }
    let mut connection = conversation.into_parts().io.into_inner();
    let lingered =
        shutdown.run_until_cancelled(tokio::time::timeout(LINGER_TIMEOUT, linger(&mut connection)));
    if let Some(Ok(Err(error))) = lingered.await {
        tracing::debug!(%error, "an HTTP connection was cut by its other end");
    }
}

/// Says that nothing more will be said, and throws away what still comes, until the other end has had the answer and hangs
/// up. Whoever sends more than [`LINGER_BYTES_MAX`] nevertheless doesn't listen.
async fn linger(connection: &mut Connection) -> std::io::Result<()> {
    connection.shutdown().await?;
    let mut buffer = vec![0; 16 << 10];
    let mut bytes = 0;
    while bytes < LINGER_BYTES_MAX {
        match connection.read(&mut buffer).await? {
            0 => break,
            read => bytes += read,
        }
    }
    Ok(())
}

fn routes() -> Routes {
    use Verb::{Delete, Get, Post, Put};
    Routes::new()
        .with(Put, "/store", rest::put)
        .with(Get, "/store/{*key}", rest::get)
        .with(Delete, "/store/{*key}", rest::delete)
        .undescribed(Get, "/store/", rest::no_key)
        .undescribed(Delete, "/store/", rest::no_key)
        .with(Get, "/v1/kv/{*key}", v1::kv::get)
        .with(Put, "/v1/kv/{*key}", v1::kv::put)
        .with(Delete, "/v1/kv/{*key}", v1::kv::delete)
        .undescribed(Get, "/v1/kv/", v1::kv::no_key)
        .undescribed(Put, "/v1/kv/", v1::kv::no_key)
        .undescribed(Delete, "/v1/kv/", v1::kv::no_key)
        .with(Post, "/v1/batch_get", v1::kv::batch_get)
        .with(Post, "/v1/txn", v1::txn::txn)
        .with(Get, "/v1/scan", v1::ranges::scan)
        .with(Delete, "/v1/range", v1::ranges::delete_range)
        .with(Get, "/v1/watch", v1::watch::watch)
        .with(Post, "/v1/leases", v1::leases::grant)
        .with(Get, "/v1/leases", v1::leases::list)
        .with(Get, "/v1/leases/{id}", v1::leases::look)
        .with(Delete, "/v1/leases/{id}", v1::leases::revoke)
        .with(Post, "/v1/leases/{id}/keep_alive", v1::leases::keep_alive)
        .with(Get, "/livez", livez)
        .with(Get, "/readyz", readyz)
        .with(Get, "/metrics", show_metrics)
        .with(Get, "/openapi.json", openapi::show)
}

fn router(shared: Shared) -> Router {
    routes().into_router().fallback(unknown_path).method_not_allowed_fallback(wrong_method).with_state(shared)
}

/// What a request is answered with by the routes alone.
#[cfg(feature = "fuzzing")]
pub(crate) async fn answer_without_port(
    store: Arc<dyn Store>,
    request: http::Request<Vec<u8>>,
) -> http::Response<Vec<u8>> {
    use tower::Service as _;

    let metrics = SharedMetrics::new(metrics::Metrics::new("fuzzing"));
    let front = Front { store, metrics, value_bytes_max: kvd_types::limits::VALUE_BYTES_MAX };
    // A stream that has nothing more to tell just now ends.
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    let mut router = router(Shared { front, bodies: body::Budget::new(), shutdown });
    let answered = match router.call(request.map(axum::body::Body::from)).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let (parts, body) = answered.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.map(Vec::from).unwrap_or_default();
    http::Response::from_parts(parts, body)
}

async fn unknown_path(uri: Uri) -> Failure {
    Failure::new(
        StatusCode::NOT_FOUND,
        "unknown_path",
        format!(
            "there is nothing at {}; there are /store, /store/{{key}}, /livez, /readyz, /metrics and what is under /v1: \
             /openapi.json describes it all",
            uri.path()
        ),
    )
}

async fn wrong_method(method: http::Method, uri: Uri) -> Failure {
    let wanted = match uri.path() {
        "/store" => "PUT /store",
        path if path.starts_with("/v1/") => "what the header Allow says",
        _ => "GET, or for /store/{key} also DELETE",
    };
    Failure::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "wrong_method",
        format!("{method} {} is not possible; there is {wanted}", uri.path()),
    )
}

/// The parameters of a probe.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ProbeParameters {
    /// Answer with JSON.
    #[serde(default, deserialize_with = "query::flag")]
    verbose: bool,
}

/// What a probe is answered with, as JSON.
#[derive(Serialize, ToSchema)]
struct Probe {
    /// "ok" or "unavailable".
    status: &'static str,
    /// Why it isn't.
    reasons: Vec<String>,
}

/// Whether the node lives; if not, only a restart helps.
#[utoipa::path(
    get, path = "/livez", tag = "node", operation_id = "livez", params(ProbeParameters),
    responses(
        (status = 200, description = "It lives", content((String = "text/plain"), (Probe = "application/json"))),
        (status = 503, description = "It doesn't", content((String = "text/plain"), (Probe = "application/json")))),
)]
async fn livez(State(shared): State<Shared>, uri: Uri, headers: HeaderMap) -> Result<Response, Failure> {
    let Health { live, reasons } = shared.front.store.health();
    probe(live, if live { Vec::new() } else { reasons }, &uri, &headers)
}

/// Whether the node should be sent requests.
#[utoipa::path(
    get, path = "/readyz", tag = "node", operation_id = "readyz", params(ProbeParameters),
    responses(
        (status = 200, description = "It should", content((String = "text/plain"), (Probe = "application/json"))),
        (status = 503, description = "It shouldn't", content((String = "text/plain"), (Probe = "application/json")))),
)]
async fn readyz(State(shared): State<Shared>, uri: Uri, headers: HeaderMap) -> Result<Response, Failure> {
    let health = shared.front.store.health();
    probe(health.is_ready(), health.reasons, &uri, &headers)
}

fn probe(good: bool, reasons: Vec<String>, uri: &Uri, headers: &HeaderMap) -> Result<Response, Failure> {
    let Query(parameters) = query::of::<ProbeParameters>(uri)?;
    let accepts_json = headers
        .get_all(header::ACCEPT)
        .iter()
        .any(|accept| accept.to_str().is_ok_and(|accept| accept.contains("application/json")));
    let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let word = if good { "ok" } else { "unavailable" };
    if accepts_json || parameters.verbose {
        return Ok((status, axum::Json(Probe { status: word, reasons })).into_response());
    }
    let lines: Vec<_> = std::iter::once(word.to_owned()).chain(reasons).map(|line| line + "\n").collect();
    Ok((status, lines.concat()).into_response())
}

/// What the node counts and measures, for Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "node", operation_id = "metrics",
    responses((status = 200, description = "The metrics", body = String, content_type = "application/openmetrics-text")),
)]
async fn show_metrics(State(shared): State<Shared>) -> Result<Response, Failure> {
    let text = shared.front.metrics.encode().map_err(|error| {
        Failure::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            format!("can't write the metrics: {error}"),
        )
    })?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

#[cfg(test)]
mod tests;
