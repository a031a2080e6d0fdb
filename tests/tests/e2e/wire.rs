//! What arrives at a node's ports and makes no sense, or is not for it: it is refused, told why, and disturbs nobody.
//!
//! Spoken with the generated clients where they can say it, and with raw bytes where they can't.

#![expect(clippy::expect_used, reason = "a test fails where it stands, and says what was missing")]

use std::net::SocketAddr;

use bytes::{Buf as _, BufMut as _, Bytes};
use futures::{StreamExt as _, stream};
use kvd_proto::{
    error::{ERROR_METADATA, from_status},
    v1::{
        self, Operation, OperationResult, PipelineRequest, PipelineResponse, kv_client::KvClient,
        operation::Request as Wire, operation_result::Response as Reply,
    },
};
use kvd_tests::{Cluster, PATIENCE, Writers};
use kvd_types::{
    ErrorKind,
    limits::{BATCH_KEYS_MAX, FRAME_OPERATIONS_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX},
};
use rand::{Rng as _, RngExt as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
};
use tonic::{
    Code, Request, Status, Streaming,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    transport::Channel,
};

mod peers;

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("no end of {what}"))
}

async fn channel(address: SocketAddr) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
    endpoint.timeout(PATIENCE).connect().await.unwrap()
}

async fn kv(cluster: &Cluster, index: usize) -> KvClient<Channel> {
    KvClient::new(channel(cluster.node(index).client_address()).await)
}

fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> v1::PutRequest {
    v1::PutRequest { key: key.into(), value: value.into(), ..Default::default() }
}

fn get(key: impl Into<Bytes>) -> v1::GetRequest {
    v1::GetRequest { key: key.into(), read: None }
}

/// Checks that a channel still serves, with a key of its own.
async fn check_serves(kv: &mut KvClient<Channel>, key: &str) {
    let key = format!("serves/{key}").into_bytes();
    let written = kv.put(put(key.clone(), "value")).await.unwrap().into_inner();
    assert!(written.succeeded, "{written:?}");
    let got = kv.get(get(key)).await.unwrap().into_inner();
    assert_eq!(got.kv.unwrap().value, "value");
}

/// Messages as the bytes that they are.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// The answers to one message of raw bytes; the request's stream stays open.
async fn raw_stream(
    channel: &Channel,
    path: &'static str,
    message: Bytes,
) -> Result<Streaming<Bytes>, Status> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let messages = stream::iter([message]).chain(stream::pending());
    let asked = grpc.streaming(Request::new(messages), PathAndQuery::from_static(path), Raw);
    Ok(within(path, asked).await?.into_inner())
}

/// The one answer to one message of raw bytes.
async fn raw(channel: &Channel, path: &'static str, message: impl Into<Bytes>) -> Result<Bytes, Status> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let asked = grpc.unary(Request::new(message.into()), PathAndQuery::from_static(path), Raw);
    Ok(within(path, asked).await?.into_inner())
}

/// A pipeline: where frames go in, and where results come out.
async fn pipeline(
    kv: &mut KvClient<Channel>,
) -> (mpsc::Sender<PipelineRequest>, Streaming<PipelineResponse>) {
    let (frames, taken) = mpsc::channel(8);
    let taken = stream::unfold(taken, |mut taken| async { Some((taken.recv().await?, taken)) });
    (frames, kv.pipeline(taken).await.unwrap().into_inner())
}

/// So many results, by their ids.
async fn results(answers: &mut Streaming<PipelineResponse>, wanted: usize) -> Vec<OperationResult> {
    let mut results = Vec::new();
    while results.len() < wanted {
        let frame = within("a pipeline's frame", answers.message()).await.unwrap();
        results.extend(frame.expect("the stream goes on").results);
    }
    results.sort_by_key(|result| result.id);
    results
}

