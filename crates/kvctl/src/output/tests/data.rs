//! Ranges, transactions, watches, leases, locks and elections.

use kvd_client::{Event, Leader, LeaseStatus, TxnOutcome, TxnResult};
use kvd_types::TxnOp;

use super::*;

const LEASE: LeaseId = LeaseId(0x1f);

fn key() -> Key {
    Key::try_from("k").unwrap()
}

fn event(record: Option<Record>, previous: Option<Record>) -> Event {
    Event { key: key(), revision: Revision(9), record, previous }
}

fn token() -> kvd_client::Token {
    kvd_client::Token::new(&b"abc"[..])
}

#[test]
fn what_of_a_key_is_shown() {
    check(Format::Table, |out| out.found(&key(), &record(b"v"), Shown::Key), "k\n");
    check(
        Format::Json,
        |out| out.found(&key(), &record(b"v"), Shown::Key),
        "{\"key\":\"k\",\"revision\":\"1900000000000000007\",\"create_revision\":\"5\",\"version\":\"3\"}\n",
    );
    let attached = Record { lease: Some(LEASE), ..record(b"v") };
    check(
        Format::Json,
        |out| out.found(&key(), &attached, Shown::Both),
        "{\"key\":\"k\",\"value\":\"v\",\"revision\":\"1900000000000000007\",\"create_revision\":\"5\",\
         \"version\":\"3\",\"lease\":\"000000000000001f\"}\n",
    );
}

#[test]
fn counts() {
    check(Format::Table, |out| out.count(7), "7\n");
    check(Format::Json, |out| out.count(7), "{\"count\":\"7\"}\n");
    check(Format::Table, |out| out.range_deleted(7, false), "7\n");
    check(Format::Json, |out| out.range_deleted(7, true), "{\"succeeded\":true,\"deleted_count\":\"7\"}\n");
    check(Format::Json, |out| out.range_deleted(7, false), "{\"succeeded\":false,\"deleted_count\":\"7\"}\n");
}

#[test]
fn a_transaction() {
    let put = TxnOp::Put {
        key: key(),
        value: Bytes::new(),
        lifetime: kvd_types::Lifetime::Forever,
        want_previous: true,
    };
    let delete = TxnOp::Delete { key: key(), want_previous: false };
    let done = [put, TxnOp::Get(key()), TxnOp::Get(key()), delete];
    let results = vec![
        TxnResult::Put { create_revision: Revision(5), version: 2, previous: Some(record(b"old")) },
        TxnResult::Got(Some(record(b"v"))),
        TxnResult::Got(None),
        TxnResult::Deleted { existed: true, previous: None },
    ];
    let outcome = TxnOutcome { succeeded: true, revision: Revision(9), results };
    check(Format::Table, |out| out.txn(&outcome, &done), "SUCCESS\n\nOK\nold\n\nk\nv\n\n\n1\n");
    check(
        Format::Json,
        |out| out.txn(&outcome, &done),
        concat!(
            r#"{"succeeded":true,"revision":"9","results":[{"put":{"create_revision":"5","version":"2","#,
            r#""previous":{"value":"old","revision":"1900000000000000007","create_revision":"5","version":"3"}}},"#,
            r#"{"get":{"key":"k","value":"v","revision":"1900000000000000007","create_revision":"5","version":"3"}},"#,
            r#"{"get":null},{"del":{"deleted":true}}]}"#,
            "\n"
        ),
    );
    let failed = TxnOutcome { succeeded: false, revision: Revision(9), results: Vec::new() };
    check(Format::Table, |out| out.txn(&failed, &[]), "FAILURE\n");
    check(
        Format::Json,
        |out| out.txn(&failed, &[]),
        "{\"succeeded\":false,\"revision\":\"9\",\"results\":[]}\n",
    );
}

#[test]
fn changes() {
    let (put, delete) = (event(Some(record(b"v")), None), event(None, Some(record(b"old"))));
    check(Format::Table, |out| out.event(&put, None), "PUT\nk\nv\n");
    check(Format::Table, |out| out.event(&delete, Some(&token())), "DELETE\nk\nold\nk\n\n");
    check(
        Format::Json,
        |out| out.event(&put, None),
        "{\"type\":\"put\",\"key\":\"k\",\"revision\":\"9\",\"record\":{\"value\":\"v\",\
         \"revision\":\"1900000000000000007\",\"create_revision\":\"5\",\"version\":\"3\"}}\n",
    );
    check(
        Format::Json,
        |out| out.event(&delete, Some(&token())),
        "{\"type\":\"delete\",\"key\":\"k\",\"revision\":\"9\",\"previous\":{\"value\":\"old\",\
         \"revision\":\"1900000000000000007\",\"create_revision\":\"5\",\"version\":\"3\"},\"resume\":\"YWJj\"}\n",
    );
    check(
        Format::Json,
        |out| out.progress(&token()).map(|written| assert!(written)),
        "{\"type\":\"progress\",\"resume\":\"YWJj\"}\n",
    );
    check(Format::Table, |out| out.progress(&token()).map(|written| assert!(!written)), "");
}

