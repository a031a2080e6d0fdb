//! Clusters on this machine, which last for a comparison.
//!
//! kvd's is `kvd local`, as a newcomer starts it, but for the number of shards where there are fewer cores than nodes: an entry
//! of any shard keeps all nodes busy, so one keeps all cores busy then, and more would only divide its entries into smaller
//! ones. etcd's are as many members with the settings that it ships with. Both sync each write. So does Redis, told to, but as a
//! single instance: its replicas would take writes over later. The echo server keeps nothing. All have free ports of the
//! loopback interface.

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
    thread::available_parallelism,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use rand::RngExt as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use crate::{
    limit::MemoryLimit,
    target::{Reach, Target},
    usage,
};

/// How large a cluster is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) nodes: u16,
    /// None: as many as the machine can use.
    pub(crate) shards: Option<u32>,
}

impl Size {
    /// The shards to tell kvd; none, if it is to make as many as it does by itself.
    pub(crate) fn shards_on(self, cores: usize) -> Option<u32> {
        self.shards.or_else(|| (cores < usize::from(self.nodes)).then_some(1))
    }
}

/// How kvd is started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup<'a> {
    /// None: the one beside this program.
    pub(crate) binary: Option<&'a Path>,
    pub(crate) size: Size,
    /// None: the usual one.
    pub(crate) engine: Option<&'a str>,
    /// How much memory all nodes have together, if not all that there is.
    pub(crate) limit: Option<&'a MemoryLimit>,
}

/// A process, and where its output goes.
struct Process {
    child: Child,
    log: PathBuf,
}

/// How much of a log is shown.
const SHOWN_CHARS: usize = 2000;
/// How long a cluster may take until it serves, and until it has stopped.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(100);
/// How large etcd's data may get, in bytes.
const ETCD_BYTES_MAX: &str = "34359738368";

/// A cluster that serves. Whoever has it stops it: killing `kvd local` would leave its nodes.
pub(crate) struct Cluster {
    pub(crate) endpoints: String,
    processes: Vec<Process>,
    /// The processes that serve.
    pub(crate) nodes: Vec<u32>,
}

impl Cluster {
    /// Starts kvd.
    pub(crate) async fn kvd(setup: Setup<'_>, dir: &Path) -> anyhow::Result<Self> {
        let Setup { binary, size, engine, limit } = setup;
        let binary = match binary {
            Some(binary) => binary.to_owned(),
            None => beside_this_program("kvd")?,
        };
        let nodes = size.nodes;
        let port = free_ports(10 * nodes)?;
        let mut command = limit.map_or_else(|| Command::new(&binary), |limit| limit.command(&binary));
        if let Some(engine) = engine {
            command.env("KVD_STORAGE_ENGINE", engine);
        }
        command.args(["local", "--nodes", &nodes.to_string(), "--base-port", &port.to_string()]);
        if let Some(shards) = size.shards_on(available_parallelism()?.get()) {
            command.args(["--shards", &shards.to_string()]);
        }
        command.arg("--data-dir").arg(dir.join("kvd"));
        let local = Process::start(command, dir.join("kvd.log")).with_context(|| {
            format!("{} can't be started; build it with `cargo build --release`", binary.display())
        })?;
        let local_id = local.child.id().context("kvd has ended")?;
        let endpoints = (0..nodes).map(|node| format!("127.0.0.1:{}", port + 10 * node));
        let endpoints = endpoints.collect::<Vec<_>>().join(",");
        let mut cluster = Self { endpoints, processes: vec![local], nodes: Vec::new() };
        cluster = cluster.that_serves(Target::Kvd, dir).await?;
        cluster.nodes = usage::children(local_id)?;
        Ok(cluster)
    }

