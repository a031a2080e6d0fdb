//! Reads, between wire and domain.

use std::time::Duration;

use kvd_types::{
    Consistency, Event, Key, LogIndex, Read, Result, Revision, ShardId,
    operation::{Changes, ChangesPage, Content, Filter, Page, ReadPoint, Response, ScanPage},
};

use super::reply::{key_from_server, record_from_wire, record_to_wire, row_from_wire, row_to_wire};
use crate::v1::{self, operation_result::Response as WireResponse};

/// How a read is served, as it goes over the wire.
#[must_use]
pub fn read_to_wire(read: Read) -> Option<v1::ReadOptions> {
    use v1::read_options::Consistency as Wire;
    if read == Read::LINEARIZABLE {
        return None;
    }
    let consistency = match read.consistency {
        Consistency::Linearizable => None,
        Consistency::Lease => Some(Wire::Lease(true)),
        Consistency::Session(revision) => Some(Wire::SessionRevision(revision.get())),
        Consistency::Bounded(bound) => Some(Wire::BoundedStalenessMs(millis(bound))),
        Consistency::Local => Some(Wire::Local(true)),
    };
    // As of before every write is as of revision 1 too, and 0 means now.
    let at_revision = read.at.map_or(0, |at| at.get().max(1));
    Some(v1::ReadOptions { consistency, any_replica: read.any_replica, at_revision })
}

/// How a read is served, as it came over the wire.
#[must_use]
pub fn read_from_wire(wire: Option<v1::ReadOptions>) -> Read {
    use v1::read_options::Consistency as Wire;
    let Some(wire) = wire else { return Read::LINEARIZABLE };
    let consistency = match wire.consistency {
        None | Some(Wire::Lease(false) | Wire::Local(false)) => Consistency::Linearizable,
        Some(Wire::Lease(true)) => Consistency::Lease,
        Some(Wire::SessionRevision(revision)) => Consistency::Session(Revision(revision)),
        Some(Wire::BoundedStalenessMs(bound_ms)) => Consistency::Bounded(Duration::from_millis(bound_ms)),
        Some(Wire::Local(true)) => Consistency::Local,
    };
    Read { consistency, any_replica: wire.any_replica, at: revision_from_wire(wire.at_revision) }
}

/// What a scan returns, as it goes over the wire.
#[must_use]
pub fn scan_options_to_wire(descending: bool, content: Content, filter: Filter) -> Option<v1::ScanOptions> {
    use v1::scan_options::Content as Wire;
    let content = match content {
        Content::All => Wire::All,
        Content::KeysOnly => Wire::KeysOnly,
        Content::CountOnly => Wire::CountOnly,
    };
    let number = |revision: Option<Revision>| revision.map_or(0, Revision::get);
    let options = v1::ScanOptions {
        descending,
        content: content.into(),
        revision_min: number(filter.revision_min),
        revision_max: number(filter.revision_max),
        create_revision_min: number(filter.create_revision_min),
        create_revision_max: number(filter.create_revision_max),
    };
    (options != v1::ScanOptions::default()).then_some(options)
}

/// What a scan returns, as it came over the wire.
#[must_use]
pub fn scan_options_from_wire(wire: Option<v1::ScanOptions>) -> (bool, Content, Filter) {
    use v1::scan_options::Content as Wire;
    let wire = wire.unwrap_or_default();
    let content = match wire.content() {
        Wire::All => Content::All,
        Wire::KeysOnly => Content::KeysOnly,
        Wire::CountOnly => Content::CountOnly,
    };
    let filter = Filter {
        revision_min: revision_from_wire(wire.revision_min),
        revision_max: revision_from_wire(wire.revision_max),
        create_revision_min: revision_from_wire(wire.create_revision_min),
        create_revision_max: revision_from_wire(wire.create_revision_max),
    };
    (wire.descending, content, filter)
}

/// An event as it goes over the wire.
#[must_use]
pub fn event_to_wire(event: Event) -> v1::Event {
    v1::Event {
        key: event.key.into_bytes(),
        revision: event.revision.get(),
        kv: event.record.map(record_to_wire),
        prev_kv: event.previous.map(record_to_wire),
    }
}

