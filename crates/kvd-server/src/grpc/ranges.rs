//! The streams of `Kv`: scans, deletions and watches over all shards.
//!
//! A stream has no deadline of its own: each part is made within the time that a request has, and a watch goes on until it is
//! dropped. When the server stops they end with an error, so that nobody takes a part for the whole.

use std::time::Duration;

use futures::{StreamExt as _, stream, stream::BoxStream};
use kvd_proto::{
    error::to_status,
    operation::{event_to_wire, row_to_wire, scan_options_from_wire},
    v1,
};
use kvd_types::{Error, Revision};
use tokio::time::Instant;
use tonic::Status;

use super::kv::KvService;
use crate::{
    metrics::code_of,
    store::{DeletePart, Parts, ScanPart, ScanSpec, WatchFrom, WatchPart, WatchSpec},
};

/// A stream as the service gives it.
pub(super) type Streamed<T> = BoxStream<'static, Result<T, Status>>;

/// The parts of an answer as messages, until the server stops.
pub(super) fn streamed<P: Send + 'static, M: Send + 'static>(
    service: &KvService,
    method: &'static str,
    parts: Parts<P>,
    to_wire: fn(P) -> M,
) -> Streamed<M> {
    let (metrics, shutdown) = (service.front.metrics.clone(), service.shutdown.clone());
    let started = Instant::now();
    let state = Some((parts, metrics, shutdown));
    let messages = stream::unfold(state, move |state| async move {
        let (mut parts, metrics, shutdown) = state?;
        let part = tokio::select! {
            biased;
            part = parts.next() => part,
            () = shutdown.cancelled() => Some(Err(Error::unavailable("the node is stopping; go on at another one"))),
        };
        match part {
            Some(Ok(part)) => Some((Ok(to_wire(part)), Some((parts, metrics, shutdown)))),
            Some(Err(error)) => {
                metrics.answered(method, "grpc", code_of(&error), started.elapsed());
                Some((Err(to_status(&error)), None))
            }
            None => {
                metrics.answered(method, "grpc", "ok", started.elapsed());
                None
            }
        }
    });
    messages.boxed()
}

pub(super) fn scan_from_wire(wire: v1::ScanAllRequest) -> ScanSpec {
    let (descending, content, filter) = scan_options_from_wire(wire.options);
    ScanSpec {
        start: wire.start,
        end: wire.end,
        limit: (wire.limit > 0).then_some(wire.limit),
        descending,
        content,
        filter,
        at: (wire.at_revision > 0).then_some(Revision(wire.at_revision)),
        resume: wire.resume,
    }
}

pub(super) fn scan_part_to_wire(part: ScanPart) -> v1::ScanAllResponse {
    v1::ScanAllResponse {
        kvs: part.rows.into_iter().map(row_to_wire).collect(),
        revision: part.revision.get(),
        resume: part.resume,
        count: part.count,
    }
}

pub(super) const fn delete_part_to_wire(part: DeletePart) -> v1::DeleteAllResponse {
    v1::DeleteAllResponse { deleted: part.deleted, done: part.is_done }
}

pub(super) fn watch_from_wire(wire: v1::WatchRequest) -> WatchSpec {
    use v1::watch_request::From;
    WatchSpec {
        start: wire.start,
        end: wire.end,
        from: match wire.from {
            None => WatchFrom::Now,
            Some(From::AfterRevision(revision)) => WatchFrom::After(Revision(revision)),
            Some(From::Resume(token)) => WatchFrom::Resume(token),
        },
        no_puts: wire.no_puts,
        no_deletes: wire.no_deletes,
        want_previous: wire.prev_kv,
        progress_interval: (wire.progress_interval_ms > 0)
            .then(|| Duration::from_millis(wire.progress_interval_ms.into())),
    }
}

pub(super) fn watch_part_to_wire(part: WatchPart) -> v1::WatchResponse {
    v1::WatchResponse {
        events: part.events.into_iter().map(event_to_wire).collect(),
        resume: part.resume,
        is_progress: part.is_progress,
    }
}
