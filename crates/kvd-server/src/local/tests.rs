//! Plans and refusals, and the life of children, with a shell script in a node's place.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;
use crate::{
    config::Config,
    http,
    metrics::Metrics,
    testing::{FakeStore, LIMITS},
};

const PATIENCE: Duration = Duration::from_secs(30);

fn options(dir: &Path) -> Options {
    Options {
        nodes: None,
        dir: dir.to_owned(),
        base_port: BASE_PORT_DEFAULT,
        shards: None,
        replication_factor: None,
        restart: false,
        cores: NonZeroUsize::new(8).unwrap(),
    }
}

fn plan(options: &Options, existing: u16) -> Result<Plan, Error> {
    Plan::new(options, Path::new("/data"), existing)
}

#[test]
fn a_plan_gives_each_node_its_ports_and_directory() {
    let plan = plan(&Options { shards: Some(5), ..options(Path::new("x")) }, 0).unwrap();
    assert_eq!(plan.nodes.len(), 3);
    assert_eq!(
        command_text(Path::new("/bin/kvd"), &plan.nodes[1].args),
        "/bin/kvd serve --data-dir=/data/node-2/data --node-name=node-2 \
         --seeds=127.0.0.1:7401,127.0.0.1:7411,127.0.0.1:7421 --listen-client=127.0.0.1:7410 \
         --listen-peer=127.0.0.1:7411 --listen-http=127.0.0.1:7412 --advertise-client=127.0.0.1:7410 \
         --advertise-peer=127.0.0.1:7411 --advertise-http=127.0.0.1:7412 --cluster-initial-nodes=3 --cluster-shards=5 \
         --limits-threads=2"
    );
    assert!(
        plan.welcome(Path::new("/data"))
            .starts_with("ready: 3 nodes, endpoints 127.0.0.1:7400,127.0.0.1:7410,127.0.0.1:7420\n")
    );
}

#[test]
fn nodes_share_the_machine() {
    for (nodes, cores, shards, threads) in [
        (3, 1, 3, 1),
        (3, 2, 3, 1),
        (3, 8, 9, 2),
        (3, 64, 12, 21),
        (1, 2, 2, 2),
        (5, 4, 5, 1),
        (32, 4, 32, 1),
    ] {
        let cores = NonZeroUsize::new(cores).unwrap();
        let plan = plan(&Options { nodes: Some(nodes), cores, ..options(Path::new("x")) }, 0).unwrap();
        let wanted = [format!("--cluster-shards={shards}"), format!("--limits-threads={threads}")];
        for node in &plan.nodes {
            assert!(
                wanted.iter().all(|argument| node.args.iter().any(|given| **given == **argument)),
                "{node:?}"
            );
        }
    }
}

#[test]
fn every_nodes_arguments_are_a_configuration_whatever_the_environment_says() {
    let env =
        [("KVD_ADVERTISE_CLIENT", "one-for-all:1"), ("KVD_DATA_DIR", "/one/for/all"), ("KVD_SEEDS", "a:1")];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
    for nodes in [1, 3, 5, NODES_MAX] {
        let plan = plan(&Options { nodes: Some(nodes), ..options(Path::new("x")) }, 0).unwrap();
        for node in &plan.nodes {
            let read = |_: &Path| unreachable!("no file is named");
            let config = Config::from_args_and_env(&node.args[1..], env.clone(), read).unwrap().config;
            assert_eq!(config.listen_client, node.client);
            assert_eq!(config.advertise_client, node.client.to_string());
            assert_eq!(config.data_dir, node.data_dir());
            assert_eq!(config.cluster.initial_nodes, u32::from(nodes));
            assert_eq!(config.cluster.replication_factor, if nodes == 1 { 1 } else { 3 });
        }
    }
}

