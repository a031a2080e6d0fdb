//! What each verb does.
//!
//! Results are written as they come, through one buffer on a locked standard output: memory stays flat however many there are.
//! Whatever waits for people or other programs (a watch, a lock) empties the buffer first.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, BufWriter, Write as _},
    path::Path,
};

use clap::CommandFactory as _;
use futures::future::join_all;
use kvd_client::{Client, Config, Key, ShardId};

use crate::{
    cli::{CheckVerb, Cli, Global, NodeVerb, ShardVerb, Verb},
    failure::{Failure, Result},
    output::{NodeReport, Output},
};

mod check;
mod child;
mod elect;
mod import;
mod interrupt;
mod lease;
mod lock;
mod progress;
mod read;
mod select;
mod txn;
mod watch;
mod write;

use select::{Alone, Selection};

/// Where results go.
type Stdout = Output<BufWriter<io::StdoutLock<'static>>>;

/// Carries out a verb.
pub(crate) async fn run(cli: Cli) -> Result<()> {
    let mut output = Output::new(BufWriter::new(io::stdout().lock()), cli.global.output);
    let result = match cli.verb {
        Verb::Completion { shell } => completion(shell),
        Verb::Version => output.version().map_err(Failure::from),
        verb => with_cluster(&cli.global, verb, &mut output).await,
    };
    // What there is to show is shown also when a part has failed; the first failure is the one to tell.
    result.and(output.flush().map_err(Failure::from))
}

/// What is taken from files or standard input.
#[derive(Default)]
struct Input {
    value: bytes::Bytes,
    txn: kvd_types::Txn,
}

impl Input {
    fn read(verb: &Verb) -> Result<Self> {
        match verb {
            Verb::Put(put) => Ok(Self { value: write::value_of(put)?, ..Self::default() }),
            Verb::Txn(txn) => Ok(Self { txn: txn::read(txn)?, ..Self::default() }),
            _ => Ok(Self::default()),
        }
    }
}

/// Refuses what can only be a mistake before anything is sent.
fn check(verb: &Verb) -> Result<()> {
    let (keys, alone) = match verb {
        Verb::Get(arguments) => (&arguments.keys, Alone::Key),
        Verb::Scan(arguments) => (&arguments.keys, Alone::Start),
        Verb::Del(arguments) => (&arguments.keys, Alone::Key),
        Verb::Watch(arguments) => (&arguments.keys, Alone::Key),
        _ => return Ok(()),
    };
    let selection = Selection::new(keys, alone)?;
    if matches!(verb, Verb::Del(_)) && selection.is_everything() && !keys.all {
        return Err(Failure::Input("this would delete all keys; if that is what you want, say --all".into()));
    }
    Ok(())
}

async fn with_cluster(global: &Global, verb: Verb, output: &mut Stdout) -> Result<()> {
    check(&verb)?;
    // Read before connecting: the input may take longer than a cluster's patience.
    let input = Input::read(&verb)?;
    let mut config = Config::from(global.endpoints.as_str()).deadline(global.timeout);
    if let Some(zone) = &global.zone {
        config = config.zone(zone);
    }
    let token = global.session_token.as_deref().map(str::parse).transpose()?;
    let root = Client::connect(config).await?;
    if let Some(token) = token {
        root.see(&token)?;
    }
    let client = match &global.namespace {
        Some(prefix) => root.namespace(prefix.clone().into_encoded_bytes()),
        None => root.clone(),
    };
    let result = carry_out(&client, global, verb, input, output).await;
    if global.print_session_token {
        // In order, where both go to one place. If it fails, so will the last one, and that is told.
        drop(output.flush());
        tell(&format!("session token: {}", root.session_token()));
    }
    drop(client);
    root.close().await;
    result
}

async fn carry_out(
    client: &Client,
    global: &Global,
    verb: Verb,
    input: Input,
    output: &mut Stdout,
) -> Result<()> {
    match verb {
        Verb::Get(arguments) => read::get(client, global, &arguments.keys, &arguments.read, output).await,
        Verb::Mget(arguments) => read::mget(client, global, arguments, output).await,
        Verb::Scan(arguments) => read::scan(client, global, &arguments.keys, &arguments.read, output).await,
        Verb::Put(arguments) => write::put(client, arguments, input.value, output).await,
        Verb::Del(arguments) => write::delete(client, &arguments, output).await,
        Verb::Txn(arguments) => txn::txn(client, &arguments, input.txn, output).await,
        Verb::Watch(arguments) => watch::watch(client, &arguments, output).await,
        Verb::Lease(verb) => lease::lease(client, verb, output).await,
        Verb::Ttl(arguments) => lease::ttl(client, global, arguments, output).await,
        Verb::Lock(arguments) => lock::lock(client, &arguments, output).await,
        Verb::Elect(arguments) => elect::elect(client, arguments, output).await,
        Verb::Import(arguments) => import::import(client, &arguments, output, global.output).await,
        Verb::Export(arguments) => read::export(client, arguments, output).await,
        Verb::Status => status(client, output).await,
        Verb::Check(CheckVerb::Perf(arguments)) => check::perf(client, global, &arguments, output).await,
        Verb::Shard(ShardVerb::List) => Ok(output.shards(&client.status().await?.topology.shards)?),
        Verb::Shard(ShardVerb::Locate { key: name }) => {
            Ok(output.location(&client.locate(key(name)?).await?)?)
        }
        Verb::Shard(ShardVerb::MoveLeader { shard, to }) => {
            let leader = client.move_leader(ShardId(shard), to.into()).await?;
            Ok(output.moved(ShardId(shard), leader)?)
        }
        Verb::Node(NodeVerb::List) => Ok(output.nodes(&client.status().await?.topology.nodes)?),
        Verb::Completion { .. } | Verb::Version => Ok(()),
    }
}

fn completion(shell: clap_complete::Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "kvctl", &mut script);
    Ok(io::stdout().lock().write_all(&script)?)
}

/// A key as the command line has it: any bytes, on systems where arguments are bytes.
fn key(argument: OsString) -> Result<Key> {
    Ok(Key::new(argument.into_encoded_bytes())?)
}

/// Opens a file; the error names it.
fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| Failure::Input(format!("{}: {error}", path.display())))
}

/// Says something to people, beside the results.
fn tell(text: &str) {
    // If standard error is closed, nobody is there to be told.
    drop(writeln!(io::stderr(), "{text}"));
}

async fn status(client: &Client, output: &mut Stdout) -> Result<()> {
    let topology = client.status().await?.topology;
    let reports = topology.nodes.iter().map(|node| async {
        let said = client.status_of(node.id).await.ok().map(|status| (status.version, status.uptime));
        NodeReport { node: node.id, said }
    });
    let reports = join_all(reports).await;
    Ok(output.status(&topology, &reports)?)
}