/// What a client's request is refused for, with the limit that the refusal names.
fn requests_beyond_a_limit() -> Vec<(Wire, &'static str)> {
    let long = "k".repeat(KEY_BYTES_MAX + 1);
    let absent = |absent| v1::Condition { kind: Some(v1::condition::Kind::Absent(absent)) };
    let conditional = |condition| v1::PutRequest { condition: Some(condition), ..put("refused", "x") };
    let many = vec![Bytes::from("k"); BATCH_KEYS_MAX + 1];
    vec![
        (Wire::Put(put("", "x")), "a key has 1 to 4096 bytes"),
        (Wire::Get(get("")), "a key has 1 to 4096 bytes"),
        (Wire::Delete(v1::DeleteRequest::default()), "a key has 1 to 4096 bytes"),
        (Wire::Put(put(long.clone(), "x")), "a key has 1 to 4096 bytes"),
        (Wire::Get(get(long)), "a key has 1 to 4096 bytes"),
        (Wire::Put(put("refused", vec![0; VALUE_BYTES_MAX + 1])), "a value has at most 1048576 bytes"),
        (Wire::Put(conditional(v1::Condition { kind: None })), "the condition says nothing"),
        (Wire::Put(conditional(absent(false))), "the condition says nothing"),
        (Wire::BatchGet(v1::BatchGetRequest { keys: many, read: None }), "1024"),
        (
            Wire::BatchGet(v1::BatchGetRequest { keys: vec!["k".into(), Bytes::new()], read: None }),
            "a key has 1 to 4096",
        ),
    ]
}

