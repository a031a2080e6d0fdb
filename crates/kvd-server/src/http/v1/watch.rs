//! Watches: what changes in a range, as it changes.

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use axum::{
    extract::{Query, State},
    http::{HeaderMap, Uri},
    response::Response,
};
use bytes::Bytes;
use kvd_proto::token;
use kvd_types::{Error, Event, Result, Revision};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    super::{
        Shared,
        answer::{Failure, KeyField, VersionField},
        query,
    },
    bounds::{Bounds, Named},
    kv::Row,
    ranges::resume_of,
    stream::{BrokenOff, Frames, Framing, Tell, streamed},
};
use crate::store::{WatchFrom, WatchPart, WatchSpec};

/// Where an `EventSource` says which event it has seen last, when it connects again.
const LAST_EVENT_ID: &str = "last-event-id";

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct WatchParameters {
    /// The first key that is of interest; none: from the first one.
    start: Option<String>,
    /// The first key that is not; none: to the last one.
    end: Option<String>,
    /// Instead of both: all keys that begin so.
    prefix: Option<String>,
    /// Instead of all of them: this key.
    key: Option<String>,
    /// `start`, `end`, `prefix` and `key` are in base64.
    #[serde(default, deserialize_with = "query::flag")]
    base64: bool,
    /// Begin with what has changed after this revision; none: from now on.
    #[param(value_type = Option<String>)]
    after_revision: Option<u64>,
    /// Go on after what an earlier watch of the same range has told.
    resume: Option<String>,
    /// Leave out puts.
    #[serde(default, deserialize_with = "query::flag")]
    no_puts: bool,
    /// Leave out deletes.
    #[serde(default, deserialize_with = "query::flag")]
    no_deletes: bool,
    /// Give the versions that were replaced or deleted.
    #[serde(default, deserialize_with = "query::flag")]
    prev: bool,
    /// How often to say that everything was told, in milliseconds.
    #[param(value_type = Option<u64>, minimum = 1)]
    progress_ms: Option<NonZeroU64>,
}

/// A key was put.
#[derive(Serialize, ToSchema)]
struct PutEvent {
    #[serde(flatten)]
    row: Row,
    /// If asked for: the version that was replaced, or null.
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<Option<VersionField>>,
    /// Where to go on after it; none: an event that follows has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    resume: Option<String>,
}

/// A key was deleted, or has lapsed.
#[derive(Serialize, ToSchema)]
struct DeleteEvent {
    #[serde(flatten)]
    key: KeyField,
    /// The revision of the delete.
    revision: String,
    /// If asked for: the version that was deleted, or null.
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<Option<VersionField>>,
    /// Where to go on after it; none: an event that follows has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    resume: Option<String>,
}

/// How far the watch has come.
#[derive(Serialize, ToSchema)]
struct PositionEvent {
    /// Where to go on after it.
    resume: String,
}

/// A line, or event, of a watch.
#[derive(Serialize, ToSchema)]
#[serde(tag = "event", rename_all = "lowercase")]
enum WatchLine {
    /// A key was put.
    Put(PutEvent),
    /// A key was deleted, or has lapsed.
    Delete(DeleteEvent),
    /// Where to go on. The first one of a watch says that it has begun.
    Position(PositionEvent),
    /// Everything was told that had been finished a progress interval, or 2.5 s if that is longer, before.
    Progress(PositionEvent),
    /// It has ended.
    Error(BrokenOff),
}

/// Tells what changes in a range, over all shards.
#[utoipa::path(
    get, path = "/v1/watch", tag = "ranges", operation_id = "watch",
    params(WatchParameters,
        ("Last-Event-ID" = Option<String>, Header,
            description = "Where to go on, rather than where the parameters say: the id of the last event that was seen")),
    responses(
        (status = 200, description = "Events, until somebody hangs up", content(
            (WatchLine = "text/event-stream"), (WatchLine = "application/x-ndjson"))),
        (status = 410, description = "What was at that revision has been forgotten", body = Failure)),
)]
pub(in super::super) async fn watch(
    State(shared): State<Shared>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let Query(parameters) = query::of::<WatchParameters>(&uri)?;
    let prev = parameters.prev;
    let spec = spec_of(parameters, &headers).map_err(|error| Failure::of_read(&error))?;
    let parts = Arc::clone(&shared.front.store).watch(spec);
    let framing = Framing::of(&headers, Framing::Events);
    streamed(shared, "watch", framing, parts, Watch { prev, resume: Bytes::new() }).await
}

