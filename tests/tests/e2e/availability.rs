//! A majority serves; a minority refuses, in time, and says so; leaders are where they should be.

use std::{collections::BTreeMap, time::Duration};

use kvd_client::{Client, ErrorKind, NodeId};
use kvd_tests::{Cluster, Record, until};
use reqwest::Method;
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_majority_serves_and_a_minority_refuses_until_the_others_return() {
    const DEADLINE: Duration = Duration::from_secs(2);
    /// For the machine, which may be busy.
    const SLACK: Duration = Duration::from_secs(6);
    let mut cluster = Cluster::of(3).start().await;
    let client = cluster.client().await;
    let record = Record::new();
    let patient = record.client(&client, 0);
    for number in 0..50 {
        patient.put(format!("key-{number}"), "before").await.unwrap();
    }

    cluster.node_mut(2).kill();
    record.note("one node is killed");
    for number in 0..50 {
        patient.put(format!("key-{number}"), "with two").await.unwrap();
        assert_eq!(patient.get(format!("key-{number}")).await.unwrap().unwrap().value, "with two");
    }

    cluster.node_mut(1).kill();
    record.note("two nodes are killed");
    let hasty = record.client(&cluster.client_with_deadline(DEADLINE).await, 1);
    for number in 0..3 {
        let asked = Instant::now();
        let error = hasty.get(format!("key-{number}")).await.unwrap_err();
        assert!(
            matches!(error.kind, ErrorKind::Unavailable | ErrorKind::DeadlineExceeded),
            "a read without a majority: {error:?}"
        );
        let error = hasty.put(format!("alone-{number}"), "minority").await.unwrap_err();
        assert!(
            error.outcome_unknown()
                || matches!(error.kind, ErrorKind::Unavailable | ErrorKind::DeadlineExceeded),
            "a write without a majority: {error:?}"
        );
        assert!(asked.elapsed() < 2 * DEADLINE + SLACK, "it was refused after {:?}", asked.elapsed());
    }
    let answer = cluster.node(0).get("/store/key-1?timeout_ms=2000").await.unwrap();
    assert!(matches!(answer.status, 503 | 504), "{answer:?}");
    let body = r#"{"key":"alone","value":"minority"}"#;
    let answer = cluster.node(0).http(Method::PUT, "/store?timeout_ms=2000", body).await.unwrap();
    assert!(matches!(answer.status, 503 | 504), "{answer:?}");
    // Once it knows that it has no majority it says when to try again.
    until("a refusal with a time to try again", async || {
        let answer = cluster.node(0).get("/store/key-1?timeout_ms=2000").await.unwrap();
        if answer.status == 503 && answer.retry_after_s.is_some() {
            Ok(())
        } else {
            Err(format!("{answer:?}"))
        }
    })
    .await;

    // By themselves, with no help but the processes' return.
    cluster.start_all();
    cluster.ready().await;
    for number in 0..50 {
        assert_eq!(patient.get(format!("key-{number}")).await.unwrap().unwrap().value, "with two");
        patient.put(format!("key-{number}"), "after").await.unwrap();
    }
    patient.batch_get((0..3).map(|number| format!("alone-{number}"))).await.unwrap();
    record.check();
    cluster.agreed(&client).await;
}

/// Waits until each node leads a third of the shards.
async fn spread(cluster: &Cluster, client: &Client) {
    until("each node to lead its share", async || {
        let topology = client.status().await.map_err(|error| error.to_string())?.topology;
        let mut led: BTreeMap<Option<NodeId>, usize> = BTreeMap::new();
        for shard in &topology.shards {
            *led.entry(shard.leader).or_default() += 1;
        }
        let share = topology.shards.len() / cluster.nodes().len();
        let fair = led.len() == cluster.nodes().len() && led.iter().all(|(_, &led)| led == share);
        if fair && !led.contains_key(&None) { Ok(()) } else { Err(format!("{led:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_are_spread_over_the_nodes_at_the_start_and_after_a_return() {
    let mut cluster = Cluster::of(3).start().await;
    let client = cluster.client().await;
    spread(&cluster, &client).await;
    cluster.node_mut(0).kill();
    // Meanwhile the others lead all.
    let gone = cluster.id(&client, 0).await;
    until("the others to lead", async || {
        let topology = client.status().await.map_err(|error| error.to_string())?.topology;
        let led = topology.shards.iter().all(|shard| shard.leader.is_some_and(|leader| leader != gone));
        if led { Ok(()) } else { Err(format!("{:?}", topology.shards)) }
    })
    .await;
    cluster.node_mut(0).start();
    spread(&cluster, &client).await;
}
