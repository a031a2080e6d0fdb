//! Clients and peers that mean harm, or are broken enough to do as much.
//!
//! # The claims
//! Whoever floods a port, says nothing, never ends, never reads or resets all that it begins: it is refused, cut or left
//! to stall alone. In the same time ordinary clients go on, the node's memory stays below a bound that is stated here, and
//! its file handles below the limit on connections. And once it is gone, the node is as it was.
//!
//! What is wrong in single messages is in `wire`; here it is the amount.

#![expect(clippy::expect_used, reason = "a test fails where it stands, and says what was missing")]

use std::{fs, net::SocketAddr, time::Duration};

use bytes::BufMut as _;
use kvd_client::Client;
use kvd_proto::v1::{self, kv_client::KvClient};
use kvd_tests::{Cluster, Node, PATIENCE, Writers, until};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::transport::Channel;

mod connections;
mod readers;
mod requests;
mod streams;

/// Connections that the nodes of these tests take on each port.
const CONNECTIONS_MAX: usize = 200;
/// File handles of a node beside its clients' connections: of its log, its engine, its peers, and some to spare.
const OTHER_HANDLES_MAX: usize = 150;
/// What a node may take in memory for all that is done to it here, beyond what it had before: the room for what it passes
/// on for others, and what the transport holds for each stream.
const HARM_BYTES_MAX: u64 = 512 << 20;

/// What a node's process takes of the machine.
struct Vitals {
    process: u32,
    /// Resident before any harm was done.
    bytes_before: u64,
}

impl Vitals {
    fn of(node: &Node) -> Self {
        let process = node.process().id();
        Self { process, bytes_before: resident_bytes(process) }
    }

    /// Bytes resident now beyond those before.
    fn harm_bytes(&self) -> u64 {
        resident_bytes(self.process).saturating_sub(self.bytes_before)
    }

    fn check_memory(&self) {
        let harm = self.harm_bytes();
        assert!(harm < HARM_BYTES_MAX, "process {} has taken {} MiB", self.process, harm >> 20);
    }

    fn handles(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.process)).expect("the process runs").count()
    }

    fn check_handles(&self) {
        let handles = self.handles();
        let most = 3 * CONNECTIONS_MAX + OTHER_HANDLES_MAX;
        assert!(handles <= most, "process {} has {handles} file handles", self.process);
    }
}

fn resident_bytes(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().expect("a number of KiB");
    kib << 10
}

/// Three nodes with room for few connections, and ordinary clients at work.
struct Scene {
    cluster: Cluster,
    client: Client,
    writers: Writers,
    vitals: Vec<Vitals>,
}

impl Scene {
    async fn start() -> Self {
        let cluster =
            Cluster::of(3).set("limits-connections-max", &CONNECTIONS_MAX.to_string()).start().await;
        let client = cluster.client().await;
        let mut writers = Writers::start(&client, 4);
        writers.progress(20).await;
        let vitals = cluster.nodes().iter().map(Vitals::of).collect();
        Self { cluster, client, writers, vitals }
    }

    /// Checks that the writers get on, and that no node takes more than it may.
    async fn check(&mut self) {
        self.writers.progress(20).await;
        self.vitals.iter().for_each(Vitals::check_memory);
        self.vitals.iter().for_each(Vitals::check_handles);
    }

    /// Checks what the writers were told, and that nothing has broken.
    async fn end(self) {
        let ledger = self.writers.stop().await;
        ledger.check(&self.client).await;
        for node in self.cluster.nodes() {
            assert!(!node.log().contains("panicked"), "{}", node.log());
        }
        self.cluster.agreed(&self.client).await;
    }

    /// A node's ports, with their names.
    fn ports(&self, index: usize) -> [(&'static str, SocketAddr); 3] {
        let node = self.cluster.node(index);
        [("client", node.client_address()), ("peer", node.peer_address()), ("http", node.http_address())]
    }
}

/// A client of its own, by unary calls.
async fn guest(address: SocketAddr) -> KvClient<Channel> {
    let endpoint = Channel::from_shared(format!("http://{address}")).expect("an address");
    KvClient::new(endpoint.timeout(PATIENCE).connect().await.expect("a node that listens"))
        .max_decoding_message_size(64 << 20)
}

async fn write_values(client: &Client, count: usize, bytes: usize) -> Vec<String> {
    let keys: Vec<String> = (0..count).map(|number| format!("large/{number}")).collect();
    for key in &keys {
        let value = vec![b'v'; bytes];
        until("a value to be put", async || {
            client.put(key, value.clone()).await.map(drop).map_err(|error| error.to_string())
        })
        .await;
    }
    keys
}

/// Waits until the other end has hung up, throwing away what it says until then.
async fn hung_up(what: &str, connection: &mut TcpStream) {
    let mut said = vec![0; 64 << 10];
    let ended = async { while connection.read(&mut said).await.is_ok_and(|read| read > 0) {} };
    assert!(tokio::time::timeout(PATIENCE, ended).await.is_ok(), "{what}: nobody hangs up");
}

/// Whether the other end has hung up, without waiting for it.
fn has_hung_up(connection: &TcpStream) -> bool {
    let mut said = [0; 4096];
    loop {
        match connection.try_read(&mut said) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

/// HTTP/2, said byte by byte: what no client library would say.
mod http2 {
    use super::*;

    pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RESET: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PING: u8 = 6;
    pub(super) const CONTINUATION: u8 = 9;
    pub(super) const END_STREAM: u8 = 1;
    pub(super) const ACK: u8 = 1;
    pub(super) const END_HEADERS: u8 = 4;

    /// A frame.
    pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::with_capacity(9 + payload.len());
        let length = u32::try_from(payload.len()).expect("a short payload");
        frame.put_slice(&length.to_be_bytes()[1..]);
        frame.put_u8(kind);
        frame.put_u8(flags);
        frame.put_u32(stream);
        frame.put_slice(payload);
        frame
    }

    /// The headers of a gRPC call, in literals.
    pub(super) fn call(path: &str) -> Vec<u8> {
        let mut headers = vec![0x83, 0x86];
        let mut literal = |name: &[u8], value: &str| {
            headers.put_slice(name);
            headers.put_u8(u8::try_from(value.len()).expect("a short value"));
            headers.put_slice(value.as_bytes());
        };
        literal(&[0x04], path);
        literal(&[0x01], "kvd");
        literal(&[0x0f, 0x10], "application/grpc");
        literal(b"\x00\x02te", "trailers");
        headers
    }

    /// Connects and says what every client says first.
    pub(super) async fn connect(address: SocketAddr) -> TcpStream {
        let mut connection = TcpStream::connect(address).await.expect("a node that listens");
        let opening = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
        connection.write_all(&opening).await.expect("a node that listens");
        connection
    }
}
