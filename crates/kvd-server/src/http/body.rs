//! Reading a request's body without keeping more than there is room for.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, header},
};
use futures::StreamExt as _;
use http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::answer::Failure;

/// What all bodies that are being read or worked on may take together, in KiB.
const BUDGET_KIB: usize = 256 << 10;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The memory that bodies may take. Cheap to clone.
#[derive(Clone)]
pub(super) struct Budget(Arc<Semaphore>);

/// A body, and its part of the budget.
pub(super) struct Kept {
    pub(super) bytes: Vec<u8>,
    _part: OwnedSemaphorePermit,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(BUDGET_KIB)))
    }

    /// Reads a body of at most so many bytes.
    ///
    /// # Errors
    /// 413 for a larger one, 429 when the budget is spent, 408 for one that doesn't arrive, 400 for one that breaks off.
    pub(super) async fn read(
        &self,
        headers: &HeaderMap,
        body: Body,
        bytes_max: usize,
    ) -> Result<Kept, Failure> {
        let announced =
            headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        if announced.is_some_and(|bytes: usize| bytes > bytes_max) {
            return Err(too_large(bytes_max));
        }
        let kib = u32::try_from(announced.unwrap_or(bytes_max).div_ceil(1024)).unwrap_or(u32::MAX);
        let part = Arc::clone(&self.0).try_acquire_many_owned(kib).map_err(|_| {
            Failure::new(
                StatusCode::TOO_MANY_REQUESTS,
                "overloaded",
                "too many large requests at once; retry later",
            )
            .not_applied()
            .retry_after(Duration::from_secs(1))
        })?;
        let read = read(body, announced.unwrap_or(0), bytes_max);
        let bytes = tokio::time::timeout(BODY_TIMEOUT, read).await.map_err(|_| {
            let message = format!("the body has not arrived within {} s", BODY_TIMEOUT.as_secs());
            Failure::new(StatusCode::REQUEST_TIMEOUT, "deadline_exceeded", message).not_applied()
        })??;
        Ok(Kept { bytes, _part: part })
    }
}

async fn read(body: Body, bytes_likely: usize, bytes_max: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::with_capacity(bytes_likely);
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| {
            Failure::new(StatusCode::BAD_REQUEST, "invalid_argument", format!("the body broke off: {error}"))
                .not_applied()
        })?;
        if bytes.len() + piece.len() > bytes_max {
            return Err(too_large(bytes_max));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

fn too_large(bytes_max: usize) -> Failure {
    let message = format!("the body is too large; a body has at most {bytes_max} bytes");
    Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message).not_applied()
}
