//! What each verb does.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, BufWriter, Read, Write},
    path::Path,
};

use bytes::Bytes;
use clap::CommandFactory as _;
use futures::{TryStreamExt as _, future::join_all};
use kvd_client::{Client, Conditional, Config, Key, Record, Revision, ShardId};
use kvd_types::limits::VALUE_BYTES_MAX;

use crate::{
    cli::{Cli, Del, Export, Get, Global, NodeVerb, Put, ShardVerb, Verb},
    failure::{Failure, Result},
    output::{NodeReport, Output},
};

mod import;
mod progress;

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

async fn with_cluster(global: &Global, verb: Verb, output: &mut Stdout) -> Result<()> {
    let config = Config::from(global.endpoints.as_str()).deadline(global.timeout);
    // Read before connecting: the value may take longer than a cluster's patience.
    let value = match &verb {
        Verb::Put(put) => Some(value_of(put)?),
        _ => None,
    };
    let client = Client::connect(config).await?;
    let result = match verb {
        Verb::Put(arguments) => put(&client, arguments, value.unwrap_or_default(), output).await,
        Verb::Get(arguments) => get(&client, arguments, output).await,
        Verb::Del(arguments) => delete(&client, arguments, output).await,
        Verb::Import(arguments) => import::import(&client, &arguments, output, global.output).await,
        Verb::Export(arguments) => export(&client, arguments, output).await,
        Verb::Status => status(&client, output).await,
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
    };
    client.close().await;
    result
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

fn value_of(put: &Put) -> Result<Bytes> {
    match (&put.value, &put.file) {
        (None, Some(path)) => value_from(open(path)?),
        (Some(value), _) if value != "-" => Ok(value.clone().into_encoded_bytes().into()),
        _ => value_from(io::stdin().lock()),
    }
}

fn value_from(input: impl Read) -> Result<Bytes> {
    let mut value = Vec::new();
    input.take(VALUE_BYTES_MAX as u64 + 1).read_to_end(&mut value)?;
    if value.len() > VALUE_BYTES_MAX {
        return Err(Failure::Input(format!(
            "the value is longer than {VALUE_BYTES_MAX} bytes, the most that it may have"
        )));
    }
    Ok(value.into())
}

/// Opens a file; the error names it.
fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| Failure::Input(format!("{}: {error}", path.display())))
}

async fn put(client: &Client, arguments: Put, value: Bytes, output: &mut Stdout) -> Result<()> {
    let key = key(arguments.key)?;
    let mut put = client.put(&key, value);
    if arguments.prev_kv {
        put = put.return_previous();
    }
    let result = match arguments.if_revision {
        Some(revision) => put.if_revision(Revision(revision)).await?,
        None if arguments.if_absent => put.if_absent().await?,
        None => Conditional::Done(put.await?),
    };
    output.put(&result, arguments.prev_kv)?;
    check_condition(&key, &result)
}

async fn delete(client: &Client, arguments: Del, output: &mut Stdout) -> Result<()> {
    let key = key(arguments.key)?;
    let mut delete = client.delete(&key);
    if arguments.prev_kv {
        delete = delete.return_previous();
    }
    let result = match arguments.if_revision {
        Some(revision) => delete.if_revision(Revision(revision)).await?,
        None => Conditional::Done(delete.await?),
    };
    output.deleted(&result, arguments.prev_kv)?;
    check_condition(&key, &result)?;
    match result.done() {
        Some(result) if !result.deleted() => Err(not_found(&key)),
        _ => Ok(()),
    }
}

fn check_condition<T>(key: &Key, result: &Conditional<T>) -> Result<()> {
    match result {
        Conditional::Done(_) => Ok(()),
        Conditional::Failed { current } => Err(Failure::ConditionFailed(match current {
            Some(Record { revision, .. }) => {
                format!("the condition failed: key {key} is at revision {revision}")
            }
            None => format!("the condition failed: key {key} does not exist"),
        })),
    }
}

fn not_found(key: &Key) -> Failure {
    Failure::NotFound(format!("key {key} does not exist"))
}

async fn get(client: &Client, arguments: Get, output: &mut Stdout) -> Result<()> {
    let keys = arguments.keys.into_iter().map(key).collect::<Result<Vec<_>>>()?;
    let found = client.batch_get(&keys).await?;
    let mut missing = Vec::new();
    for (key, record) in keys.iter().zip(found) {
        match record {
            Some(record) => output.found(key, &record, arguments.print_value_only)?,
            None => missing.push(key.to_string()),
        }
    }
    match missing.as_slice() {
        [] => Ok(()),
        [key] => Err(Failure::NotFound(format!("key {key} does not exist"))),
        keys => Err(Failure::NotFound(format!("keys that do not exist: {}", keys.join(", ")))),
    }
}

async fn export(client: &Client, arguments: Export, output: &mut Stdout) -> Result<()> {
    let prefix = arguments.prefix.into_encoded_bytes();
    let mut rows = client.scan_prefix(prefix).stream();
    while let Some((key, record)) = rows.try_next().await? {
        output.exported(&key, &record.value)?;
    }
    Ok(())
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