#[test]
fn what_cant_be_is_refused() {
    let base = options(Path::new("x"));
    let refused = |options: Options, existing| plan(&options, existing).unwrap_err().to_string();
    for nodes in [0, NODES_MAX + 1] {
        assert!(refused(Options { nodes: Some(nodes), ..base.clone() }, 0).contains("1 to 32"));
    }
    let beyond = refused(Options { base_port: 65_530, ..base.clone() }, 0);
    assert!(beyond.contains("--base-port 65530") && beyond.contains("at most 65513"), "{beyond}");
    assert!(plan(&Options { base_port: 65_513, ..base.clone() }, 0).is_ok());
    let fewer = refused(Options { nodes: Some(3), ..base.clone() }, 5);
    assert!(fewer.contains("/data") && fewer.contains("--nodes 5"), "{fewer}");
    assert_eq!(plan(&base, 5).unwrap().nodes.len(), 5, "unless told otherwise, those that there are");
    assert_eq!(plan(&Options { nodes: Some(7), ..base }, 5).unwrap().nodes.len(), 7);
}

#[test]
fn words_with_a_meaning_to_the_shell_are_quoted() {
    let args = ["a b".into(), "it's".into(), String::new().into(), "--x=$HOME".into()];
    assert_eq!(command_text(Path::new("kvd"), &args), r"kvd 'a b' 'it'\''s' '' '--x=$HOME'");
}

#[test]
fn one_directory_has_one_cluster() {
    let dir = TempDir::new().unwrap();
    let first = Directory::lock(dir.path()).unwrap();
    let error = Directory::lock(dir.path()).unwrap_err();
    assert!(matches!(error, Error::Running(_)) && error.is_refusal());
    assert!(error.to_string().contains("another `kvd local`"), "{error}");
    drop(first);
    let again = Directory::lock(dir.path()).unwrap();
    assert_eq!(again.existing_nodes(), 0);
    fs::create_dir_all(dir.path().join("node-4/data")).unwrap();
    assert_eq!(again.existing_nodes(), 4);
}

#[test]
fn a_directory_that_cant_be_written_is_named() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Directory::lock(&file.join("below")).unwrap_err().to_string();
    assert!(error.contains("file/below") && error.contains("--data-dir"), "{error}");
    // Ownership means nothing to root, but a file system without files does.
    let error = Directory::lock(Path::new("/proc/kvd")).unwrap_err().to_string();
    assert!(error.contains("/proc/kvd"), "{error}");
}

#[tokio::test]
async fn data_in_use_is_waited_for() {
    let dir = TempDir::new().unwrap();
    let options = Options { nodes: Some(1), base_port: free_base_port(1), ..options(dir.path()) };
    let plan = Plan::new(&options, dir.path(), 0).unwrap();
    let used = kvd_storage::identity::DirLock::acquire(&plan.nodes[0].data_dir()).unwrap();
    let (log, stop) = (Written::default(), CancellationToken::new());
    let waited = tokio::spawn({
        let (mut log, stop) = (log.clone(), stop.clone());
        async move { until_unused(&plan, &stop, &mut log).await }
    });
    until("it says so", || log.text().contains("waiting for node 1 of an earlier start")).await;
    assert!(!waited.is_finished());
    drop(used);
    tokio::time::timeout(PATIENCE, waited).await.expect("it waits on").unwrap().unwrap();
}

