//! Stopping a node on purpose disturbs nobody.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    os::unix::process::ExitStatusExt as _,
};

use kvd_tests::{Cluster, Record, Writers, run};
use rustix::process::Signal;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_is_not_noticed() {
    let mut cluster = Cluster::of(3).start().await;
    let client = cluster.client().await;
    let mut writers = Writers::start(&client, 8);
    writers.progress(20).await;
    for index in 0..3 {
        writers.note(format!("node {index}, counted from 0, is stopped"));
        let status = cluster.node_mut(index).stop().await;
        assert_eq!(status.code(), Some(0), "{status}");
        writers.progress(20).await;
        cluster.node_mut(index).start();
        cluster.ready().await;
        writers.progress(20).await;
    }
    let ledger = writers.stop().await;
    assert_eq!((ledger.refused(), ledger.unknown()), (0, 0), "refused, unknown");
    ledger.check(&client).await;
    for node in cluster.nodes() {
        assert_eq!(node.said("stopped; nothing was lost"), 1);
    }

    // And the whole cluster, stopped and started.
    cluster.stop_all().await;
    cluster.start_all();
    cluster.ready().await;
    ledger.check(&cluster.client().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_are_handed_over_before_a_node_stops() {
    let mut cluster = Cluster::of(3).start().await;
    let client = cluster.client().await;
    let record = Record::new();
    let recorded = record.client(&client, 0);
    for number in 0..20 {
        recorded.put(format!("key-{number}"), "value").await.unwrap();
    }
    cluster.agreed(&client).await;
    assert!(cluster.node_mut(0).stop().await.success());
    let line = cluster.node(0).says("stepping back", 0).await;
    let count = |name: &str| -> u32 {
        let (_, rest) = line.split_once(&format!("{name}=")).unwrap();
        rest.split_whitespace().next().unwrap().parse().unwrap()
    };
    assert_eq!(count("leaders"), count("handed_over"), "{line}");
    recorded.batch_get((0..20).map(|number| format!("key-{number}"))).await.unwrap();
    record.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_a_node_that_still_waits_for_requests() {
    let mut cluster = Cluster::of(1).start().await;
    // A request that doesn't end, for which the node waits.
    let mut stream = TcpStream::connect(cluster.node(0).http_address()).unwrap();
    let head = b"PUT /store HTTP/1.1\r\nhost: kvd\r\ncontent-length: 100\r\nexpect: 100-continue\r\n\r\n";
    stream.write_all(head).unwrap();
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).unwrap();
    assert!(line.contains("100 Continue"), "it reads the body: {line}");
    cluster.node(0).process().signal(Signal::TERM);
    cluster.node(0).says("stopping on SIGTERM", 0).await;
    cluster.node(0).process().signal(Signal::TERM);
    let status = cluster.node_mut(0).wait().await;
    assert_eq!(status.code(), Some(128 + 15), "{status}, signal {:?}", status.signal());
    cluster.node(0).says("ending at once on a second SIGTERM", 0).await;
    cluster.start_all();
    cluster.ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_on_one_data_directory_is_refused_and_the_first_one_goes_on() {
    let cluster = Cluster::of(1).start().await;
    let client = cluster.client().await;
    let record = Record::new();
    let client = record.client(&client, 0);
    client.put("key", "value").await.unwrap();
    // The same directory, other ports.
    let mut second = cluster.another("second");
    second.set("data-dir", cluster.node(0).data_dir().display().to_string());
    let ended = run(second.command()).await;
    assert_eq!(ended.status.code(), Some(1));
    let said = String::from_utf8_lossy(&ended.stderr);
    let pid = cluster.node(0).process().id().to_string();
    assert!(said.contains("another process") && said.contains(&pid), "it names the one that runs: {said}");
    // The same ports.
    let ended = run(cluster.node(0).command()).await;
    assert_eq!(ended.status.code(), Some(1));
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(said.contains("listen_client") && said.contains("is another process using the port"), "{said}");

    client.put("key", "more").await.unwrap();
    assert_eq!(client.get("key").await.unwrap().unwrap().value, "more");
    record.check();
}
