//! Golden output: what scripts and eyes have got used to.

use std::time::Duration;

use kvd_client::{Replica, Revision};
use kvd_types::{MetaEpoch, ReplicaId, RingEpoch, cluster::RingSpec};

use super::*;

mod data;

#[track_caller]
fn check(format: Format, write: impl Fn(&mut Output<&mut Vec<u8>>) -> io::Result<()>, expected: &str) {
    let mut written = Vec::new();
    write(&mut Output::new(&mut written, format)).unwrap();
    assert_eq!(String::from_utf8_lossy(&written), expected);
}

fn record(value: &'static [u8]) -> Record {
    Record {
        value: Bytes::from_static(value),
        create_revision: Revision(5),
        revision: Revision(1_900_000_000_000_000_007),
        version: 3,
        ..Record::default()
    }
}

fn put(previous: Option<Record>) -> Conditional<PutResult> {
    let (revision, create_revision) = (Revision(8), Revision(5));
    Conditional::Done(PutResult { revision, create_revision, version: 4, previous })
}

fn topology() -> Topology {
    let node = |id: u64, reachable| Node {
        id: NodeId(id),
        client_address: format!("10.0.0.{id}:7400"),
        peer_address: format!("10.0.0.{id}:7401"),
        http_address: format!("10.0.0.{id}:7402"),
        zone: if id == 1 { "eu-1".into() } else { String::new() },
        weight: 100,
        state: if id == 2 { "draining".into() } else { "active".into() },
        incarnation: 2,
        reachable,
    };
    let replica =
        |id: u64, node: u64, role: &str| Replica { id: ReplicaId(id), node: NodeId(node), role: role.into() };
    let shard = |id: u32, leader: Option<u64>, replicas| Shard {
        id: ShardId(id),
        share: 0.5,
        replicas,
        leader: leader.map(NodeId),
        preferred_leader: Some(NodeId(1)),
    };
    Topology {
        cluster_id: "0123456789abcdef0123456789abcdef".into(),
        epoch: MetaEpoch(17),
        replication_factor: 3,
        ring: Some(RingSpec { format: 1, epoch: RingEpoch(1), shards: Vec::new() }),
        nodes: vec![node(1, true), node(2, false)],
        shards: vec![
            shard(1, Some(1), vec![replica(4, 1, "voter"), replica(5, 2, "voter")]),
            shard(2, None, vec![replica(6, 1, "learner")]),
        ],
    }
}

fn reports() -> Vec<NodeReport> {
    vec![
        NodeReport { node: NodeId(1), said: Some(("0.1.0".into(), Duration::from_secs(90_061))) },
        NodeReport { node: NodeId(2), said: None },
    ]
}

#[test]
fn a_put() {
    check(Format::Table, |out| out.put(&put(None), false), "OK\n");
    check(Format::Table, |out| out.put(&put(Some(record(b"old"))), true), "OK\nold\n");
    check(
        Format::Json,
        |out| out.put(&put(Some(record(b"\xff"))), true),
        concat!(
            r#"{"succeeded":true,"revision":"8","create_revision":"5","version":"4","#,
            r#""previous":{"value_base64":"/w==","revision":"1900000000000000007","create_revision":"5","version":"3"}}"#,
            "\n"
        ),
    );
}

#[test]
fn a_failed_condition() {
    let failed = Conditional::Failed { current: Some(record(b"")) };
    check(Format::Table, |out| out.put(&failed, false), "");
    check(
        Format::Json,
        |out| out.put(&failed, false),
        "{\"succeeded\":false,\"current\":\
         {\"revision\":\"1900000000000000007\",\"create_revision\":\"5\",\"version\":\"3\"}}\n",
    );
    check(
        Format::Json,
        |out| out.deleted(&Conditional::Failed { current: None }, true),
        "{\"succeeded\":false}\n",
    );
}

#[test]
fn a_delete() {
    let done =
        Conditional::Done(DeleteResult { revision: Some(Revision(9)), previous: Some(record(b"old")) });
    let absent = Conditional::Done(DeleteResult { revision: None, previous: None });
    check(Format::Table, |out| out.deleted(&done, true), "1\nold\n");
    check(Format::Table, |out| out.deleted(&absent, false), "0\n");
    check(Format::Json, |out| out.deleted(&absent, false), "{\"succeeded\":true,\"deleted\":false}\n");
}

#[test]
fn a_key_and_its_value() {
    let (text, binary) = (Key::try_from("grün").unwrap(), Key::new(vec![0xff]).unwrap());
    check(Format::Table, |out| out.found(&text, &record(b"v"), Shown::Both), "grün\nv\n");
    check(Format::Table, |out| out.found(&text, &record(b"v"), Shown::Value), "v\n");
    check(
        Format::Json,
        |out| out.found(&text, &record(b"v"), Shown::Both),
        "{\"key\":\"grün\",\"value\":\"v\",\
         \"revision\":\"1900000000000000007\",\"create_revision\":\"5\",\"version\":\"3\"}\n",
    );
    check(
        Format::Json,
        |out| out.found(&binary, &record(b"v"), Shown::Both),
        "{\"key_base64\":\"/w==\",\"value\":\"v\",\
         \"revision\":\"1900000000000000007\",\"create_revision\":\"5\",\"version\":\"3\"}\n",
    );
    check(
        Format::Table,
        |out| out.exported(&binary, &Bytes::from_static(b"v")),
        "{\"key_base64\":\"/w==\",\"value\":\"v\"}\n",
    );
}

