//! Ranges of keys: scans, and deletions step by step.

use std::{num::NonZeroU64, sync::Arc};

use axum::{
    extract::{Query, State},
    http::{HeaderMap, Uri},
    response::Response,
};
use bytes::Bytes;
use kvd_proto::token;
use kvd_types::{
    Error, Result, Revision,
    operation::{Content, Filter},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    super::{
        Shared,
        answer::{Failure, VersionField},
        query,
    },
    bounds::{Bounds, Named},
    kv::Row,
    stream::{BrokenOff, Frames, Framing, Tell, streamed},
};
use crate::store::{DeletePart, ScanPart, ScanSpec};

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ScanParameters {
    /// The first key that may be returned; none: from the first one.
    start: Option<String>,
    /// The first key that may not be returned; none: to the last one.
    end: Option<String>,
    /// Instead of both: all keys that begin so.
    prefix: Option<String>,
    /// `start`, `end` and `prefix` are in base64.
    #[serde(default, deserialize_with = "query::flag")]
    base64: bool,
    /// Most rows.
    #[param(value_type = Option<u64>, minimum = 1)]
    limit: Option<NonZeroU64>,
    /// From the last key to the first.
    #[serde(default, deserialize_with = "query::flag")]
    descending: bool,
    /// Leave out the values.
    #[serde(default, deserialize_with = "query::flag")]
    keys_only: bool,
    /// Return no rows, only how many there are.
    #[serde(default, deserialize_with = "query::flag")]
    count: bool,
    /// As of this revision; none: as of now.
    #[param(value_type = Option<String>)]
    revision: Option<NonZeroU64>,
    /// Only keys last written at this revision or later.
    #[param(value_type = Option<String>)]
    min_revision: Option<NonZeroU64>,
    /// Only keys last written at this revision or before.
    #[param(value_type = Option<String>)]
    max_revision: Option<NonZeroU64>,
    /// Only keys that came into being at this revision or later.
    #[param(value_type = Option<String>)]
    min_create_revision: Option<NonZeroU64>,
    /// Only keys that came into being at this revision or before.
    #[param(value_type = Option<String>)]
    max_create_revision: Option<NonZeroU64>,
    /// Go on where a scan of the same kind has stopped.
    resume: Option<String>,
}

/// The last line of a scan.
#[derive(Serialize, ToSchema)]
struct ScanEnd {
    /// True.
    end: bool,
    /// The revision as of which all shards were read.
    revision: String,
    /// How many keys there were.
    count: u64,
    /// If the limit stopped it: where to go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    resume: Option<String>,
}

/// A line of a scan.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum ScanLine {
    Row(Row),
    End(ScanEnd),
    BrokenOff(BrokenOff),
}

/// Reads the keys of a range over all shards, in order, as of one revision.
#[utoipa::path(
    get, path = "/v1/scan", tag = "ranges", operation_id = "scan", params(ScanParameters),
    responses(
        (status = 200, description = "A row on each line, and a last one that says how it ended", content(
            (ScanLine = "application/x-ndjson"), (ScanLine = "text/event-stream"))),
        (status = 410, description = "What was at that revision has been forgotten", body = Failure)),
)]
pub(in super::super) async fn scan(
    State(shared): State<Shared>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let Query(parameters) = query::of::<ScanParameters>(&uri)?;
    let spec = spec_of(parameters).map_err(|error| Failure::of_read(&error))?;
    let parts = Arc::clone(&shared.front.store).scan(spec.clone());
    let resume = spec.resume.clone();
    let tell = Scan { content: spec.content, revision: Revision::ZERO, count: 0, resume };
    streamed(shared, "scan_all", Framing::of(&headers, Framing::Lines), parts, tell).await
}

fn spec_of(parameters: ScanParameters) -> Result<ScanSpec> {
    let ScanParameters { start, end, prefix, base64, limit, keys_only, count, .. } = parameters;
    let bounds = Bounds::of(Named { start, end, prefix, key: None, is_base64: base64 })?;
    let content = match (keys_only, count) {
        (false, false) => Content::All,
        (true, false) => Content::KeysOnly,
        (false, true) => Content::CountOnly,
        (true, true) => {
            return Err(Error::invalid("keys_only and count don't go together; give one of them"));
        }
    };
    if count && limit.is_some() {
        return Err(Error::invalid("count and limit don't go together: a count returns no rows"));
    }
    let revision = |of: Option<NonZeroU64>| of.map(|revision| Revision(revision.get()));
    let filter = Filter {
        revision_min: revision(parameters.min_revision),
        revision_max: revision(parameters.max_revision),
        create_revision_min: revision(parameters.min_create_revision),
        create_revision_max: revision(parameters.max_create_revision),
    };
    Ok(ScanSpec {
        start: bounds.start,
        end: bounds.end,
        limit: limit.map(NonZeroU64::get),
        descending: parameters.descending,
        content,
        filter,
        at: revision(parameters.revision),
        resume: resume_of(parameters.resume)?,
    })
}

/// A token that came; one that is there and empty is none that was given.
pub(super) fn resume_of(resume: Option<String>) -> Result<Bytes> {
    let Some(text) = resume else { return Ok(Bytes::new()) };
    if text.is_empty() {
        return Err(Error::invalid("resume is empty; give the token, or leave it out to begin anew"));
    }
    token::from_text(&text)
}