/// An event as a server has sent it.
///
/// # Errors
/// Internal: it makes no sense.
pub fn event_from_wire(wire: v1::Event) -> Result<Event> {
    Ok(Event {
        key: key_from_server(wire.key)?,
        revision: Revision(wire.revision),
        record: wire.kv.map(record_from_wire),
        previous: wire.prev_kv.map(record_from_wire),
    })
}

pub(super) fn scan_to_wire(page: ScanPage) -> v1::ScanRequest {
    v1::ScanRequest {
        shard: page.shard.get(),
        start: page.start,
        end: page.end,
        limit: saturating(page.limit),
        read: read_to_wire(page.read),
        options: scan_options_to_wire(page.descending, page.content, page.filter),
    }
}

pub(super) fn scan_from_wire(wire: v1::ScanRequest) -> ScanPage {
    let (descending, content, filter) = scan_options_from_wire(wire.options);
    ScanPage {
        shard: ShardId(wire.shard),
        start: wire.start,
        end: wire.end,
        limit: wire.limit as usize,
        descending,
        content,
        filter,
        read: read_from_wire(wire.read),
    }
}

pub(super) fn page_to_wire(header: Option<v1::ResponseHeader>, page: Page) -> WireResponse {
    WireResponse::Scan(v1::ScanResponse {
        header,
        kvs: page.rows.into_iter().map(row_to_wire).collect(),
        more: page.next.is_some(),
        next: page.next.unwrap_or_default(),
        count: page.count,
    })
}

pub(super) fn page_from_wire(wire: v1::ScanResponse) -> Result<Response> {
    Ok(Response::Page(Page {
        rows: wire.kvs.into_iter().map(row_from_wire).collect::<Result<_>>()?,
        count: wire.count,
        next: wire.more.then_some(wire.next),
    }))
}

pub(super) fn read_point_to_wire(point: ReadPoint) -> v1::ReadPointRequest {
    v1::ReadPointRequest {
        shard: point.shard.get(),
        at_revision: point.at.map_or(0, Revision::get),
        needs_after: point.needs_after.map(Revision::get),
        vouched_for: point.is_vouched_for,
    }
}

pub(super) fn read_point_from_wire(wire: v1::ReadPointRequest) -> ReadPoint {
    ReadPoint {
        shard: ShardId(wire.shard),
        at: revision_from_wire(wire.at_revision),
        needs_after: wire.needs_after.map(Revision),
        is_vouched_for: wire.vouched_for,
    }
}

pub(super) const fn read_point_reply(wire: &v1::ReadPointResponse) -> Response {
    Response::ReadPoint { log_index: LogIndex(wire.log_index), revision: Revision(wire.revision) }
}

pub(super) fn changes_to_wire(page: ChangesPage) -> v1::ChangesRequest {
    v1::ChangesRequest {
        shard: page.shard.get(),
        after: page.after.get(),
        start: page.start,
        end: page.end,
        limit: saturating(page.limit),
        prev_kv: page.want_previous,
        wait_ms: page.wait_ms,
    }
}

pub(super) fn changes_from_wire(wire: v1::ChangesRequest) -> ChangesPage {
    ChangesPage {
        shard: ShardId(wire.shard),
        after: Revision(wire.after),
        start: wire.start,
        end: wire.end,
        limit: wire.limit as usize,
        want_previous: wire.prev_kv,
        wait_ms: wire.wait_ms,
    }
}

pub(super) fn changes_reply_to_wire(header: Option<v1::ResponseHeader>, changes: Changes) -> WireResponse {
    WireResponse::Changes(v1::ChangesResponse {
        header,
        events: changes.events.into_iter().map(event_to_wire).collect(),
        upto: changes.upto.get(),
        more: changes.more,
    })
}

pub(super) fn changes_reply_from_wire(wire: v1::ChangesResponse) -> Result<Response> {
    Ok(Response::Changes(Changes {
        events: wire.events.into_iter().map(event_from_wire).collect::<Result<_>>()?,
        upto: Revision(wire.upto),
        more: wire.more,
    }))
}

pub(super) fn keys_from_server(wire: Vec<bytes::Bytes>) -> Result<Vec<Key>> {
    wire.into_iter().map(key_from_server).collect()
}

/// Zero stands for none.
fn revision_from_wire(wire: u64) -> Option<Revision> {
    (wire != 0).then_some(Revision(wire))
}

pub(super) fn saturating(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
