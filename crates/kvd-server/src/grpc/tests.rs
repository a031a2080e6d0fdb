//! The services over real loopback connections, with a fake store behind them.

use std::{net::SocketAddr, sync::atomic::Ordering};

use kvd_proto::{
    error::from_status,
    v1::{
        self, Operation, OperationResult, PipelineRequest, cluster_client::ClusterClient,
        kv_client::KvClient, operation::Request as Wire, operation_result::Response as WireReply,
    },
};
use kvd_types::{
    Error, ErrorKind,
    limits::{FRAME_OPERATIONS_MAX, PIPELINE_WINDOW_MAX},
};
use tokio::{io::AsyncReadExt as _, sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use super::*;
use crate::{
    metrics::Metrics,
    platform::TcpPort,
    store::Health,
    testing::{FakeStore, HELD, LIMITS},
};

/// Nothing here takes long; a test that waits for longer has failed.
const PATIENCE: Duration = Duration::from_secs(20);

struct Running {
    address: SocketAddr,
    store: Arc<FakeStore>,
    metrics: SharedMetrics,
    shutdown: CancellationToken,
    served: JoinHandle<anyhow::Result<()>>,
}

async fn start(limits: ServiceLimits) -> Running {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (store, metrics) = (FakeStore::new(), Arc::new(Metrics::new("test")));
    let shutdown = CancellationToken::new();
    let served = tokio::spawn(serve(
        Box::new(TcpPort(listener)),
        Arc::<FakeStore>::clone(&store),
        limits,
        shutdown.clone(),
        Arc::clone(&metrics),
    ));
    Running { address, store, metrics, shutdown, served }
}

impl Running {
    async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }

    async fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel().await).max_encoding_message_size(64 << 20)
    }

    async fn pipeline(&self) -> (mpsc::Sender<PipelineRequest>, Streaming<v1::PipelineResponse>) {
        let (frames, receiver) = mpsc::channel(64);
        let answers = self.kv().await.pipeline(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        (frames, answers)
    }

    /// Tells the server to stop and waits until it has.
    async fn stop(self) {
        self.shutdown.cancel();
        within(self.served).await.unwrap().unwrap();
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("took too long")
}

fn put(key: &str, value: &str) -> v1::PutRequest {
    v1::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() }
}

fn get(key: &str) -> v1::GetRequest {
    v1::GetRequest { key: key.to_owned().into(), read: None }
}

fn operation(id: u64, request: Wire) -> Operation {
    Operation { id, deadline_ms: 0, request: Some(request) }
}

fn held_get(id: u64) -> Operation {
    operation(id, Wire::Get(get(&format!("{HELD}{id}"))))
}

/// The next results, until there are so many.
async fn results(answers: &mut Streaming<v1::PipelineResponse>, wanted: usize) -> Vec<OperationResult> {
    let mut results = Vec::new();
    while results.len() < wanted {
        results.extend(within(answers.message()).await.unwrap().expect("the stream ended").results);
    }
    results
}

#[tokio::test]
async fn unary_calls() {
    let running = start(LIMITS).await;
    let mut kv = running.kv().await;
    let written = kv.put(put("a", "1")).await.unwrap().into_inner();
    assert!(written.succeeded && written.version == 1);
    let read = kv.get(get("a")).await.unwrap().into_inner();
    assert_eq!(read.kv.unwrap().value, "1");
    assert_eq!(read.header.unwrap().shard, 7);
    let batch = v1::BatchGetRequest { keys: vec!["a".into(), "b".into()], read: None };
    let entries = kv.batch_get(batch).await.unwrap().into_inner().entries;
    assert_eq!(entries.iter().map(|entry| entry.kv.is_some()).collect::<Vec<_>>(), [true, false]);
    assert_eq!(
        kv.scan(v1::ScanRequest { shard: 1, ..Default::default() }).await.unwrap().into_inner().kvs.len(),
        1
    );
    let delete = v1::DeleteRequest { key: "a".into(), ..Default::default() };
    assert_eq!(kv.delete(delete).await.unwrap().into_inner().deleted, 1);
    assert_eq!(kv.open_session(v1::OpenSessionRequest { shard: 1 }).await.unwrap().into_inner().session, 77);
    kv.close_session(v1::CloseSessionRequest { shard: 1, session: 77 }).await.unwrap();

    let text = running.metrics.encode().unwrap();
    assert!(
        text.contains("kvd_request_seconds_count{method=\"put\",code=\"ok\",transport=\"grpc\"} 1"),
        "{text}"
    );
    running.stop().await;
}

