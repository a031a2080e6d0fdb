//! `kvd local`, the cluster of somebody who tries kvd: its promises to scripts and to people, with its real nodes. That it
//! keeps the data, however it ends, is shown beside the server.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
};

use kvd_tests::{Answer, Process, Turn, free_ports, kvd, request, run, signal_process, until};
use reqwest::Method;
use rustix::process::Signal;
use tempfile::TempDir;

const NODES: u16 = 3;
/// From one node's ports to the next one's.
const PORTS_PER_NODE: u16 = 10;

/// A `kvd local` on a directory and ports of its own.
struct Local {
    dir: TempDir,
    base_port: u16,
    process: Process,
    _turn: Turn,
}

fn command(dir: &Path, base_port: u16) -> Command {
    let mut command = Command::new(kvd());
    // What is set where the tests run must not be a setting of the nodes.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KVD_")) {
        command.env_remove(name);
    }
    command.args(["local", "--shards=4", &format!("--base-port={base_port}"), "--data-dir"]).arg(dir);
    command
}

fn free_base_port() -> u16 {
    free_ports(PORTS_PER_NODE * NODES)[0].port()
}

impl Local {
    /// Starts one with these flags, without waiting for anything.
    async fn start(flags: &[&str]) -> Self {
        let turn = Turn::take().await;
        let dir = tempfile::tempdir().unwrap();
        let base_port = free_base_port();
        let mut command = command(&dir.path().join("data"), base_port);
        command.args(flags);
        let process = Process::start("kvd local", command, &dir.path().join("log"));
        Self { dir, base_port, process, _turn: turn }
    }

    /// Waits until it says something.
    async fn says(&self, text: &str) -> String {
        let found = async || {
            let log = self.process.log();
            let line = log.lines().find(|line| line.contains(text)).map(str::to_owned);
            line.ok_or_else(|| format!("not in {log}"))
        };
        until(&format!("kvd local to say {text:?}"), found).await
    }