fn spec_of(parameters: WatchParameters, headers: &HeaderMap) -> Result<WatchSpec> {
    let WatchParameters { start, end, prefix, key, base64, no_puts, no_deletes, .. } = parameters;
    let bounds = Bounds::of(Named { start, end, prefix, key, is_base64: base64 })?;
    if no_puts && no_deletes {
        return Err(Error::invalid("no_puts and no_deletes leave nothing to tell; give one of them"));
    }
    let resume = resume_of(parameters.resume)?;
    let from = match (parameters.after_revision, resume.is_empty()) {
        (None, true) => WatchFrom::Now,
        (Some(revision), true) => WatchFrom::After(Revision(revision)),
        (None, false) => WatchFrom::Resume(resume),
        (Some(_), false) => {
            return Err(Error::invalid("after_revision and resume don't go together; give one of them"));
        }
    };
    Ok(WatchSpec {
        start: bounds.start,
        end: bounds.end,
        // Whoever connects again does so with the address that it began with.
        from: last_event(headers)?.map_or(from, WatchFrom::Resume),
        no_puts,
        no_deletes,
        want_previous: parameters.prev,
        progress_interval: parameters.progress_ms.map(|ms| Duration::from_millis(ms.get())),
    })
}

fn last_event(headers: &HeaderMap) -> Result<Option<Bytes>> {
    let Some(id) = headers.get(LAST_EVENT_ID).filter(|id| !id.is_empty()) else { return Ok(None) };
    let text = id.to_str().map_err(|_| Error::invalid("the header Last-Event-ID is no token"))?;
    token::from_text(text).map(Some)
}

/// Tells of a watch.
struct Watch {
    prev: bool,
    resume: Bytes,
}

impl Tell for Watch {
    type Part = WatchPart;

    fn part(&mut self, part: WatchPart, frames: &mut Frames) -> Result<()> {
        let resume = (!part.resume.is_empty()).then(|| token::to_text(&part.resume));
        let count = part.events.len();
        for (place, event) in part.events.iter().enumerate() {
            let resume = resume.clone().filter(|_| place + 1 == count && !part.is_progress);
            push_event(frames, event, self.prev, resume)?;
        }
        if !part.resume.is_empty() {
            self.resume = part.resume;
        }
        if let Some(resume) = resume.filter(|_| count == 0 || part.is_progress) {
            let id = resume.clone();
            let position = PositionEvent { resume };
            if part.is_progress {
                frames.push("progress", Some(&id), &WatchLine::Progress(position))?;
            } else {
                frames.push("position", Some(&id), &WatchLine::Position(position))?;
            }
        }
        Ok(())
    }

    fn end(&mut self, _frames: &mut Frames) -> Result<()> {
        Err(Error::unavailable("the watch has ended; go on at another node"))
    }

    fn broken_off(&self, error: &Error, frames: &mut Frames) -> Result<()> {
        let resume = (!self.resume.is_empty()).then(|| token::to_text(&self.resume));
        let broken_off = BrokenOff { failure: Failure::of_read(error), resume, deleted: None };
        frames.push("error", None, &WatchLine::Error(broken_off))
    }
}

fn push_event(frames: &mut Frames, event: &Event, prev: bool, resume: Option<String>) -> Result<()> {
    let previous = prev.then(|| event.previous.as_ref().map(VersionField::whole));
    let id = resume.clone();
    match &event.record {
        Some(record) => {
            let row = Row::new(&event.key, VersionField::whole(record));
            let told = WatchLine::Put(PutEvent { row, previous, resume });
            frames.push("put", id.as_deref(), &told)
        }
        None => {
            let (key, revision) = (KeyField::new(&event.key), event.revision.to_string());
            let told = WatchLine::Delete(DeleteEvent { key, revision, previous, resume });
            frames.push("delete", id.as_deref(), &told)
        }
    }
}