    /// Starts etcd; none, if there is none on this machine.
    pub(crate) async fn etcd(binary: &Path, nodes: u16, dir: &Path) -> anyhow::Result<Option<Self>> {
        let first = free_ports(2 * nodes)?;
        let client = |node: u16| format!("http://127.0.0.1:{}", first + 2 * node);
        let peer = |node: u16| format!("http://127.0.0.1:{}", first + 2 * node + 1);
        let members: Vec<String> = (0..nodes).map(|node| format!("n{node}={}", peer(node))).collect();
        let mut cluster = Self {
            endpoints: (0..nodes)
                .map(|node| client(node).replace("http://", ""))
                .collect::<Vec<_>>()
                .join(","),
            processes: Vec::new(),
            nodes: Vec::new(),
        };
        for node in 0..nodes {
            let mut command = Command::new(binary);
            command.arg("--name").arg(format!("n{node}"));
            command.arg("--data-dir").arg(dir.join(format!("etcd-{node}")));
            command.args(["--listen-client-urls", &client(node), "--advertise-client-urls", &client(node)]);
            command.args(["--listen-peer-urls", &peer(node), "--initial-advertise-peer-urls", &peer(node)]);
            command.args(["--initial-cluster", &members.join(","), "--initial-cluster-state", "new"]);
            // Its usual 2 GiB are less than many keys, or long values, take together with their history.
            command.args(["--quota-backend-bytes", ETCD_BYTES_MAX]);
            match Process::start(command, dir.join(format!("etcd-{node}.log"))) {
                Ok(started) => {
                    cluster.nodes.extend(started.child.id());
                    cluster.processes.push(started);
                }
                Err(error) if error.kind() == ErrorKind::NotFound && node == 0 => return Ok(None),
                Err(error) => {
                    cluster.stop().await?;
                    return Err(error).with_context(|| format!("{} can't be started", binary.display()));
                }
            }
        }
        cluster.that_serves(Target::Etcd, dir).await.map(Some)
    }

    /// Starts a single Redis that syncs each write before it answers; none, if there is none on this machine.
    pub(crate) async fn redis(binary: &Path, dir: &Path) -> anyhow::Result<Option<Self>> {
        let (port, data) = (free_ports(1)?, dir.join("redis"));
        fs::create_dir_all(&data).with_context(|| format!("{} can't be made", data.display()))?;
        let mut command = Command::new(binary);
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""]);
        command.args(["--appendonly", "yes", "--appendfsync", "always"]).arg("--dir").arg(data);
        match Process::start(command, dir.join("redis.log")) {
            Ok(process) => Self::of_one(Target::Redis, process, port, dir).await.map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("{} can't be started", binary.display())),
        }
    }

    /// Starts a server that only answers: this program.
    pub(crate) async fn echo(dir: &Path) -> anyhow::Result<Self> {
        let port = free_ports(1)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["echo", "--listen", &format!("127.0.0.1:{port}")]);
        let process = Process::start(command, dir.join("echo.log")).context("echo can't be started")?;
        Self::of_one(Target::Echo, process, port, dir).await
    }

    async fn of_one(target: Target, process: Process, port: u16, dir: &Path) -> anyhow::Result<Self> {
        let nodes = process.child.id().into_iter().collect();
        let cluster = Self { endpoints: format!("127.0.0.1:{port}"), processes: vec![process], nodes };
        cluster.that_serves(target, dir).await
    }

    /// The same, once it takes writes; stopped, if it never does.
    async fn that_serves(mut self, target: Target, dir: &Path) -> anyhow::Result<Self> {
        match self.wait_until_it_serves(target, dir).await {
            Ok(()) => Ok(self),
            Err(error) => {
                let said = self.processes.iter().map(Process::end_of_log).collect::<String>();
                self.stop().await?;
                bail!("{} does not serve: {error:#}\n{said}", target.name())
            }
        }
    }

    async fn wait_until_it_serves(&mut self, target: Target, dir: &Path) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = self.write(target, dir).await {
            for process in &mut self.processes {
                if let Some(status) = process.child.try_wait()? {
                    bail!("a process has ended: {status}");
                }
            }
            if Instant::now() >= deadline {
                return Err(error);
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    async fn write(&self, target: Target, dir: &Path) -> anyhow::Result<()> {
        let timeout = Duration::from_secs(2);
        let reach = Reach { endpoints: &self.endpoints, connections: 1, timeout, data_dir: dir };
        let mut connections = target.connect(&reach).await?;
        let connection = connections.pop().context("there is no connection")?;
        let written = connection.put(0, &"ready".into(), None).await;
        connection.close().await;
        written.map_err(|failure| anyhow!("a first write failed: {failure}"))
    }

    /// Kills the node that clients reach at an address, as a failing machine would.
    pub(crate) fn kill(&self, client_address: &str) -> anyhow::Result<()> {
        let listens = format!("--listen-client={client_address}");
        for &node in &self.nodes {
            if usage::command_line(node)?.contains(&listens) {
                let id = Pid::from_raw(node.try_into()?).context("a process has no id")?;
                return Ok(kill_process(id, Signal::KILL)?);
            }
        }
        bail!("no node listens at {client_address}")
    }

    /// Stops it, and waits until it has stopped.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        for process in &self.processes {
            let id = process.child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
            if let Some(id) = id {
                kill_process(id, Signal::TERM)?;
            }
        }
        for process in &mut self.processes {
            timeout(PATIENCE, process.child.wait()).await.context("a cluster does not stop")??;
        }
        Ok(())
    }
}