    fn http(&self, node: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.base_port + PORTS_PER_NODE * (node - 1) + 2).into()
    }

    fn pid_file(&self, node: u16) -> PathBuf {
        self.dir.path().join(format!("data/node-{node}/pid"))
    }

    /// The process that a node's pid file names.
    fn pid(&self, node: u16) -> Result<u32, String> {
        let path = self.pid_file(node);
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        text.trim().parse().map_err(|error| format!("{}: {text:?}: {error}", path.display()))
    }

    async fn put(&self, node: u16, key: &str, value: &str) -> Answer {
        let body = serde_json::json!({ "key": key, "value": value }).to_string();
        request(Method::PUT, self.http(node), "/store", body).await.unwrap()
    }

    async fn is_ready(&self, node: u16) -> Result<(), String> {
        match request(Method::GET, self.http(node), "/readyz", "").await {
            Ok(answer) if answer.status == 200 => Ok(()),
            Ok(answer) => Err(answer.body),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Stops it as Ctrl-C does: with success, and nothing of it is left but its directory, which is removed when it is dropped.
    async fn stop(mut self) -> TempDir {
        let pids: Vec<u32> = (1..=NODES).filter_map(|node| self.pid(node).ok()).collect();
        self.process.signal(Signal::INT);
        let status = self.process.wait().await;
        assert_eq!(status.code(), Some(0), "{status}: {}", self.process.log());
        assert!((1..=NODES).all(|node| !self.pid_file(node).exists()), "no pid file is left");
        assert!(!pids.into_iter().any(is_running), "no process is left");
        self.dir
    }
}

fn is_running(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_it_says_is_ready_takes_writes_at_once_on_every_node() {
    let local = Local::start(&[]).await;
    local.says("ready: 3 nodes").await;
    for node in 1..=NODES {
        // Enough keys for every shard.
        for number in 0..20 {
            let answer = local.put(node, &format!("key-{node}-{number}"), "value").await;
            assert_eq!(answer.status, 200, "node {node}, key {number}: {answer:?}");
        }
    }
    // A pid file names the process of that very node.
    for node in 1..=NODES {
        let command_line = fs::read(format!("/proc/{}/cmdline", local.pid(node).unwrap())).unwrap();
        let command_line = String::from_utf8_lossy(&command_line).replace('\0', " ");
        assert!(command_line.contains(&format!("--node-name=node-{node} ")), "{command_line}");
    }
    local.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_comes_back_by_the_command_that_is_shown() {
    let local = Local::start(&[]).await;
    local.says("ready: 3 nodes").await;
    let killed = local.pid(2).unwrap();
    signal_process(killed, Signal::KILL).unwrap();
    let said = local.says("node 2 has died").await;
    assert!(said.contains("signal: 9"), "{said}");
    assert!(!local.pid_file(2).exists(), "nobody runs by that number");
    // The others do without it.
    let put = async || match local.put(1, "key", "value").await {
        answer if answer.status == 200 => Ok(()),
        answer => Err(format!("{answer:?}")),
    };
    until("a write with two of three nodes", put).await;

    let shown = local.says("kvd serve --data-dir=").await;
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("exec {}", shown.trim())]);
    let mut by_hand = Process::start("node 2 by hand", shell, &local.dir.path().join("by-hand"));
    until("node 2 to be ready", async || local.is_ready(2).await).await;
    let answer = request(Method::GET, local.http(2), "/store/key", "").await.unwrap();
    assert!(answer.status == 200 && answer.body.contains("value"), "{answer:?}");

    // It is not one of the children any more.
    let _dir = local.stop().await;
    assert_eq!(by_hand.ended(), None);
    by_hand.signal(Signal::INT);
    assert_eq!(by_hand.wait().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_comes_back_by_itself_if_so_asked() {
    let local = Local::start(&["--restart"]).await;
    local.says("ready: 3 nodes").await;
    let killed = local.pid(2).unwrap();
    signal_process(killed, Signal::KILL).unwrap();
    let said = local.says("node 2 has died").await;
    assert!(said.contains("it is started again in 1 s"), "{said}");
    let pid = until("another process", async || match local.pid(2)? {
        pid if pid == killed => Err("the killed one".to_owned()),
        pid => Ok(pid),
    })
    .await;
    assert!(is_running(pid));
    until("node 2 to be ready", async || local.is_ready(2).await).await;

    // Told to stop while one waits to be started again, it doesn't start it.
    signal_process(local.pid(3).unwrap(), Signal::KILL).unwrap();
    local.says("node 3 has died").await;
    local.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_before_it_is_ready_it_leaves_nothing_running() {
    let local = Local::start(&[]).await;
    until("a node to be started", async || local.pid(1)).await;
    local.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_it_cant_say_that_it_is_ready_its_nodes_are_stopped_in_order() {
    let _turn = Turn::take().await;
    let dir = tempfile::tempdir().unwrap();
    let mut command = command(dir.path(), free_base_port());
    command.stdout(fs::File::options().write(true).open("/dev/full").unwrap());
    let ended = run(command).await;
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("can't write to standard output"), "{said}");
    for node in 1..=NODES {
        let log = fs::read_to_string(dir.path().join(format!("node-{node}/kvd.log"))).unwrap();
        assert!(log.contains("stopped; nothing was lost"), "node {node} was killed: {log}");
        assert!(!dir.path().join(format!("node-{node}/pid")).exists(), "node {node}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cant_be_started_is_refused_and_nothing_is_started() {
    let _turn = Turn::take().await;
    let dir = tempfile::tempdir().unwrap();
    let base_port = free_base_port();

    // The last port of the last node.
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, base_port + 22)).unwrap();
    let data_dir = dir.path().join("data");
    let port = format!("port {} of node 3 can't be had", base_port + 22);
    check_refused(command(&data_dir, base_port), &[&port, "--base-port"]).await;
    assert!(!data_dir.join("node-1").exists(), "nothing was started");
    drop(taken);

    let file = dir.path().join("file");
    fs::write(&file, "of somebody").unwrap();
    check_refused(command(&file, base_port), &[file.to_str().unwrap(), "--data-dir"]).await;
    assert_eq!(fs::read_to_string(&file).unwrap(), "of somebody");

    for (flag, parts) in [
        ("--nodes=0", &["--nodes 0", "1 to 32"][..]),
        ("--nodes=5000000", &["--nodes"]),
        ("--replication-factor=2", &["replication_factor"]),
        ("--replication-factor=5", &["replication_factor"]),
        ("--shards=0", &["shards"]),
        ("--node=3", &["--node", "--nodes"]),
    ] {
        let mut command = command(&data_dir, base_port);
        command.arg(flag);
        check_refused(command, parts).await;
        assert!(!data_dir.join("node-1").exists(), "{flag}: nothing was started");
    }
}

/// A start that fails with a message that has all these parts, and says nothing that a script would take for readiness.
async fn check_refused(command: Command, parts: &[&str]) {
    let shown = format!("{command:?}");
    let ended = run(command).await;
    assert_eq!(ended.status.code(), Some(2), "{shown}");
    assert!(ended.stdout.is_empty(), "{shown} says {}", String::from_utf8_lossy(&ended.stdout));
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(parts.iter().all(|part| said.contains(part)), "{shown}: {parts:?} in {said}");
}