/// What was written so far, readable while it is being written.
#[derive(Clone, Default)]
struct Written {
    bytes: Arc<Mutex<Vec<u8>>>,
    /// Nobody reads it any more: what is written is kept for the test, and the writer told so.
    is_broken: Arc<AtomicBool>,
}

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.bytes.lock().unwrap().extend_from_slice(bytes);
        if self.is_broken.load(Ordering::Relaxed) {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Written {
    fn text(&self) -> String {
        String::from_utf8(self.bytes.lock().unwrap().clone()).unwrap()
    }
}

/// A local cluster of scripts.
struct Cluster {
    plan: Plan,
    dir: TempDir,
    out: Written,
    log: Written,
    stop: CancellationToken,
    ran: JoinHandle<Result<(), Error>>,
}

/// Says when it is up and how it ends: by a signal, or because its standard input was closed.
const NODE_SCRIPT: &str = "#!/bin/sh
trap 'echo asked to stop; exit 0' TERM
echo up with $*
while read -r line; do :; done
echo standard input was closed
";

/// A base port from which on a plan's ports are free just now.
fn free_base_port(nodes: u16) -> u16 {
    for _ in 0..100 {
        let base = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let options = Options { nodes: Some(nodes), base_port: base, ..options(Path::new("x")) };
        if plan(&options, 0).is_ok_and(|plan| plan.check_ports().is_ok()) {
            return base;
        }
    }
    panic!("no free ports");
}

fn start(nodes: u16, script: &str, restart: bool) -> Cluster {
    let dir = TempDir::new().unwrap();
    let program = dir.path().join("node.sh");
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let directory = Directory::lock(dir.path()).unwrap();
    let options =
        Options { nodes: Some(nodes), base_port: free_base_port(nodes), restart, ..options(dir.path()) };
    let plan = Plan::new(&options, dir.path(), 0).unwrap();
    let (out, log, stop) = (Written::default(), Written::default(), CancellationToken::new());
    let ran = tokio::spawn({
        let (plan, mut out, mut log, stop) = (plan.clone(), out.clone(), log.clone(), stop.clone());
        async move { run(&program, &plan, &directory, stop, &mut out, &mut log).await }
    });
    Cluster { plan, dir, out, log, stop, ran }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("waited in vain: {what}"));
}

impl Cluster {
    fn said(&self, node: usize) -> String {
        fs::read_to_string(self.plan.nodes[node].log_path()).unwrap_or_default()
    }

    async fn until_up(&self) {
        until("all are up", || {
            (0..self.plan.nodes.len()).all(|node| self.said(node).contains("up with serve"))
        })
        .await;
    }

    async fn end(self) -> (Result<(), Error>, TempDir) {
        let ended = tokio::time::timeout(PATIENCE, self.ran).await.expect("it does not end").unwrap();
        (ended, self.dir)
    }
}

#[tokio::test]
async fn nodes_are_started_told_ready_and_stopped_in_order() {
    let cluster = start(2, NODE_SCRIPT, false);
    cluster.until_up().await;
    for node in &cluster.plan.nodes {
        let pid: u32 = fs::read_to_string(node.pid_path()).unwrap().trim().parse().unwrap();
        assert!(Path::new(&format!("/proc/{pid}")).exists());
    }
    assert!(cluster.said(0).contains("--stop-on-stdin-close"));

    // One node is ready, the other not yet.
    let stores = [FakeStore::new(), FakeStore::new()];
    *stores[1].health.lock() = crate::store::Health::not_ready("shard 3 has no leader");
    for (node, store) in cluster.plan.nodes.iter().zip(&stores) {
        let listener = tokio::net::TcpListener::bind(node.http).await.unwrap();
        let metrics = Arc::new(Metrics::new("test"));
        tokio::spawn(http::serve(
            Box::new(crate::platform::TcpPort(listener)),
            Arc::<FakeStore>::clone(store),
            LIMITS,
            cluster.stop.clone(),
            metrics,
        ));
    }
    let missing = ready::missing(&cluster.plan.nodes).await;
    assert_eq!(missing, [(2, "shard 3 has no leader".to_owned())]);
    assert_eq!(cluster.out.text(), "");
    *stores[1].health.lock() = crate::store::Health::ready();
    let out = cluster.out.clone();
    until("it says that it is ready", || out.text().contains("kvctl")).await;
    let endpoints = format!("{},{}", cluster.plan.nodes[0].client, cluster.plan.nodes[1].client);
    assert!(out.text().starts_with(&format!("ready: 2 nodes, endpoints {endpoints}\n")), "{}", out.text());

    cluster.stop.cancel();
    let plan = cluster.plan.clone();
    let (ended, _dir) = cluster.end().await;
    ended.unwrap();
    for node in &plan.nodes {
        let said = fs::read_to_string(node.log_path()).unwrap();
        assert!(said.contains("asked to stop") && !said.contains("standard input"), "{said}");
        assert!(!node.pid_path().exists());
    }
}

