//! `kvd local` with the real binary: ready, written to, stopped, started again, and killed.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of a test fail it")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// A running `kvd local`, killed with its children when dropped.
struct Local {
    child: Child,
    http: SocketAddr,
}

impl Drop for Local {
    fn drop(&mut self) {
        // It may have ended already; its children see their standard input close.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A port from which on three nodes' ports are free just now.
fn free_base_port() -> u16 {
    for _ in 0..100 {
        let base = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if base < u16::MAX - 22 && ports(base).all(is_free) {
            return base;
        }
    }
    panic!("no free ports");
}

fn ports(base: u16) -> impl Iterator<Item = u16> {
    (0..3).flat_map(move |node| (0..3).map(move |offset| base + 10 * node + offset))
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

/// Starts three nodes and waits until they are said to be ready.
fn start(dir: &Path, base: u16) -> Local {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kvd"))
        .args(["local", "--nodes=3", "--shards=2", &format!("--base-port={base}")])
        .arg("--data-dir")
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let local = Local { child, http: SocketAddr::from(([127, 0, 0, 1], base + 2)) };
    let (said, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in stdout.lines().map_while(Result::ok) {
            drop(said.send(line));
        }
    });
    let ready = lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("not ready: {}", logs(dir)));
    let endpoints = [base, base + 10, base + 20].map(|port| format!("127.0.0.1:{port}")).join(",");
    assert_eq!(ready, format!("ready: 3 nodes, endpoints {endpoints}"));
    local
}

fn logs(dir: &Path) -> String {
    let log = |node| fs::read_to_string(dir.join(format!("node-{node}/kvd.log"))).unwrap_or_default();
    (1..=3).map(|node| format!("\nnode {node}:\n{}", log(node))).collect()
}

impl Local {
    fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.http).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn put(&self, body: &str) {
        let length = body.len();
        let answer = self.ask(&format!("PUT /store HTTP/1.0\r\ncontent-length: {length}\r\n\r\n{body}"));
        assert!(answer.contains("\"status\":\"success\""), "{answer}");
    }

    fn get(&self, key: &str) -> String {
        self.ask(&format!("GET /store/{key} HTTP/1.0\r\n\r\n"))
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        until("it ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_cluster_keeps_its_data_however_it_ends() {
    let dir = TempDir::new().unwrap();
    let base = free_base_port();

    let mut local = start(dir.path(), base);
    local.put(r#"{"key":"user:123","value":"John Doe"}"#);
    let second = Command::new(env!("CARGO_BIN_EXE_kvd"))
        .arg("local")
        .arg("--data-dir")
        .arg(dir.path())
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another `kvd local` runs on"));
    local.signal(Signal::INT);
    assert!(local.ended().success(), "{}", logs(dir.path()));
    assert!((1..=3).all(|node| !dir.path().join(format!("node-{node}/pid")).exists()));
    assert!(ports(base).all(is_free), "every node has ended with it");

    let mut local = start(dir.path(), base);
    assert!(local.get("user:123").contains("\"value\":\"John Doe\""));
    local.put(r#"{"key":"user:124","value":"Jane Doe"}"#);
    local.signal(Signal::KILL);
    local.ended();

    // Its nodes are still stopping, having seen that they are alone; the next start waits for them.
    let local = start(dir.path(), base);
    assert!(local.get("user:123").contains("\"value\":\"John Doe\""));
    assert!(local.get("user:124").contains("\"value\":\"Jane Doe\""));
}