async fn unary(kv: &mut KvClient<Channel>, request: Wire) -> Result<(), Status> {
    match request {
        Wire::Get(get) => kv.get(get).await.map(drop),
        Wire::BatchGet(batch) => kv.batch_get(batch).await.map(drop),
        Wire::Put(put) => kv.put(put).await.map(drop),
        Wire::Delete(delete) => kv.delete(delete).await.map(drop),
        other => panic!("{other:?} is not among the requests"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_beyond_a_limit_is_told_the_limit_and_the_next_one_is_served() {
    let cluster = Cluster::of(3).start().await;
    for index in 0..3 {
        let mut kv = kv(&cluster, index).await;
        for (request, part) in requests_beyond_a_limit() {
            let status = unary(&mut kv, request).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
            assert!(status.message().contains(part), "{part:?} in {status:?}");
            // The detail for programs says the same, without help from the code.
            let detail = Status::with_metadata(Code::Internal, "", status.metadata().clone());
            let error = from_status(&detail);
            assert!(status.metadata().get_bin(ERROR_METADATA).is_some(), "{status:?}");
            assert_eq!((error.kind, &*error.message), (ErrorKind::InvalidArgument, status.message()));
        }
        let request = v1::PutRequest { session: None, ..put("refused", vec![0; 5 << 20]) };
        let status = kv.put(request).await.unwrap_err();
        assert_eq!(from_status(&status).kind, ErrorKind::InvalidArgument, "{status:?}");
        assert!(status.message().contains("a request has at most 4194304 bytes"), "{status:?}");
        // Beyond what is decoded at all.
        let status = kv.put(put("refused", vec![0; 9 << 20])).await.unwrap_err();
        assert!(status.code() == Code::OutOfRange && status.message().contains("8388608"), "{status:?}");
        let mut late = Request::new(get("refused"));
        late.metadata_mut().insert("grpc-timeout", "soon".parse().unwrap());
        let status = kv.get(late).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().contains("grpc-timeout"), "{status:?}");

        check_serves(&mut kv, "limits").await;
        assert!(kv.get(get("refused")).await.unwrap().into_inner().kv.is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_without_sense_fails_alone_and_a_frame_without_sense_ends_its_stream_alone() {
    let cluster = Cluster::of(3).start().await;
    let channel = channel(cluster.node(1).client_address()).await;
    let mut kv = KvClient::new(channel.clone());
    let (frames, mut answers) = pipeline(&mut kv).await;
    let operation = |id, request| Operation { id, deadline_ms: 0, request };
    for round in 0..2 {
        // Every other one is good.
        let nonsense = requests_beyond_a_limit().into_iter().map(|(request, part)| (Some(request), part));
        let nonsense: Vec<_> = nonsense.chain([(None, "the operation says nothing")]).collect();
        let parts: Vec<_> = nonsense.iter().map(|(_, part)| *part).collect();
        let good = |id: u64| Some(Wire::Put(put(format!("pipeline/{round}/{id}"), "value")));
        let operations = (0..)
            .zip(nonsense)
            .flat_map(|(id, (request, _))| [operation(2 * id, good(id)), operation(2 * id + 1, request)]);
        frames.send(PipelineRequest { operations: operations.collect() }).await.unwrap();
        let results = results(&mut answers, 2 * parts.len()).await;
        let ids: Vec<u64> = results.iter().map(|result| result.id).collect();
        assert_eq!(ids, (0..2 * parts.len() as u64).collect::<Vec<_>>(), "each is answered once");
        for (pair, part) in results.chunks(2).zip(parts) {
            assert!(matches!(&pair[0].response, Some(Reply::Put(put)) if put.succeeded), "{pair:?}");
            let Some(Reply::Error(error)) = &pair[1].response else { panic!("{part:?}: {pair:?}") };
            assert_eq!(error.kind(), v1::error::Kind::InvalidArgument, "{error:?}");
            assert!(error.message.contains(part), "{part:?} in {error:?}");
        }
    }

    // On the same connection, while that one is open.
    let path = "/kvd.v1.Kv/Pipeline";
    let mut broken = raw_stream(&channel, path, Bytes::from_static(b"\x0a\x7fshort")).await.unwrap();
    let status = within("a broken stream", broken.message()).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal, "{status:?}");
    let (many_frames, mut refused) = pipeline(&mut kv).await;
    let many = (0..=FRAME_OPERATIONS_MAX as u64).map(|id| operation(id, Some(Wire::Get(get("a")))));
    many_frames.send(PipelineRequest { operations: many.collect() }).await.unwrap();
    let status = within("a frame of too many", refused.message()).await.unwrap_err();
    assert_eq!(from_status(&status).kind, ErrorKind::InvalidArgument, "{status:?}");
    assert!(status.message().contains("at most 1024"), "{status:?}");

    let operations = vec![operation(9, Some(Wire::Get(get("pipeline/0/0"))))];
    frames.send(PipelineRequest { operations }).await.unwrap();
    let found = results(&mut answers, 1).await;
    assert!(matches!(&found[0].response, Some(Reply::Get(got)) if got.kv.is_some()), "{found:?}");
    drop(frames);
    assert!(within("a stream's end", answers.message()).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_raw_bytes_are_answered_whatever_they_hold() {
    let cluster = Cluster::of(3).start().await;
    let channel = channel(cluster.node(0).client_address()).await;
    let put = "/kvd.v1.Kv/Put";
    // In good order it works, with fields of later versions as well.
    raw(&channel, put, &b"\x0a\x03key\x12\x05value"[..]).await.unwrap();
    raw(&channel, put, &b"\x0a\x03key\x12\x05value\xf8\x07\x01"[..]).await.unwrap();
    let got = raw(&channel, "/kvd.v1.Kv/Get", &b"\x0a\x03key"[..]).await.unwrap();
    assert!(got.windows(5).any(|part| part == b"value"), "{got:?}");

    for message in [
        &b"\xff\xff\xff"[..],
        b"\x0a\x7fkey",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01key",
        b"\x08\x01",
        b"\x02\x00",
        b"\x0a\x03key\x1a\x02\x0a\x00",
        b"\x0f",
        &[0x80; 64],
        &[0x0b; 4096],
    ] {
        let status = raw(&channel, put, message).await.unwrap_err();
        assert_eq!(status.code(), Code::Internal, "{message:?}: {status:?}");
        assert!(status.message().contains("decode"), "{message:?}: {status:?}");
    }
    // Whatever it is, there is an answer.
    let mut random = vec![0; 512];
    for turn in 0..300 {
        let length = rand::rng().random_range(0..random.len());
        rand::rng().fill_bytes(&mut random[..length]);
        // Most bytes break the first field; some come further.
        if turn % 2 == 0 && length > 8 {
            random[..6].copy_from_slice(b"\x0a\x04rand");
        }
        let message = Bytes::copy_from_slice(&random[..length]);
        for path in [put, "/kvd.v1.Kv/Delete", "/kvd.v1.Kv/BatchGet", "/kvd.v1.Kv/Scan"] {
            if let Err(status) = raw(&channel, path, message.clone()).await {
                let expected = matches!(
                    status.code(),
                    Code::Internal | Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition
                );
                assert!(expected, "{path} with {message:?}: {status:?}");
            }
        }
    }

    // What a port doesn't offer: unknown methods, later versions, and what is for the other port.
    for path in ["/kvd.v1.Kv/Rename", "/kvd.v2.Kv/Put", "/kvd.peer.v1.Peer/Probe", "/nothing"] {
        let status = raw(&channel, path, Bytes::new()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{path}: {status:?}");
    }
    let peer = self::channel(cluster.node(0).peer_address()).await;
    let status = raw(&peer, put, &b"\x0a\x03key"[..]).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented, "{status:?}");

    // SERVING, for the node and for its services.
    let check = "/grpc.health.v1.Health/Check";
    for service in [&b""[..], b"\x0a\x09kvd.v1.Kv", b"\x0a\x0ekvd.v1.Cluster"] {
        assert_eq!(raw(&channel, check, service).await.unwrap(), &b"\x08\x01"[..], "{service:?}");
    }
    let status = raw(&channel, check, &b"\x0a\x09kvd.v2.Kv"[..]).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    // ListServices.
    let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let mut answers = raw_stream(&channel, reflection, Bytes::from_static(b"\x3a\x00")).await.unwrap();
    let services = within("the services", answers.message()).await.unwrap().unwrap();
    let has = |name: &str| services.windows(name.len()).any(|part| part == name.as_bytes());
    assert!(has("kvd.v1.Kv") && has("kvd.v1.Cluster") && !has("kvd.peer"), "{services:?}");

    for index in 0..3 {
        check_serves(&mut kv(&cluster, index).await, "raw").await;
    }
}

/// What is sent to a port that expects something else.
fn garbage() -> Vec<Vec<u8>> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
    let mut random = vec![0; 64 << 10];
    rand::rng().fill_bytes(&mut random);
    vec![
        random.clone(),
        b"\0".repeat(100_000),
        b"\n".repeat(100_000),
        // TLS.
        [b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", &random[..512]].concat(),
        b"GET / HTTP/1.1\r\nhost: kvd\r\n\r\n".to_vec(),
        b"SELECT * FROM keys; -- of another database altogether\r\n".to_vec(),
        [b"GET /", &b"x".repeat(100_000)[..], b" HTTP/1.1\r\n\r\n"].concat(),
        b"PUT /store HTTP/1.1\r\nhost: kvd\r\ncontent-length: -5\r\n\r\n".to_vec(),
        b"PUT /store HTTP/1.1\r\nhost: kvd\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n".to_vec(),
        [PREFACE, &random].concat(),
        // A frame that is too large, of a stream that can't be, of an unknown type; headers that can't be decoded.
        [PREFACE, SETTINGS, b"\xff\xff\xff\x00\0\0\0\0\x01"].concat(),
        [PREFACE, SETTINGS, b"\0\0\x04\x00\0\0\0\0\x09kvd!"].concat(),
        [PREFACE, SETTINGS, b"\0\0\x04\xee\0\0\0\0\0kvd!", &random[..64]].concat(),
        [PREFACE, SETTINGS, b"\0\0\x04\x01\x04\0\0\0\x01\xff\xff\xff\xff"].concat(),
    ]
}

/// What is begun and never ended.
fn halves() -> Vec<&'static [u8]> {
    vec![
        b"",
        b"\x16",
        b"PRI * HTT",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x40\x01",
        b"GET /store/good HTTP/1.1\r\nhost:",
        b"PUT /store HTTP/1.1\r\nhost: kvd\r\ncontent-length: 1000000\r\n\r\n{\"key\":\"half\",",
    ]
}

/// Sends it and reads until the other end hangs up.
async fn send_garbage(address: SocketAddr, sent: &[u8]) {
    let mut connection = TcpStream::connect(address).await.unwrap();
    // It may hang up before it has read all.
    let _cut = connection.write_all(sent).await;
    let mut said = Vec::new();
    let _cut = connection.shutdown().await;
    let _cut = within("a connection of garbage", connection.read_to_end(&mut said)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_and_half_open_connections_at_all_ports_disturb_nobody() {
    let cluster = Cluster::of(3).start().await;
    let client = cluster.client().await;
    let mut writers = Writers::start(&client, 4);
    writers.progress(10).await;
    let mut held = Vec::new();
    for node in cluster.nodes() {
        for address in [node.client_address(), node.peer_address(), node.http_address()] {
            for half in halves() {
                for _ in 0..10 {
                    let mut connection = TcpStream::connect(address).await.unwrap();
                    connection.write_all(half).await.unwrap();
                    held.push(connection);
                }
            }
            for sent in garbage() {
                send_garbage(address, &sent).await;
            }
        }
    }
    // While the halves are held.
    writers.progress(30).await;
    for index in 0..3 {
        check_serves(&mut kv(&cluster, index).await, "garbage").await;
        // On a busy machine a leader may just be being elected.
        cluster.node(index).ready().await;
        let log = cluster.node(index).log();
        assert!(!log.contains("panicked"), "{log}");
    }
    drop(held);
    let ledger = writers.stop().await;
    ledger.check(&client).await;
    cluster.agreed(&client).await;
}