/// Tells of a scan.
struct Scan {
    content: Content,
    revision: Revision,
    count: u64,
    resume: Bytes,
}

impl Tell for Scan {
    type Part = ScanPart;

    fn part(&mut self, part: ScanPart, frames: &mut Frames) -> Result<()> {
        let show = match self.content {
            Content::All => VersionField::whole,
            Content::KeysOnly | Content::CountOnly => VersionField::bare,
        };
        for (key, record) in &part.rows {
            frames.push("row", None, &ScanLine::Row(Row::new(key, show(record))))?;
        }
        (self.revision, self.count, self.resume) = (part.revision, part.count, part.resume);
        Ok(())
    }

    fn end(&mut self, frames: &mut Frames) -> Result<()> {
        let end = ScanEnd {
            end: true,
            revision: self.revision.to_string(),
            count: self.count,
            resume: (!self.resume.is_empty()).then(|| token::to_text(&self.resume)),
        };
        frames.push("end", None, &ScanLine::End(end))
    }

    fn broken_off(&self, error: &Error, frames: &mut Frames) -> Result<()> {
        let resume = (!self.resume.is_empty()).then(|| token::to_text(&self.resume));
        let broken_off = BrokenOff { failure: Failure::of_read(error), resume, deleted: None };
        frames.push("error", None, &ScanLine::BrokenOff(broken_off))
    }
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DeleteRangeParameters {
    /// The first key that goes; none: from the first one.
    start: Option<String>,
    /// The first key that does not go; none: to the last one.
    end: Option<String>,
    /// Instead of both: all keys that begin so.
    prefix: Option<String>,
    /// `start`, `end` and `prefix` are in base64.
    #[serde(default, deserialize_with = "query::flag")]
    base64: bool,
    /// Needed to delete all keys there are: when there is neither start, end nor prefix.
    #[serde(default, deserialize_with = "query::flag")]
    all: bool,
}

/// A line of a deletion.
#[derive(Serialize, ToSchema)]
struct DeleteProgress {
    /// How many keys have been removed so far.
    deleted: u64,
    /// All are gone that were there when it began. Only of the last line.
    done: bool,
}

/// A line of a deletion.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum DeleteRangeLine {
    Progress(DeleteProgress),
    BrokenOff(BrokenOff),
}

/// Removes the keys of a range over all shards, step by step: not all at once.
#[utoipa::path(
    delete, path = "/v1/range", tag = "ranges", operation_id = "delete_range", params(DeleteRangeParameters),
    responses((status = 200, description = "How far it has come on each line, until it is done", content(
        (DeleteRangeLine = "application/x-ndjson"), (DeleteRangeLine = "text/event-stream")))),
)]
pub(in super::super) async fn delete_range(
    State(shared): State<Shared>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let Query(parameters) = query::of::<DeleteRangeParameters>(&uri)?;
    let Bounds { start, end } = doomed(parameters).map_err(|error| Failure::of_write(&error))?;
    let parts = Arc::clone(&shared.front.store).delete_range(start, end);
    let framing = Framing::of(&headers, Framing::Lines);
    streamed(shared, "delete_all", framing, parts, Deletion { deleted: 0, is_done: false }).await
}

fn doomed(parameters: DeleteRangeParameters) -> Result<Bounds> {
    let DeleteRangeParameters { start, end, prefix, base64, all } = parameters;
    let bounds = Bounds::of(Named { start, end, prefix, key: None, is_base64: base64 })?;
    if bounds.is_everything() != all {
        return Err(Error::invalid(if all {
            "all is for the range of all keys; leave it out, or the bounds"
        } else {
            "that is all keys there are: give a prefix, start or end, or ?all if that is what you want"
        }));
    }
    if bounds.is_nothing() {
        return Err(Error::invalid("the range ends where it starts: there is nothing to delete"));
    }
    Ok(bounds)
}

/// Tells of a deletion.
struct Deletion {
    deleted: u64,
    is_done: bool,
}

impl Tell for Deletion {
    type Part = DeletePart;

    fn part(&mut self, part: DeletePart, frames: &mut Frames) -> Result<()> {
        (self.deleted, self.is_done) = (part.deleted, part.is_done);
        let progress = DeleteProgress { deleted: part.deleted, done: part.is_done };
        frames.push("progress", None, &DeleteRangeLine::Progress(progress))
    }

    fn end(&mut self, _frames: &mut Frames) -> Result<()> {
        if self.is_done {
            return Ok(());
        }
        Err(Error::internal("the deletion ended without being done"))
    }

    fn broken_off(&self, error: &Error, frames: &mut Frames) -> Result<()> {
        // What was deleted before stays deleted; the outcome is that of the step that failed.
        let deleted = Some(self.deleted);
        let broken_off = BrokenOff { failure: Failure::of_write(error), resume: None, deleted };
        frames.push("error", None, &DeleteRangeLine::BrokenOff(broken_off))
    }

    fn refused(error: &Error) -> Failure {
        Failure::of_write(error)
    }
}