#[tokio::test]
async fn a_taken_port_is_named_and_nothing_is_started() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let dir = TempDir::new().unwrap();
    let directory = Directory::lock(dir.path()).unwrap();
    let plan = Plan::new(&Options { base_port: port, ..options(dir.path()) }, dir.path(), 0).unwrap();
    let (mut out, mut log) = (Written::default(), Written::default());
    let ran =
        run(Path::new("/bin/false"), &plan, &directory, CancellationToken::new(), &mut out, &mut log).await;
    let error = ran.unwrap_err();
    assert!(error.is_refusal());
    assert!(error.to_string().contains(&format!("port {port} of node 1")), "{error}");
    assert!(error.to_string().contains("--base-port"), "{error}");
    assert!(!dir.path().join("node-1").exists());
}

#[tokio::test]
async fn a_dead_node_is_told_of_with_the_way_to_start_it_again() {
    let cluster = start(2, NODE_SCRIPT, false);
    cluster.until_up().await;
    let node = &cluster.plan.nodes[1];
    let pid: i32 = fs::read_to_string(node.pid_path()).unwrap().trim().parse().unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let command = command_text(&cluster.dir.path().join("node.sh"), &node.args);
    let log = cluster.log.clone();
    until("it is told of", || log.text().contains(&command)).await;
    assert!(log.text().contains("node 2 has died (signal: 9"), "{}", log.text());
    assert!(!node.pid_path().exists());
    assert!(!cluster.ran.is_finished(), "the other one runs on");
    cluster.stop.cancel();
    cluster.end().await.0.unwrap();
}

#[tokio::test]
async fn nodes_run_on_when_nobody_reads_any_more_what_is_said_of_them() {
    let cluster = start(2, NODE_SCRIPT, false);
    cluster.until_up().await;
    cluster.log.is_broken.store(true, Ordering::Relaxed);
    let pid: i32 = fs::read_to_string(cluster.plan.nodes[1].pid_path()).unwrap().trim().parse().unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let log = cluster.log.clone();
    until("it is told to nobody", || log.text().contains("node 2 has died")).await;
    cluster.stop.cancel();
    let survivor = cluster.plan.nodes[0].clone();
    let (ended, _dir) = cluster.end().await;
    ended.unwrap();
    let said = fs::read_to_string(survivor.log_path()).unwrap();
    assert!(said.contains("asked to stop"), "it was not killed: {said}");
}

#[tokio::test]
async fn when_all_have_died_so_does_the_parent() {
    let cluster = start(2, "#!/bin/sh\necho the disk fails\nexit 3\n", false);
    let log = cluster.log.clone();
    let (ended, _dir) = cluster.end().await;
    let error = ended.unwrap_err();
    assert!(matches!(error, Error::AllEnded(_)) && !error.is_refusal());
    assert_eq!(log.text().matches("exit status: 3").count(), 2, "{}", log.text());
}

#[tokio::test]
async fn a_dead_node_is_started_again_if_so_asked() {
    let script = NODE_SCRIPT.replace("echo up", "[ -e ${0}.once ] || { touch ${0}.once; exit 4; }\necho up");
    let cluster = start(1, &script, true);
    cluster.until_up().await;
    assert!(
        cluster.log.text().contains("exit status: 4); it is started again in 1 s"),
        "{}",
        cluster.log.text()
    );
    cluster.stop.cancel();
    cluster.end().await.0.unwrap();
}

#[tokio::test]
async fn a_program_that_isnt_there_is_told_of() {
    let dir = TempDir::new().unwrap();
    let directory = Directory::lock(dir.path()).unwrap();
    let options = Options { nodes: Some(1), base_port: free_base_port(1), ..options(dir.path()) };
    let plan = Plan::new(&options, dir.path(), 0).unwrap();
    let (mut out, mut log) = (Written::default(), Written::default());
    let ran =
        run(Path::new("/nowhere/kvd"), &plan, &directory, CancellationToken::new(), &mut out, &mut log).await;
    assert!(matches!(ran, Err(Error::AllEnded(_))));
    assert!(log.text().contains("can't be started"), "{}", log.text());
}