#[test]
fn leases() {
    let ttl = Duration::from_secs(60);
    let status =
        LeaseStatus { id: LEASE, ttl, remaining: Duration::from_millis(48_250), shards: vec![ShardId(1)] };
    check(
        Format::Table,
        |out| out.lease_granted(LEASE, ttl),
        "lease 000000000000001f granted with TTL(60s)\n",
    );
    check(
        Format::Table,
        |out| out.lease_kept(LEASE, ttl),
        "lease 000000000000001f keepalived with TTL(60s)\n",
    );
    check(Format::Table, |out| out.lease_revoked(LEASE), "lease 000000000000001f revoked\n");
    check(
        Format::Table,
        |out| out.lease_status(&status, None),
        "lease 000000000000001f granted with TTL(60s), remaining(48.25s)\n",
    );
    check(
        Format::Table,
        |out| out.lease_status(&status, Some(&[key()])),
        "lease 000000000000001f granted with TTL(60s), remaining(48.25s), 1 attached key\nk\n",
    );
    check(
        Format::Table,
        |out| out.leases_begin().and_then(|()| out.lease_row(&status)),
        "LEASE                      TTL     REMAINING\n000000000000001f           60s        48.25s\n",
    );
    check(
        Format::Json,
        |out| out.lease_granted(LEASE, ttl),
        "{\"lease\":\"000000000000001f\",\"ttl_ms\":\"60000\"}\n",
    );
    check(
        Format::Json,
        |out| out.lease_revoked(LEASE),
        "{\"lease\":\"000000000000001f\",\"revoked\":true}\n",
    );
    check(
        Format::Json,
        |out| out.lease_status(&status, Some(&[key()])),
        "{\"lease\":\"000000000000001f\",\"ttl_ms\":\"60000\",\"remaining_ms\":\"48250\",\"keys\":[{\"key\":\"k\"}]}\n",
    );
    check(
        Format::Json,
        |out| out.leases_begin().and_then(|()| out.lease_row(&status)),
        "{\"lease\":\"000000000000001f\",\"ttl_ms\":\"60000\",\"remaining_ms\":\"48250\"}\n",
    );
}

#[test]
fn times_to_live() {
    let left = Duration::from_millis(1_500);
    check(Format::Table, |out| out.time_left(&key(), Left::Forever), "forever\n");
    check(Format::Table, |out| out.time_left(&key(), Left::Own(left)), "1.5s\n");
    check(Format::Table, |out| out.time_left(&key(), Left::Lease(LEASE, left)), "1.5s\n");
    check(Format::Json, |out| out.time_left(&key(), Left::Forever), "{\"key\":\"k\",\"forever\":true}\n");
    check(
        Format::Json,
        |out| out.time_left(&key(), Left::Own(left)),
        "{\"key\":\"k\",\"remaining_ms\":\"1500\"}\n",
    );
    check(
        Format::Json,
        |out| out.time_left(&key(), Left::Lease(LEASE, left)),
        "{\"key\":\"k\",\"lease\":\"000000000000001f\",\"remaining_ms\":\"1500\"}\n",
    );
}

#[test]
fn locks_and_elections() {
    check(Format::Table, |out| out.locked(b"k", Revision(9), LEASE), "k\n9\n");
    check(
        Format::Json,
        |out| out.locked(b"k", Revision(9), LEASE),
        "{\"key\":\"k\",\"token\":\"9\",\"lease\":\"000000000000001f\"}\n",
    );
    check(Format::Table, |out| out.elected(b"k", b"v", Revision(9)), "k\nv\n9\n");
    check(
        Format::Json,
        |out| out.elected(b"k", b"v", Revision(9)),
        "{\"key\":\"k\",\"value\":\"v\",\"token\":\"9\"}\n",
    );
    let leader =
        Leader { key: key(), value: Bytes::from_static(b"\xff"), token: Revision(9), revision: Revision(10) };
    check(Format::Table, |out| out.leader(None).map(|written| assert!(!written)), "");
    check(Format::Json, |out| out.leader(None).map(|written| assert!(written)), "{\"leader\":null}\n");
    check(
        Format::Json,
        |out| out.leader(Some(&leader)).map(|written| assert!(written)),
        "{\"leader\":{\"key\":\"k\",\"value_base64\":\"/w==\",\"token\":\"9\",\"revision\":\"10\"}}\n",
    );
    let leader = Leader { value: Bytes::from_static(b"v"), ..leader };
    check(Format::Table, |out| out.leader(Some(&leader)).map(|written| assert!(written)), "k\nv\n");
}
