//! `lease ...` and `ttl`.

use std::time::Duration;

use futures::TryStreamExt as _;
use kvd_client::{Client, Error, ErrorKind, Lease, LeaseId};
use tokio::time::sleep;

use super::{
    Stdout,
    interrupt::Interrupts,
    key,
    read::{get_at_level, not_found},
    tell,
};
use crate::{
    cli::{Global, LeaseVerb, Ttl},
    failure::{Failure, Result},
    output::{Left, hex},
};

/// Keep-alives are sent so often in each time to live.
const KEEP_ALIVES: u32 = 3;

pub(super) async fn lease(client: &Client, verb: LeaseVerb, output: &mut Stdout) -> Result<()> {
    match verb {
        LeaseVerb::Grant { ttl, id } => {
            let grant = client.grant_lease(ttl);
            let lease: Lease = match id {
                Some(id) => grant.id(id).await.map_err(|error| exists(error, id))?,
                None => grant.await?,
            };
            Ok(output.lease_granted(lease.id(), lease.ttl())?)
        }
        LeaseVerb::Revoke { id } => {
            if !client.revoke_lease(id).await? {
                return Err(no_lease(id));
            }
            Ok(output.lease_revoked(id)?)
        }
        LeaseVerb::KeepAlive { id, once: true } => {
            let ttl = keep_alive(client, id).await?;
            Ok(output.lease_kept(id, ttl)?)
        }
        LeaseVerb::KeepAlive { id, once: false } => keep_alive_on(client, id, output).await,
        LeaseVerb::TimeToLive { id, keys } => {
            let status = client.time_to_live(id).await?.ok_or_else(|| no_lease(id))?;
            let keys = if keys {
                Some(client.lease_keys(id).await.map_err(|error| named(error, id))?)
            } else {
                None
            };
            Ok(output.lease_status(&status, keys.as_deref())?)
        }
        LeaseVerb::List => {
            let mut leases = client.list_leases();
            output.leases_begin()?;
            while let Some(status) = leases.try_next().await? {
                output.lease_row(&status)?;
            }
            Ok(())
        }
    }
}

fn no_lease(id: LeaseId) -> Failure {
    Failure::NotFound(format!("there is no lease {}, or it has ended", hex(id)))
}

/// The failure of a grant: a lease that exists is named as it is on the command line.
fn exists(error: Error, id: LeaseId) -> Failure {
    if error.kind != ErrorKind::FailedPrecondition {
        return error.into();
    }
    Error::new(error.kind, format!("there is a lease {} already", hex(id))).into()
}

/// The failure of a request about a lease: one that is gone is named as it is on the command line.
pub(super) fn named(error: Error, id: LeaseId) -> Failure {
    if error.kind == ErrorKind::NotFound { no_lease(id) } else { error.into() }
}

async fn keep_alive(client: &Client, id: LeaseId) -> Result<Duration> {
    client.keep_lease_alive(id).await.map_err(|error| named(error, id))
}

/// Keeps it alive until it is gone or a signal comes. Failures that may pass are told, and do not end it.
async fn keep_alive_on(client: &Client, id: LeaseId, output: &mut Stdout) -> Result<()> {
    let mut interrupts = Interrupts::new()?;
    let mut pause = Duration::ZERO;
    loop {
        let kept = tokio::select! {
            kept = async { sleep(pause).await; client.keep_lease_alive(id).await } => kept,
            _ = interrupts.next() => return Ok(()),
        };
        match kept {
            Ok(ttl) => {
                output.lease_kept(id, ttl)?;
                output.flush()?;
                pause = ttl / KEEP_ALIVES;
            }
            Err(error) if error.is_retryable() || error.kind == ErrorKind::DeadlineExceeded => {
                tell(&format!("kvctl: the lease was not kept alive, trying on: {error}"));
                pause = Duration::from_millis(200);
            }
            Err(error) => return Err(named(error, id)),
        }
    }
}

pub(super) async fn ttl(client: &Client, global: &Global, arguments: Ttl, output: &mut Stdout) -> Result<()> {
    let key = key(arguments.key)?;
    let found = get_at_level(client.get(&key), global).with_served().await?;
    let Some(record) = &found.record else { return Err(not_found(&key)) };
    let left = match (record.lease, found.time_left()) {
        // A lease that has just ended takes its keys along: nothing is left.
        (Some(lease), _) => {
            let status = client.time_to_live(lease).await?;
            Left::Lease(lease, status.map_or(Duration::ZERO, |status| status.remaining))
        }
        (None, Some(left)) => Left::Own(left),
        (None, None) => Left::Forever,
    };
    Ok(output.time_left(&key, left)?)
}
