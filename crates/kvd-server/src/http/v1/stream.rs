//! Answers that come in parts: as JSON lines, or as server-sent events.
//!
//! The first part is waited for, so that what can't even begin is refused with a status of its own. After that the status has
//! been sent, so a failure is told in the stream, as its last line. A stream without a last line that says so is not whole.
//!
//! # Invariants
//! - A part is asked for only once the one before it has gone to the connection: whoever reads slowly holds up its own stream,
//!   and no more than a part of it is kept.
//! - When the server stops, a stream ends with an error, so that nobody takes a part for the whole.

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::{HeaderMap, header};
use kvd_types::{Error, Result};
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::super::{Shared, answer::Failure};
use crate::{metrics::code_of, store::Parts};

pub(super) const LINES: &str = "application/x-ndjson";
pub(super) const EVENTS: &str = "text/event-stream";

/// How the things that a stream tells are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// Each is a line of JSON.
    Lines,
    /// Each is a server-sent event.
    Events,
}

impl Framing {
    /// What the request accepts; if it doesn't say, or accepts both: this one.
    pub(super) fn of(headers: &HeaderMap, otherwise: Self) -> Self {
        let accepts = |wanted: &str| {
            let named = headers.get_all(header::ACCEPT).iter();
            named.filter_map(|accept| accept.to_str().ok()).any(|accept| accept.contains(wanted))
        };
        match (accepts(LINES), accepts(EVENTS)) {
            (true, false) => Self::Lines,
            (false, true) => Self::Events,
            _ => otherwise,
        }
    }

    const fn content_type(self) -> &'static str {
        match self {
            Self::Lines => LINES,
            Self::Events => EVENTS,
        }
    }
}

/// What is about to be sent: the things told of one part.
pub(super) struct Frames {
    framing: Framing,
    bytes: Vec<u8>,
}

impl Frames {
    /// Tells something: what kind it is, and from where on one could go on after it.
    pub(super) fn push(&mut self, event: &str, resume: Option<&str>, told: &impl Serialize) -> Result<()> {
        let json = serde_json::to_vec(told)
            .map_err(|error| Error::internal(format!("the answer can't be written as JSON: {error}")))?;
        if self.framing == Framing::Events {
            self.bytes.extend_from_slice(format!("event: {event}\n").as_bytes());
            if let Some(resume) = resume {
                self.bytes.extend_from_slice(format!("id: {resume}\n").as_bytes());
            }
            self.bytes.extend_from_slice(b"data: ");
        }
        self.bytes.extend_from_slice(&json);
        self.bytes.extend_from_slice(if self.framing == Framing::Events { b"\n\n" } else { b"\n" });
        Ok(())
    }
}

/// How the parts of an answer are told.
pub(super) trait Tell: Send + 'static {
    type Part: Send + 'static;

    /// There is more to tell.
    fn part(&mut self, part: Self::Part, frames: &mut Frames) -> Result<()>;

    /// All was told.
    fn end(&mut self, frames: &mut Frames) -> Result<()>;

    /// It failed.
    fn broken_off(&self, error: &Error, frames: &mut Frames) -> Result<()>;

    /// It didn't begin.
    fn refused(error: &Error) -> Failure {
        Failure::of_read(error)
    }
}

/// A failure in the middle of a stream: its last line.
#[derive(Serialize, ToSchema)]
pub(super) struct BrokenOff {
    #[serde(flatten)]
    pub(super) failure: Failure,
    /// Where to go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) resume: Option<String>,
    /// Of a deletion: how many keys have been removed, at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) deleted: Option<u64>,
}

/// A stream under way.
struct Streaming<T: Tell> {
    shared: Shared,
    method: &'static str,
    started: Instant,
    framing: Framing,
    parts: Parts<T::Part>,
    tell: T,
    is_over: bool,
}

/// The answer that these parts make.
pub(super) async fn streamed<T: Tell>(
    shared: Shared,
    method: &'static str,
    framing: Framing,
    parts: Parts<T::Part>,
    tell: T,
) -> Result<Response, Failure> {
    let started = Instant::now();
    let mut streaming = Streaming { shared, method, started, framing, parts, tell, is_over: false };
    let first = match streaming.next_part().await {
        Some(Err(error)) => {
            streaming.count(code_of(&error));
            return Err(T::refused(&error));
        }
        first => streaming.told(first),
    };
    let rest = stream::unfold(streaming, |mut streaming| async move {
        if streaming.is_over {
            return None;
        }
        let part = streaming.next_part().await;
        Some((streaming.told(part), streaming))
    });
    let pieces = stream::iter([first]).chain(rest).filter(|piece| std::future::ready(!piece.is_empty()));
    let body = Body::from_stream(pieces.map(Ok::<_, std::convert::Infallible>));
    let headers = [(header::CONTENT_TYPE, framing.content_type()), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, body).into_response())
}

impl<T: Tell> Streaming<T> {
    async fn next_part(&mut self) -> Option<Result<T::Part>> {
        tokio::select! {
            biased;
            part = self.parts.next() => part,
            () = self.shared.shutdown.cancelled() => {
                Some(Err(Error::unavailable("the node is stopping; go on at another one")))
            }
        }
    }

    /// What is to be sent of this.
    fn told(&mut self, part: Option<Result<T::Part>>) -> Bytes {
        let mut frames = Frames { framing: self.framing, bytes: Vec::new() };
        let is_last = part.is_none();
        let told = match part {
            Some(Ok(part)) => self.tell.part(part, &mut frames),
            Some(Err(error)) => Err(error),
            None => self.tell.end(&mut frames),
        };
        match told {
            Ok(()) if is_last => {
                self.is_over = true;
                self.count("ok");
            }
            Ok(()) => {}
            Err(error) => {
                self.is_over = true;
                self.count(code_of(&error));
                if let Err(error) = self.tell.broken_off(&error, &mut frames) {
                    tracing::error!(%error, "a stream ends without saying why");
                }
            }
        }
        frames.bytes.into()
    }

    fn count(&self, code: &'static str) {
        self.shared.front.metrics.answered(self.method, "http", code, self.started.elapsed());
    }
}
