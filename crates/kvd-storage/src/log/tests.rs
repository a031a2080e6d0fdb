//! Tests of the log as its callers see it.

use std::sync::mpsc;

use crate::disk::RealDisk;

use super::*;

mod threads;

fn entry(index: u64, term: u64, payload: &str) -> Entry {
    Entry { index: LogIndex(index), term: Term(term), payload: Bytes::copy_from_slice(payload.as_bytes()) }
}

fn id(index: u64, term: u64) -> EntryId {
    EntryId { index: LogIndex(index), term: Term(term) }
}
