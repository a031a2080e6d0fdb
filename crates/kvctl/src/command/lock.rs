//! `lock`.
//!
//! The lease is the lock's own, but granted here: a wait that is interrupted leaves the queue at once, by the lease's end, and the
//! command is told the lease. When the lock is lost the command is killed, not asked to end: somebody else may hold the lock
//! by then.

use std::time::Duration;

use kvd_client::{Client, KeptLease, Lease, Lock};

use super::{
    Stdout,
    child::{self, Ended},
    interrupt::{Interrupts, code_of},
    tell,
};
use crate::{
    cli,
    failure::{Failure, Result},
    output::hex,
};

/// The shortest wait: so long it may take to find out that nobody holds the lock.
const WAIT_MIN: Duration = Duration::from_secs(1);

pub(super) async fn lock(client: &Client, arguments: &cli::Lock, output: &mut Stdout) -> Result<()> {
    let mut interrupts = Interrupts::new()?;
    let lease = client.grant_lease(arguments.ttl).await?;
    let kept = lease.keep_alive_forever();
    let acquired = tokio::select! {
        acquired = acquire(client, arguments, &kept) => acquired,
        signal = interrupts.next() => Err(Failure::Exit(code_of(signal.as_raw()))),
    };
    let result = match acquired {
        Ok(lock) => {
            let result = hold(&lock, &lease, arguments, &mut interrupts, output).await;
            if matches!(result, Err(Failure::Lost(_))) {
                // There is nothing to give back, and perhaps nobody to give it to: the end is not to wait for that.
                return result;
            }
            give_back(lock).await;
            result
        }
        Err(failure) => Err(failure),
    };
    if let Err(error) = lease.revoke().await {
        tell(&format!("kvctl: lease {} was not revoked and ends by itself: {error}", hex(lease.id())));
    }
    result
}

async fn acquire(client: &Client, arguments: &cli::Lock, kept: &KeptLease) -> Result<Lock> {
    let acquire = client.lock(&arguments.name, arguments.ttl).lease(kept);
    match arguments.wait {
        None => Ok(acquire.await?),
        Some(patience) => acquire.within(patience.max(WAIT_MIN)).await?.ok_or_else(|| {
            Failure::ConditionFailed(format!(
                "lock {} is held by others, and was not free in time",
                arguments.name
            ))
        }),
    }
}

async fn hold(
    lock: &Lock,
    lease: &Lease,
    arguments: &cli::Lock,
    interrupts: &mut Interrupts,
    output: &mut Stdout,
) -> Result<()> {
    if !arguments.command.is_empty() {
        return run(lock, lease, arguments, interrupts).await;
    }
    output.locked(lock.key(), lock.token(), lease.id())?;
    output.flush()?;
    tokio::select! {
        error = lock.lost() => Err(lost(arguments, &error)),
        _ = interrupts.next() => Ok(()),
    }
}

/// Runs the command as long as the lock is held.
async fn run(lock: &Lock, lease: &Lease, arguments: &cli::Lock, interrupts: &mut Interrupts) -> Result<()> {
    let mut command = child::command(&arguments.command)?;
    child::set(&mut command, "KVD_LOCK_KEY", lock.key());
    command.env("KVD_LOCK_TOKEN", lock.token().to_string()).env("KVD_LOCK_LEASE", hex(lease.id()));
    // It must not go on if kvctl doesn't.
    let mut child = child::start(command.kill_on_drop(true))?;
    let ended = tokio::select! {
        ended = child::wait(&mut child, interrupts) => Ok(ended?),
        error = lock.lost() => Err(error),
    };
    match ended {
        Ok(Ended { status, .. }) if status.success() => Ok(()),
        Ok(Ended { status, .. }) => Err(Failure::Exit(child::code(status))),
        Err(error) => {
            child::kill(&mut child).await?;
            Err(lost(arguments, &error))
        }
    }
}

fn lost(arguments: &cli::Lock, error: &kvd_client::Error) -> Failure {
    let killed = if arguments.command.is_empty() { "" } else { ", and the command was killed" };
    Failure::Lost(format!("lock {} was lost{killed}: {error}", arguments.name))
}

async fn give_back(lock: Lock) {
    if let Err(error) = lock.unlock().await {
        tell(&format!("kvctl: the lock was not given back and is free after its time to live: {error}"));
    }
}
