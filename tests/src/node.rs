//! One `kvd serve`, started and ended at will.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};

use reqwest::Method;
use rustix::process::Signal;

use crate::{binaries, http, ports::free_ports, process::Process, wait::until};

/// Where in its directory a node's data is.
const DATA_DIR: &str = "data";

/// A node: its directory and ports for good, and its process while it runs.
#[derive(Debug)]
pub struct Node {
    name: String,
    dir: PathBuf,
    client: SocketAddr,
    peer: SocketAddr,
    http: SocketAddr,
    data_dir: PathBuf,
    launcher: Vec<String>,
    flags: Vec<(String, String)>,
    variables: Vec<(String, String)>,
    process: Option<Process>,
}

impl Node {
    /// A node on free ports that has not been started. Its directory is made in `parent`.
    ///
    /// # Panics
    /// The directory can't be made.
    #[must_use]
    pub fn new(name: impl Into<String>, parent: &Path) -> Self {
        let name = name.into();
        let dir = parent.join(&name);
        let ports = free_ports(3).try_into().expect("as many as asked for");
        let data_dir = dir.join(DATA_DIR);
        Self::at(name, dir, data_dir, ports)
    }

    /// A node that listens to clients, peers and HTTP at these addresses, with its data and its log where told. Not
    /// started.
    ///
    /// # Panics
    /// The directory can't be made.
    #[must_use]
    pub fn at(
        name: impl Into<String>,
        dir: PathBuf,
        data_dir: PathBuf,
        [client, peer, http]: [SocketAddr; 3],
    ) -> Self {
        let name = name.into();
        fs::create_dir_all(&dir).expect("a directory can be made");
        let flags = [
            ("data-dir", data_dir.display().to_string()),
            ("node-name", name.clone()),
            ("listen-client", client.to_string()),
            ("listen-peer", peer.to_string()),
            ("listen-http", http.to_string()),
        ];
        let flags = flags.map(|(flag, value)| (flag.to_owned(), value)).into();
        let (launcher, variables) = (Vec::new(), Vec::new());
        Self { name, dir, client, peer, http, data_dir, launcher, flags, variables, process: None }
    }

    /// Has it started by this program and its arguments, to which its own command is added. The program must turn into
    /// the node, rather than wait for it: signals go to the process that is started.
    pub fn set_launcher(&mut self, launcher: Vec<String>) {
        self.launcher = launcher;
    }

    /// Sets a setting by its flag, without the dashes, for its next starts. The last one counts.
    pub fn set(&mut self, flag: &str, value: impl Into<String>) {
        self.flags.retain(|(known, _)| known != flag);
        self.flags.push((flag.to_owned(), value.into()));
    }

    /// Sets an environment variable for its next starts.
    pub fn set_variable(&mut self, name: &str, value: &str) {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// Starts its process.
    ///
    /// # Panics
    /// It runs already.
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "{} runs already", self.name);
        let command = self.command();
        self.process = Some(Process::start(self.name.clone(), command, &self.log_path()));
    }

    /// The command that starts it.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = match self.launcher.split_first() {
            None => Command::new(binaries::kvd()),
            Some((launcher, arguments)) => {
                let mut command = Command::new(launcher);
                command.args(arguments).arg(binaries::kvd());
                command
            }
        };
        // What is set where the tests run must not be a setting of the node's.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KVD_")) {
            command.env_remove(name);
        }
        command.args(["serve", "--stop-on-stdin-close"]);
        command.args(self.flags.iter().map(|(flag, value)| format!("--{flag}={value}")));
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Asks it to stop, as a supervisor does, and waits until it has.
    ///
    /// # Panics
    /// It doesn't run, or doesn't stop.
    pub async fn stop(&mut self) -> ExitStatus {
        self.process().signal(Signal::TERM);
        self.wait().await
    }

    /// Ends it at once, as `kill -9` does.
    ///
    /// # Panics
    /// It doesn't run.
    pub fn kill(&mut self) {
        self.process.take().expect("only what runs can be killed").kill();
    }

    /// Stops it from doing anything until it is resumed.
    pub fn pause(&self) {
        self.process().signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.process().signal(Signal::CONT);
    }

    /// Waits for it to end by itself.
    ///
    /// # Panics
    /// It doesn't run, or doesn't end.
    pub async fn wait(&mut self) -> ExitStatus {
        let status = self.process.as_mut().expect("only what runs can end").wait().await;
        self.process = None;
        status
    }

    /// Whether its process has been started and has not ended.
    #[must_use]
    pub fn runs(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.ended().is_none())
    }

    /// Whether its process has been started, and nobody has waited for its end.
    #[must_use]
    pub const fn is_started(&self) -> bool {
        self.process.is_some()
    }

    /// Waits until it says that it is ready.
    pub async fn ready(&self) {
        let ready = async || match self.get("/readyz").await {
            Ok(answer) if answer.status == 200 => Ok(()),
            Ok(answer) => Err(answer.body),
            Err(error) => Err(error.to_string()),
        };
        until(&format!("{} to be ready", self.name), ready).await;
    }

    /// Waits until its log, of all its starts together, holds one more line with this text than it had `before`.
    pub async fn says(&self, text: &str, before: usize) -> String {
        let found = async || {
            let log = self.log();
            let line = log.lines().filter(|line| line.contains(text)).nth(before).map(str::to_owned);
            line.ok_or_else(|| "no such line".to_owned())
        };
        until(&format!("{} to say {text:?}", self.name), found).await
    }

    /// How many lines of its log hold this text.
    #[must_use]
    pub fn said(&self, text: &str) -> usize {
        self.log().lines().filter(|line| line.contains(text)).count()
    }

    /// What a GET of this path gives.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn get(&self, path: &str) -> reqwest::Result<http::Answer> {
        self.http(Method::GET, path, "").await
    }

    /// What an HTTP request gives.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn http(
        &self,
        method: Method,
        path: &str,
        body: impl Into<String>,
    ) -> reqwest::Result<http::Answer> {
        http::request(method, self.http, path, body).await
    }

    /// All that it has said, in all its starts.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Its data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.data_dir.clone()
    }

    /// Where clients reach it.
    #[must_use]
    pub const fn client_address(&self) -> SocketAddr {
        self.client
    }

    /// Where other nodes reach it.
    #[must_use]
    pub const fn peer_address(&self) -> SocketAddr {
        self.peer
    }

    /// Where its HTTP is.
    #[must_use]
    pub const fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// Its process.
    ///
    /// # Panics
    /// It doesn't run.
    #[must_use]
    pub fn process(&self) -> &Process {
        self.process.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name))
    }
}
