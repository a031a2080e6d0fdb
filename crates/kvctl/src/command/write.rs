//! `put` and `del`.

use std::io::{self, Read};

use bytes::Bytes;
use futures::TryStreamExt as _;
use kvd_client::{Client, Conditional, Error, Key, PutResult, Record, Revision};
use kvd_types::limits::VALUE_BYTES_MAX;

use super::{
    Stdout, key,
    lease::named,
    open,
    progress::Progress,
    read::not_found,
    select::{Alone, Selection},
};
use crate::{
    cli::{AckBy, Del, Put},
    failure::{Failure, Result},
};

/// The value of a put: from the command line, a file or standard input.
pub(super) fn value_of(put: &Put) -> Result<Bytes> {
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

pub(super) async fn put(client: &Client, arguments: Put, value: Bytes, output: &mut Stdout) -> Result<()> {
    let with_values = arguments.prev_kv;
    let key = key(arguments.key.clone())?;
    let result = send_put(client, &arguments, &key, value).await.map_err(|error| match arguments.lease {
        Some(lease) => named(error, lease),
        None => error.into(),
    })?;
    output.put(&result, with_values)?;
    check_condition(&key, &result)
}

async fn send_put(
    client: &Client,
    arguments: &Put,
    key: &Key,
    value: Bytes,
) -> Result<Conditional<PutResult>, Error> {
    let mut put = client.put(key, value);
    if arguments.prev_kv {
        put = put.return_previous();
    }
    if let Some(ttl) = arguments.ttl {
        put = put.ttl(ttl);
    }
    if let Some(lease) = arguments.lease {
        put = put.lease(lease);
    }
    if arguments.ack == AckBy::All {
        put = put.ack_all();
    }
    Ok(match arguments.if_revision {
        Some(revision) => put.if_revision(Revision(revision)).await?,
        None if arguments.if_absent => put.if_absent().await?,
        None => Conditional::Done(put.await?),
    })
}

pub(super) async fn delete(client: &Client, arguments: &Del, output: &mut Stdout) -> Result<()> {
    match Selection::new(&arguments.keys, Alone::Key)? {
        Selection::Key(key) => delete_one(client, &key, arguments, output).await,
        range => delete_range(client, &range, output).await,
    }
}

async fn delete_one(client: &Client, key: &Key, arguments: &Del, output: &mut Stdout) -> Result<()> {
    let mut delete = client.delete(key);
    if arguments.prev_kv {
        delete = delete.return_previous();
    }
    let result = match arguments.if_revision {
        Some(revision) => delete.if_revision(Revision(revision)).await?,
        None => Conditional::Done(delete.await?),
    };
    output.deleted(&result, arguments.prev_kv)?;
    check_condition(key, &result)?;
    match result.done() {
        Some(result) if !result.deleted() => Err(not_found(key)),
        _ => Ok(()),
    }
}

async fn delete_range(client: &Client, range: &Selection, output: &mut Stdout) -> Result<()> {
    let mut steps = std::pin::pin!(range.delete(client).stream());
    let mut progress = Progress::begin("keys", None);
    let ended = loop {
        match steps.try_next().await {
            Ok(Some(deleted)) => progress.reached(deleted),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    progress.end_quietly();
    let deleted = match &ended {
        Ok(()) => progress.done,
        Err(error) => error.deleted,
    };
    output.range_deleted(deleted, ended.is_ok())?;
    ended.map_err(|error| {
        let cause = Failure::from(error.error);
        let why = cause.message().unwrap_or_default();
        Failure::Stopped {
            message: format!(
                "{why}\n  {deleted} keys are gone, perhaps more; others may be left. The same command goes on."
            ),
            cause: Box::new(cause),
        }
    })
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
