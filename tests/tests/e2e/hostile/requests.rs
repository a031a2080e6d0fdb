//! Requests that are well formed and unreasonable: sessions by the ten thousand, deadlines of centuries.

use kvd_proto::v1::{
    Operation, PipelineRequest, operation::Request as Wire, operation_result::Response as Reply,
};
use tokio::sync::mpsc;
use tonic::Request;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn absurd_deadlines_are_cut_to_size() {
    let mut scene = Scene::start().await;
    let address = scene.cluster.node(0).client_address();
    let mut kv = guest(address).await;
    for timeout in ["99999999H", "99999999M", "99999999S", "60000000u", "5S"] {
        let mut get = Request::new(v1::GetRequest { key: "absurd".into(), read: None });
        get.metadata_mut().insert("grpc-timeout", timeout.parse().expect("a header"));
        let answer = kv.get(get).await.unwrap_or_else(|status| panic!("{timeout}: {status:?}"));
        assert!(answer.into_inner().kv.is_none());
    }
    // Over before it begins: an error that says so, or the answer after all, but an answer.
    for timeout in ["0n", "1n", "0H", "1u"] {
        let mut get = Request::new(v1::GetRequest { key: "absurd".into(), read: None });
        get.metadata_mut().insert("grpc-timeout", timeout.parse().expect("a header"));
        if let Err(status) = tokio::time::timeout(PATIENCE, kv.get(get)).await.expect("an answer") {
            let expected = [tonic::Code::DeadlineExceeded, tonic::Code::Cancelled, tonic::Code::Unavailable];
            assert!(expected.contains(&status.code()), "{timeout}: {status:?}");
        }
    }
    let (frames, taken) = mpsc::channel(8);
    let taken = futures::stream::unfold(taken, |mut taken| async { Some((taken.recv().await?, taken)) });
    let mut answers = kv.pipeline(taken).await.expect("a pipeline").into_inner();
    let operation = |id, deadline_ms| {
        let request = Some(Wire::Get(v1::GetRequest { key: "absurd".into(), read: None }));
        Operation { id, deadline_ms, request }
    };
    let operations = vec![operation(1, u32::MAX), operation(2, 1), operation(3, 0)];
    frames.send(PipelineRequest { operations }).await.expect("the stream is open");
    let mut results = 0;
    while results < 3 {
        let frame = tokio::time::timeout(PATIENCE, answers.message()).await.expect("an answer");
        results += frame.expect("a frame").expect("the stream goes on").results.len();
    }
    for (timeout, expected) in
        [("18446744073709551615", 404), ("18446744073709551616", 400), ("-1", 400), ("60001", 404)]
    {
        let answer = scene.cluster.node(0).get(&format!("/store/absurd?timeout_ms={timeout}")).await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.status, expected, "{timeout}: {answer:?}");
    }
    scene.check().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_by_the_ten_thousand_are_bounded_and_those_in_use_go_on() {
    const SESSIONS: usize = 60_000;
    let mut scene = Scene::start().await;
    let mut kv = guest(scene.cluster.node(0).client_address()).await;
    let (frames, taken) = mpsc::channel(2);
    let taken = futures::stream::unfold(taken, |mut taken| async { Some((taken.recv().await?, taken)) });
    let mut answers = kv.pipeline(taken).await.expect("a pipeline").into_inner();
    let operation =
        |id: usize, request| Operation { id: id as u64, deadline_ms: 30_000, request: Some(request) };
    let asked = tokio::spawn(async move {
        for first in (0..SESSIONS).step_by(1000) {
            let open = |id| operation(id, Wire::OpenSession(v1::OpenSessionRequest { shard: 1 }));
            let operations = (first..first + 1000).map(open).collect();
            frames.send(PipelineRequest { operations }).await.expect("the stream is open");
        }
        frames
    });
    let mut results = 0;
    while results < SESSIONS {
        let frame = tokio::time::timeout(PATIENCE, answers.message()).await.expect("an answer");
        for result in frame.expect("a frame").expect("the stream goes on").results {
            match result.response {
                Some(Reply::OpenSession(_)) => {}
                Some(Reply::Error(error)) => {
                    assert_eq!(error.kind(), v1::error::Kind::Overloaded, "{error:?}");
                }
                other => panic!("{other:?}"),
            }
            results += 1;
        }
    }
    drop(asked.await.expect("all were asked"));
    scene.check().await;
    scene.end().await;
}
