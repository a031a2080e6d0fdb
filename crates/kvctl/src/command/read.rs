//! `get`, `mget`, `scan` and `export`.
//!
//! A single key is read by itself, with the consistency asked for. Ranges are scans, which are always as of one moment and miss
//! nothing: what is asked for less than that only says who may serve it.

use futures::TryStreamExt as _;
use kvd_client::{BatchGet, Client, Consistency, Get, Key, Record, Rows, Scan, Token};

use super::{
    Stdout, key,
    select::{Alone, Selection},
    tell,
};
use crate::{
    cli::{Export, Global, Level, Mget, Order, ReadArgs, Selector},
    failure::{Failure, Result},
    output::Shown,
};

/// Sets how a get or batch-get is to be served.
macro_rules! at_level {
    ($name:ident, $request:ty) => {
        pub(super) fn $name(mut request: $request, global: &Global) -> $request {
            request = match global.consistency {
                Level::Linearizable => request.linearizable(),
                Level::Lease => request.consistency(Consistency::Lease),
                Level::Session => request.session(),
                Level::Bounded(bound) => request.bounded_staleness(bound),
                Level::Local => request.local(),
            };
            if global.any_replica { request.from_any_replica() } else { request }
        }
    };
}

at_level!(get_at_level, Get);
at_level!(batch_at_level, BatchGet);

fn scan_at_level(scan: Scan, global: &Global) -> Scan {
    let leader_only = matches!(global.consistency, Level::Linearizable | Level::Lease) && !global.any_replica;
    if leader_only { scan } else { scan.from_any_replica() }
}

const fn shown(arguments: &ReadArgs) -> Shown {
    match (arguments.keys_only, arguments.print_value_only) {
        (true, _) => Shown::Key,
        (_, true) => Shown::Value,
        _ => Shown::Both,
    }
}

pub(super) fn not_found(key: &Key) -> Failure {
    Failure::NotFound(format!("key {key} does not exist"))
}

pub(super) async fn get(
    client: &Client,
    global: &Global,
    keys: &Selector,
    arguments: &ReadArgs,
    output: &mut Stdout,
) -> Result<()> {
    match Selection::new(keys, Alone::Key)? {
        Selection::Key(key) => get_one(client, global, &key, arguments, output).await,
        range => get_range(client, global, &range, arguments, output).await,
    }
}

pub(super) async fn scan(
    client: &Client,
    global: &Global,
    keys: &Selector,
    arguments: &ReadArgs,
    output: &mut Stdout,
) -> Result<()> {
    get_range(client, global, &Selection::new(keys, Alone::Start)?, arguments, output).await
}

async fn get_one(
    client: &Client,
    global: &Global,
    key: &Key,
    arguments: &ReadArgs,
    output: &mut Stdout,
) -> Result<()> {
    if arguments.resume.is_some() {
        return Err(Failure::Input(
            "there is nothing to resume in reading one key: it takes no --resume".into(),
        ));
    }
    let mut get = get_at_level(client.get(key), global);
    if let Some(revision) = arguments.at() {
        get = get.at(revision);
    }
    let found = get.await?.filter(|record| arguments.filter().admits(record));
    if arguments.count_only {
        return Ok(output.count(u64::from(found.is_some()))?);
    }
    let record = found.ok_or_else(|| not_found(key))?;
    Ok(output.found(key, &record, shown(arguments))?)
}

async fn get_range(
    client: &Client,
    global: &Global,
    range: &Selection,
    arguments: &ReadArgs,
    output: &mut Stdout,
) -> Result<()> {
    let mut scan = scan_at_level(range.scan(client), global).filter(arguments.filter());
    if let Some(revision) = arguments.at() {
        scan = scan.at(revision);
    }
    if arguments.order == Order::Descend {
        scan = scan.descending();
    }
    if arguments.keys_only {
        scan = scan.keys_only();
    }
    if let Some(token) = &arguments.resume {
        scan = scan.resume(token.parse()?);
    }
    if arguments.count_only {
        return Ok(output.count(scan.count().await?)?);
    }
    let mut rows = match arguments.limit {
        0 => scan,
        // One more than is printed, to know whether there are more.
        limit => scan.limit(limit.saturating_add(1)),
    }
    .stream();
    let printed = print(&mut rows, arguments, output).await;
    match &printed {
        Ok(None) => {}
        Ok(Some(token)) => {
            output.flush()?;
            tell(&format!("there are more keys; to go on: --resume {token}"));
        }
        Err(Failure::Request(error)) if error.is_retryable() => {
            if let Some(token) = rows.token() {
                output.flush()?;
                tell(&format!("it stopped on the way; to go on after the last key above: --resume {token}"));
            }
        }
        Err(_) => {}
    }
    printed.map(|_| ())
}

/// Prints the rows as they come; gives the token from after them if the limit stopped it.
async fn print(rows: &mut Rows, arguments: &ReadArgs, output: &mut Stdout) -> Result<Option<Token>> {
    let shown = shown(arguments);
    let mut printed = 0;
    loop {
        let token = if printed == arguments.limit { rows.token() } else { None };
        let Some((key, record)) = rows.try_next().await? else { return Ok(None) };
        if printed == arguments.limit && arguments.limit > 0 {
            return Ok(token);
        }
        output.found(&key, &record, shown)?;
        printed += 1;
    }
}

pub(super) async fn mget(
    client: &Client,
    global: &Global,
    arguments: Mget,
    output: &mut Stdout,
) -> Result<()> {
    let keys = arguments.keys.into_iter().map(key).collect::<Result<Vec<_>>>()?;
    let mut batch = batch_at_level(client.batch_get(&keys), global);
    if let Some(revision) = arguments.rev.filter(|&revision| revision > 0) {
        batch = batch.at(revision.into());
    }
    let found: Vec<Option<Record>> = batch.await?;
    let shown = if arguments.print_value_only { Shown::Value } else { Shown::Both };
    let mut missing = Vec::new();
    for (key, record) in keys.iter().zip(found) {
        match record {
            Some(record) => output.found(key, &record, shown)?,
            None => missing.push(key),
        }
    }
    match missing.as_slice() {
        [] => Ok(()),
        [key] => Err(not_found(key)),
        keys => {
            let names: Vec<String> = keys.iter().map(ToString::to_string).collect();
            Err(Failure::NotFound(format!("keys that do not exist: {}", names.join(", "))))
        }
    }
}

pub(super) async fn export(client: &Client, arguments: Export, output: &mut Stdout) -> Result<()> {
    let prefix = arguments.prefix.into_encoded_bytes();
    let mut rows = client.scan_prefix(prefix).stream();
    while let Some((key, record)) = rows.try_next().await? {
        output.exported(&key, &record.value)?;
    }
    Ok(())
}
