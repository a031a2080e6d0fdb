//! Clients that ask for much and read none of it.

use kvd_proto::{
    error::from_wire,
    v1::{Operation, PipelineRequest, operation::Request as Wire, operation_result::Response as Reply},
};
use tokio::sync::mpsc;

use super::*;

const VALUE_BYTES: usize = 1 << 20;
const VALUES: usize = 24;
/// Large answers on one pipeline that are read.
const ANSWERS: usize = 200;
/// HTTP clients that read nothing.
const DEAF: usize = 30;
/// Gets on one pipeline: as many as it takes at most.
const GETS: usize = 4096;

fn gets(keys: &[String], count: usize) -> Vec<Operation> {
    let get = |key: &String| Wire::Get(v1::GetRequest { key: key.clone().into(), read: None });
    let operations = (0..).zip(keys.iter().cycle().take(count));
    operations.map(|(id, key)| Operation { id, deadline_ms: 30_000, request: Some(get(key)) }).collect()
}

/// A pipeline on which so many gets are asked, and none of whose answers are read; to be kept.
async fn ask(
    kv: &mut KvClient<Channel>,
    keys: &[String],
    count: usize,
) -> (mpsc::Sender<PipelineRequest>, tonic::Streaming<v1::PipelineResponse>) {
    let (frames, taken) = mpsc::channel(8);
    let taken = futures::stream::unfold(taken, |mut taken| async { Some((taken.recv().await?, taken)) });
    let answers = kv.pipeline(taken).await.expect("a pipeline").into_inner();
    for operations in gets(keys, count).chunks(1000) {
        frames.send(PipelineRequest { operations: operations.to_vec() }).await.expect("the stream is open");
    }
    (frames, answers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelines_whose_answers_nobody_reads_stall_alone() {
    let mut scene = Scene::start().await;
    let keys = write_values(&scene.client, VALUES, VALUE_BYTES).await;
    scene.vitals = scene.cluster.nodes().iter().map(Vitals::of).collect();
    // What one round took must serve the next one: the allocator gives little back to the system, but nothing may leak.
    for _ in 0..4 {
        let mut stalled = Vec::new();
        // Whatever the leaders are, two thirds of these are passed on to other nodes.
        for node in scene.cluster.nodes() {
            let mut kv = guest(node.client_address()).await;
            for _ in 0..4 {
                stalled.push(ask(&mut kv, &keys, GETS).await);
            }
        }
        for _ in 0..3 {
            scene.check().await;
        }
    }
    scene.check().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_large_answers_that_are_passed_on_all_arrive() {
    let scene = Scene::start().await;
    let keys = write_values(&scene.client, VALUES, VALUE_BYTES).await;
    for node in scene.cluster.nodes() {
        let mut kv = guest(node.client_address()).await;
        let (frames, mut answers) = ask(&mut kv, &keys, ANSWERS).await;
        let mut found = 0;
        while found < ANSWERS {
            let frame = tokio::time::timeout(PATIENCE, answers.message()).await.expect("an answer");
            let mut again = Vec::new();
            for result in frame.expect("a frame").expect("the stream goes on").results {
                match result.response {
                    Some(Reply::Get(got)) => {
                        assert_eq!(got.kv.map(|kv| kv.value.len()), Some(VALUE_BYTES));
                        found += 1;
                    }
                    // A busy machine may have an election meanwhile. What may not be is that answers don't fit a frame.
                    Some(Reply::Error(error)) if from_wire(error.clone()).is_retryable() => {
                        assert!(!error.message.contains("too large"), "{error:?}");
                        let key = &keys[usize::try_from(result.id).expect("a small number") % keys.len()];
                        again.extend(gets(std::slice::from_ref(key), 1));
                    }
                    other => panic!("get {} came to {other:?}", result.id),
                }
            }
            if !again.is_empty() {
                frames.send(PipelineRequest { operations: again }).await.expect("the stream is open");
            }
        }
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_whose_answer_would_be_too_large_is_refused_before_it_is_gathered() {
    let mut scene = Scene::start().await;
    let keys = write_values(&scene.client, VALUES, VALUE_BYTES).await;
    scene.vitals = scene.cluster.nodes().iter().map(Vitals::of).collect();
    let batch = || v1::BatchGetRequest {
        keys: keys.iter().cycle().take(1024).map(|key| key.clone().into()).collect(),
        read: None,
    };
    for node in scene.cluster.nodes() {
        let kv = guest(node.client_address()).await;
        let asked = (0..4).map(|_| {
            let mut kv = kv.clone();
            let mut batch = tonic::Request::new(batch());
            batch.set_timeout(PATIENCE);
            async move { kv.batch_get(batch).await }
        });
        for answer in futures::future::join_all(asked).await {
            let status = answer.expect_err("a gibibyte is no answer");
            assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status:?}");
            assert!(status.message().contains("fewer keys"), "{status:?}");
        }
        scene.vitals.iter().for_each(Vitals::check_memory);
    }
    scene.check().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_clients_that_read_no_answer_are_hung_up_on() {
    let mut scene = Scene::start().await;
    // In JSON each of these bytes is six, so that an answer is more than the system takes for a connection.
    scene.client.put("large", vec![1; VALUE_BYTES]).await.expect("a value can be put");
    scene.vitals = scene.cluster.nodes().iter().map(Vitals::of).collect();
    let before = scene.vitals[0].handles();
    let address = scene.cluster.node(0).http_address();
    let mut deaf = Vec::new();
    for _ in 0..DEAF {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        let mut connection = socket.connect(address).await.expect("a node that listens");
        let request = b"GET /store/large HTTP/1.1\r\nhost: kvd\r\n\r\n";
        connection.write_all(request).await.expect("a node that listens");
        deaf.push(connection);
    }
    scene.check().await;
    until("the node to hang up", async || {
        let now = scene.vitals[0].handles();
        if now <= before + DEAF / 2 { Ok(()) } else { Err(format!("{before} before, {now} now")) }
    })
    .await;
    drop(deaf);
    scene.end().await;
}