#[tokio::test]
async fn an_error_arrives_whole_and_limits_are_named() {
    let running = start(ServiceLimits { value_bytes_max: 10, ..LIMITS }).await;
    let mut kv = running.kv().await;
    let overloaded = Error::overloaded(Duration::from_millis(30), "the queue of shard 1 is full");
    running.store.fail("busy", overloaded.clone());
    let status = kv.get(get("busy")).await.unwrap_err();
    assert_eq!((status.code(), from_status(&status)), (Code::ResourceExhausted, overloaded));

    let executed = running.store.executed.load(Ordering::SeqCst);
    for (request, wanted) in [
        (put("", "x"), "the key is empty"),
        (put("k", "12345678901"), "at most 10 bytes"),
        (put("k", &"x".repeat(5 << 20)), "a request has at most 4194304 bytes"),
    ] {
        let status = kv.put(request).await.unwrap_err();
        assert_eq!(from_status(&status).kind, ErrorKind::InvalidArgument);
        assert!(status.message().contains(wanted), "{status:?}");
    }
    let beyond = kv.put(put("k", &"x".repeat(9 << 20))).await.unwrap_err();
    assert_eq!(beyond.code(), Code::OutOfRange, "{beyond:?}");
    assert_eq!(running.store.executed.load(Ordering::SeqCst), executed, "none of them reached the store");
    running.stop().await;
}

#[tokio::test]
async fn the_callers_timeout_is_the_stores_deadline() {
    let running = start(LIMITS).await;
    let mut request = tonic::Request::new(get(HELD));
    request.set_timeout(Duration::from_millis(200));
    let status = within(running.kv().await.get(request)).await.unwrap_err();
    assert_eq!(from_status(&status), Error::unknown("held for too long"), "the store's own answer arrives");
    running.stop().await;
}

#[tokio::test]
async fn a_pipeline_answers_out_of_order_and_together() {
    let running = start(LIMITS).await;
    let (frames, mut answers) = running.pipeline().await;
    let operations = vec![held_get(1), operation(2, Wire::Put(put("a", "1"))), held_get(3)];
    frames.send(PipelineRequest { operations }).await.unwrap();
    let first = results(&mut answers, 1).await;
    assert_eq!(
        first.iter().map(|result| result.id).collect::<Vec<_>>(),
        [2],
        "it didn't wait for those that are held"
    );
    assert!(matches!(&first[0].response, Some(WireReply::Put(put)) if put.succeeded));

    running.store.release();
    let mut ids: Vec<_> = results(&mut answers, 2).await.iter().map(|result| result.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, [1, 3]);
    drop(frames);
    assert!(within(answers.message()).await.unwrap().is_none(), "it ends when the client has ended it");
    running.stop().await;
}

#[tokio::test]
async fn an_operation_without_sense_fails_alone() {
    let running = start(LIMITS).await;
    let (frames, mut answers) = running.pipeline().await;
    let nothing = Operation { id: 1, deadline_ms: 0, request: None };
    let operations = vec![nothing, operation(2, Wire::Get(get(""))), operation(3, Wire::Get(get("a")))];
    frames.send(PipelineRequest { operations }).await.unwrap();
    let mut all = results(&mut answers, 3).await;
    all.sort_by_key(|result| result.id);
    for result in &all[..2] {
        assert!(
            matches!(&result.response, Some(WireReply::Error(error)) if error.kind() == v1::error::Kind::InvalidArgument)
        );
    }
    assert!(matches!(&all[2].response, Some(WireReply::Get(got)) if got.kv.is_none()));
    running.stop().await;
}