impl Process {
    fn start(mut command: Command, log: PathBuf) -> io::Result<Self> {
        let out = File::create(&log)?;
        let child = command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).spawn()?;
        Ok(Self { child, log })
    }

    fn end_of_log(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let skipped = log.chars().count().saturating_sub(SHOWN_CHARS);
        log.chars().skip(skipped).collect()
    }
}

/// Does something with what has to be stopped afterwards, unless Ctrl-C comes first.
pub(crate) async fn uninterrupted<T>(doing: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::select! {
        done = doing => done,
        interrupted = tokio::signal::ctrl_c() => Err(interrupted.map_or_else(Into::into, |()| anyhow!("interrupted"))),
    }
}

fn beside_this_program(name: &str) -> io::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name(name))
}

/// The first of so many ports in a row that nobody listens on, below those that connections are given.
fn free_ports(count: u16) -> anyhow::Result<u16> {
    const TRIES: usize = 100;
    for _ in 0..TRIES {
        let first = rand::rng().random_range(10_000..30_000);
        if (first..first + count).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return Ok(first);
        }
    }
    bail!("there are no {count} free ports in a row")
}

/// A directory of our own, which goes with all that is in it.
pub(crate) struct Workplace(PathBuf);

impl Workplace {
    pub(crate) fn make(parent: &Path) -> anyhow::Result<Self> {
        let path = std::path::absolute(parent)?.join(format!("kvd-bench-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("{} can't be made", path.display()))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        // It can only be left then.
        if fs::remove_dir_all(&self.0).is_err() {
            drop(io::Write::write_fmt(
                &mut io::stderr(),
                format_args!("kvd-bench: {} is left\n", self.0.display()),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_free() {
        let first = free_ports(5).unwrap();
        let held: Vec<_> = (first..first + 5).map(|port| TcpListener::bind(("127.0.0.1", port))).collect();
        assert!(held.iter().all(Result::is_ok));
    }

    #[tokio::test]
    async fn a_machine_without_etcd_has_none() {
        let dir = Workplace::make(&std::env::temp_dir()).unwrap();
        let none = Cluster::etcd(Path::new("no-such-program"), 3, dir.path()).await.unwrap();
        assert!(none.is_none());
        let path = dir.path().to_owned();
        drop(dir);
        assert!(!path.exists());
    }

    #[test]
    fn one_shard_is_enough_where_nodes_share_cores() {
        let size = Size { nodes: 3, shards: None };
        assert_eq!([1, 2, 3, 16].map(|cores| size.shards_on(cores)), [Some(1), Some(1), None, None]);
        assert_eq!(Size { shards: Some(4), ..size }.shards_on(2), Some(4));
    }
}