#[test]
fn a_status() {
    check(
        Format::Table,
        |out| out.status(&topology(), &reports()),
        "\
cluster 0123456789abcdef0123456789abcdef, epoch 17, ring epoch 1, 3 replicas per shard

NODE  CLIENT         ZONE  STATE     REACHABLE  VERSION  UPTIME  LEADS  REPLICAS
1     10.0.0.1:7400  eu-1  active    yes        0.1.0    1d 1h   1      2
2     10.0.0.2:7400  -     draining  no         -        -       0      1

SHARD  SHARE   LEADER  PREFERRED  REPLICAS ON NODES
1      50.00%  1       1          1, 2
2      50.00%  -       1          1 (learner)
",
    );
    check(
        Format::Json,
        |out| out.status(&topology(), &reports()),
        concat!(
            r#"{"cluster_id":"0123456789abcdef0123456789abcdef","epoch":"17","ring_epoch":"1","#,
            r#""replication_factor":3,"nodes":[{"id":"1","client_address":"10.0.0.1:7400","#,
            r#""peer_address":"10.0.0.1:7401","http_address":"10.0.0.1:7402","zone":"eu-1","weight":100,"#,
            r#""state":"active","incarnation":"2","reachable":true,"version":"0.1.0","uptime_ms":"90061000"},"#,
            r#"{"id":"2","client_address":"10.0.0.2:7400","peer_address":"10.0.0.2:7401","#,
            r#""http_address":"10.0.0.2:7402","zone":"","weight":100,"state":"draining","incarnation":"2","#,
            r#""reachable":false}],"shards":[{"id":1,"share":0.5,"leader":"1","preferred_leader":"1","#,
            r#""replicas":[{"id":"4","node":"1","role":"voter"},{"id":"5","node":"2","role":"voter"}]},"#,
            r#"{"id":2,"share":0.5,"preferred_leader":"1","replicas":[{"id":"6","node":"1","role":"learner"}]}]}"#,
            "\n"
        ),
    );
}

#[test]
fn lists_and_single_facts() {
    check(
        Format::Table,
        |out| out.nodes(&topology().nodes),
        "\
NODE  CLIENT         PEER           HTTP           ZONE  WEIGHT  STATE     REACHABLE
1     10.0.0.1:7400  10.0.0.1:7401  10.0.0.1:7402  eu-1  100     active    yes
2     10.0.0.2:7400  10.0.0.2:7401  10.0.0.2:7402  -     100     draining  no
",
    );
    let location = Location { shard: topology().shards.remove(1), hash: 0xabc };
    check(
        Format::Table,
        |out| out.location(&location),
        "\
hash 0000000000000abc

SHARD  SHARE   LEADER  PREFERRED  REPLICAS ON NODES
2      50.00%  -       1          1 (learner)
",
    );
    check(Format::Table, |out| out.moved(ShardId(2), NodeId(3)), "shard 2 is led by node 3\n");
    check(Format::Json, |out| out.moved(ShardId(2), NodeId(3)), "{\"shard\":2,\"leader\":\"3\"}\n");
    check(Format::Json, |out| out.imported(7), "{\"imported\":\"7\"}\n");
    check(Format::Table, |out| out.imported(7), "");
}

#[test]
fn a_check() {
    let mut report = PerfReport::new(crate::cli::Load::S, 64, 128);
    report.puts = Phase { per_second: 12_000.0, p50_ms: 4.0, p99_ms: 10.0, slowest_ms: 30.0 };
    report.gets = Phase { per_second: 900.4, p50_ms: 60.0, p99_ms: 99.9, slowest_ms: 120.0 };
    assert!(!report.passed());
    check(
        Format::Table,
        |out| out.perf(&report),
        "\
64 clients, values of 128 bytes

WHAT           MEASURED  SHOULD BE        VERDICT
writes         12000/s   at least 500/s   PASS
median write   4.0 ms    -                -
99% of writes  10.0 ms   at most 250 ms   PASS
slowest write  30.0 ms   at most 1000 ms  PASS
reads          900/s     at least 1000/s  FAIL
median read    60.0 ms   -                -
99% of reads   99.9 ms   at most 250 ms   PASS
slowest read   120.0 ms  at most 1000 ms  PASS
errors         0         none             PASS

FAIL
",
    );
    report.gets.per_second = 1000.0;
    assert!(report.passed());
    report.errors.insert("Overloaded".into(), 2);
    check(
        Format::Json,
        |out| out.perf(&report),
        "{\"load\":\"s\",\"clients\":\"64\",\"value_bytes\":\"128\",\"passed\":false,\
         \"writes\":{\"per_second\":12000.0,\"p50_ms\":4.0,\"p99_ms\":10.0,\"slowest_ms\":30.0},\
         \"reads\":{\"per_second\":1000.0,\"p50_ms\":60.0,\"p99_ms\":99.9,\"slowest_ms\":120.0},\
         \"errors\":{\"Overloaded\":\"2\"}}\n",
    );
}