#[tokio::test]
async fn a_frame_beyond_a_limit_fails_the_stream() {
    let running = start(LIMITS).await;
    let many = (0..=FRAME_OPERATIONS_MAX as u64).map(|id| operation(id, Wire::Get(get("a")))).collect();
    let large = vec![operation(1, Wire::Put(put("a", &"x".repeat(5 << 20))))];
    for (operations, wanted) in [(many, "at most 1024"), (large, "at most 4194304 bytes")] {
        let (frames, mut answers) = running.pipeline().await;
        frames.send(PipelineRequest { operations }).await.unwrap();
        let status = within(answers.message()).await.unwrap_err();
        assert_eq!(from_status(&status).kind, ErrorKind::InvalidArgument);
        assert!(status.message().contains(wanted), "{status:?}");
    }
    running.stop().await;
}

#[tokio::test]
async fn a_pipeline_reads_no_more_than_its_window() {
    let running = start(LIMITS).await;
    let (frames, mut answers) = running.pipeline().await;
    let total = PIPELINE_WINDOW_MAX + 1500;
    let operations: Vec<_> = (0..total as u64).map(held_get).collect();
    // Frames that don't divide the window, so that one of them has to be taken in part.
    for operations in operations.chunks(FRAME_OPERATIONS_MAX - 24) {
        frames.send(PipelineRequest { operations: operations.to_vec() }).await.unwrap();
    }
    running.store.until_running(PIPELINE_WINDOW_MAX).await;
    // Another connection's call goes through meanwhile, and gives the server every chance to read too much.
    running.kv().await.get(get("a")).await.unwrap();
    assert_eq!(running.store.running(), PIPELINE_WINDOW_MAX);

    running.store.release();
    let mut ids: Vec<_> = results(&mut answers, total).await.iter().map(|result| result.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..total as u64).collect::<Vec<_>>(), "each is answered once");
    running.stop().await;
}

#[tokio::test]
async fn large_answers_are_spread_over_frames() {
    let running = start(LIMITS).await;
    let mut kv = running.kv().await;
    kv.put(put("large", &"x".repeat(1 << 20))).await.unwrap();
    let (frames, mut answers) = running.pipeline().await;
    let operations = (0..20).map(|id| operation(id, Wire::Get(get("large")))).collect();
    frames.send(PipelineRequest { operations }).await.unwrap();
    // The client takes messages of at most 4 MiB here, so one frame of all would be refused.
    assert_eq!(results(&mut answers, 20).await.len(), 20);

    let batch = v1::BatchGetRequest { keys: vec!["large".into(); 9], read: None };
    let status = kv.batch_get(batch).await.unwrap_err();
    assert!(status.message().contains("ask for fewer keys"), "{status:?}");
    running.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_operations_with_it() {
    let running = start(LIMITS).await;
    let (frames, answers) = running.pipeline().await;
    frames.send(PipelineRequest { operations: vec![held_get(1), held_get(2)] }).await.unwrap();
    running.store.until_running(2).await;
    drop((frames, answers));
    running.store.until_running(0).await;
    running.stop().await;
}

#[tokio::test]
async fn a_stopping_server_answers_what_it_has_begun() {
    let running = start(LIMITS).await;
    let (frames, mut answers) = running.pipeline().await;
    let mut topologies = ClusterClient::new(running.channel().await)
        .watch_topology(v1::WatchTopologyRequest {})
        .await
        .unwrap()
        .into_inner();
    assert!(within(topologies.message()).await.unwrap().is_some());
    frames.send(PipelineRequest { operations: vec![held_get(1)] }).await.unwrap();
    running.store.until_running(1).await;

    running.shutdown.cancel();
    assert!(within(topologies.message()).await.unwrap().is_none(), "a stream without an end is ended");
    running.store.release();
    assert_eq!(results(&mut answers, 1).await[0].id, 1);
    assert!(within(answers.message()).await.unwrap().is_none());
    running.stop().await;
}

#[tokio::test]
async fn a_call_that_outlasts_the_grace_is_cut() {
    let running = start(ServiceLimits { grace: Duration::from_millis(50), ..LIMITS }).await;
    let mut kv = running.kv().await;
    let call = tokio::spawn(async move { kv.get(get(HELD)).await });
    running.store.until_running(1).await;
    running.shutdown.cancel();
    within(running.served).await.unwrap().unwrap();
    assert!(within(call).await.unwrap().is_err());
    running.store.until_running(0).await;
}

#[tokio::test]
async fn cluster_calls() {
    let running = start(LIMITS).await;
    let mut cluster = ClusterClient::new(running.channel().await);
    assert_eq!(cluster.status(v1::StatusRequest {}).await.unwrap().into_inner().version, "fake");
    let located = cluster.locate(v1::LocateRequest { key: "a".into() }).await.unwrap().into_inner();
    assert_eq!((located.shard.unwrap().id, located.hash), (7, 42));
    assert_eq!(cluster.locate(v1::LocateRequest::default()).await.unwrap_err().code(), Code::InvalidArgument);
    let moved = cluster.move_leader(v1::MoveLeaderRequest { shard: 1, node: 3 }).await.unwrap().into_inner();
    assert_eq!(moved.leader_node, 3);
    let missing = cluster.move_leader(v1::MoveLeaderRequest { shard: 2, node: 3 }).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);

    let mut topologies = cluster.watch_topology(v1::WatchTopologyRequest {}).await.unwrap().into_inner();
    assert_eq!(within(topologies.message()).await.unwrap().unwrap().epoch, 0);
    running.store.topology.send_replace(Arc::new(v1::Topology { epoch: 5, ..Default::default() }));
    assert_eq!(within(topologies.message()).await.unwrap().unwrap().epoch, 5);
    running.stop().await;
}

