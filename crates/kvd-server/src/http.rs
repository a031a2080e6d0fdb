//! HTTP: the REST interface, probes and metrics, on one port.
//!
//! - `PUT /store`, `GET`, `DELETE /store/{key}`: see [`rest`].
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
//! No HTTP/2 and no streaming: whoever needs speed speaks gRPC. No TLS: that is a proxy's part.

use std::{future::poll_fn, pin::Pin, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Query, State},
    http::{HeaderMap, Uri, header},
    response::{IntoResponse as _, Response},
    routing::{get, put},
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

use crate::{
    connections::{Connection, Cut, Gate, ServiceLimits},
    front::Front,
    metrics::{self, SharedMetrics},
    store::{Health, Store},
};

mod answer;
mod body;
mod query;
mod rest;

use answer::Failure;

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
    let router = router(Shared { front, bodies: body::Budget::new() });

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

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/store", put(rest::put))
        .route("/store/{*key}", get(rest::get).delete(rest::delete))
        .route("/store/", get(rest::no_key).delete(rest::no_key))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(show_metrics))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .with_state(shared)
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
    let mut router = router(Shared { front, bodies: body::Budget::new() });
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
            "there is nothing at {}; there are /store, /store/{{key}}, /livez, /readyz and /metrics",
            uri.path()
        ),
    )
}

async fn wrong_method(method: http::Method, uri: Uri) -> Failure {
    let wanted = if uri.path() == "/store" { "PUT /store" } else { "GET, or for /store/{key} also DELETE" };
    Failure::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "wrong_method",
        format!("{method} {} is not possible; there is {wanted}", uri.path()),
    )
}

/// The parameters of a probe.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProbeParameters {
    #[serde(default, deserialize_with = "query::flag")]
    verbose: bool,
}

async fn livez(State(shared): State<Shared>, uri: Uri, headers: HeaderMap) -> Result<Response, Failure> {
    let Health { live, reasons } = shared.front.store.health();
    probe(live, if live { Vec::new() } else { reasons }, &uri, &headers)
}

async fn readyz(State(shared): State<Shared>, uri: Uri, headers: HeaderMap) -> Result<Response, Failure> {
    let health = shared.front.store.health();
    probe(health.is_ready(), health.reasons, &uri, &headers)
}

fn probe(good: bool, reasons: Vec<String>, uri: &Uri, headers: &HeaderMap) -> Result<Response, Failure> {
    #[derive(Serialize)]
    struct Probe {
        status: &'static str,
        reasons: Vec<String>,
    }
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