#[tokio::test]
async fn health_follows_the_store() {
    let running = start(LIMITS).await;
    let mut health = HealthClient::new(running.channel().await);
    for service in ["", "kvd.v1.Kv", "kvd.v1.Cluster"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        *running.store.health.lock() = Health::ready();
        let mut changes = health.watch(request).await.unwrap().into_inner();
        for (now, wanted) in [(Health::ready(), 1), (Health::not_ready("no leader"), 2), (Health::ready(), 1)]
        {
            *running.store.health.lock() = now;
            while within(changes.message()).await.unwrap().unwrap().status != wanted {}
        }
    }
    running.stop().await;
}

#[tokio::test]
async fn reflection_describes_what_is_offered() {
    let running = start(LIMITS).await;
    let ask = |message| ServerReflectionRequest { host: String::new(), message_request: Some(message) };
    let questions = [
        MessageRequest::ListServices(String::new()),
        MessageRequest::FileContainingSymbol("kvd.v1.Kv".to_owned()),
        MessageRequest::FileContainingSymbol("kvd.v1.PipelineRequest".to_owned()),
    ];
    let mut client = ServerReflectionClient::new(running.channel().await);
    let asked = futures::stream::iter(questions.map(ask));
    let mut answers = client.server_reflection_info(asked).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(listed)) =
        within(answers.message()).await.unwrap().unwrap().message_response
    else {
        panic!("no list of services");
    };
    let mut names: Vec<_> = listed.service.into_iter().map(|service| service.name).collect();
    names.sort();
    assert_eq!(
        names,
        ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "kvd.v1.Cluster", "kvd.v1.Kv"],
        "what nodes say to each other is not offered here"
    );
    for _ in 0..2 {
        let answer = within(answers.message()).await.unwrap().unwrap().message_response;
        assert!(
            matches!(&answer, Some(MessageResponse::FileDescriptorResponse(files)) if !files.file_descriptor_proto.is_empty()),
            "{answer:?}"
        );
    }
    drop(answers);
    running.stop().await;
}

#[tokio::test]
async fn connections_beyond_the_cap_are_closed_at_once() {
    let running = start(ServiceLimits { connections_max: 1, ..LIMITS }).await;
    let mut kv = running.kv().await;
    kv.get(get("a")).await.unwrap();
    let mut refused = tokio::net::TcpStream::connect(running.address).await.unwrap();
    let mut buffer = [0; 1];
    assert!(matches!(within(refused.read(&mut buffer)).await, Ok(0) | Err(_)));
    assert!(
        running.metrics.encode().unwrap().contains("kvd_connections_refused_total{listener=\"client\"} 1")
    );
    kv.get(get("a")).await.expect("the one that has a place keeps it");
    running.stop().await;
}
