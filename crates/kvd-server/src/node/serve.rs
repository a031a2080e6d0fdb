//! Serving a request at a replica of its shard.

use futures::FutureExt as _;
use kvd_machine::{AsOf, ShardReader};
use kvd_proto::operation::refusal;
use kvd_raft::Group;
use kvd_types::{
    Command, Error, ErrorKind, Key, LeaseCommand, LeaseId, LeaseOutcome, Outcome, Read, Record, Result,
    Revision, Write, WriteOp,
    limits::{ANSWER_BYTES_MAX, SCAN_ROWS_MAX},
    operation::{Ack, LeaseInfo, Request, Response, ScanPage, WriteOptions},
    outcome::Refusal,
};
use tokio::time::Instant;

use super::Node;
use crate::store::BoxFuture;

/// How long what a lease's home has said may count at the shard that it was said to, by its age.
const ATTACH_VALID_MS: u64 = 10_000;
/// Leases that one write may have attached before it is given up: more than a transaction can name.
const ATTACHED_MAX: usize = 130;

impl Node {
    /// Serves a request at this node's replica of its shard, by the deadline: the one that leads, unless any may serve it.
    ///
    /// # Errors
    /// Not leader or unavailable: it was not applied, try elsewhere or later. Outcome unknown: the deadline passed while a
    /// write was under way.
    pub(super) fn serve_at<'a>(
        &'a self,
        group: &'a Group,
        request: Request,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<Response>> {
        // Boxed, because serving one may take asking another shard, by way of here.
        async move {
            let is_write = request.is_write();
            match tokio::time::timeout_at(deadline, self.serve_unbounded(group, request, deadline)).await {
                Ok(result) => result,
                Err(_elapsed) if is_write => Err(Error::unknown(format!(
                    "the deadline passed while the write was under way in shard {}; it may still be applied",
                    group.id()
                ))),
                Err(_elapsed) => Err(Error::new(
                    ErrorKind::DeadlineExceeded,
                    format!("the deadline passed before shard {} could answer", group.id()),
                )),
            }
        }
        .boxed()
    }

    pub(super) async fn serve_unbounded(
        &self,
        group: &Group,
        request: Request,
        deadline: Instant,
    ) -> Result<Response> {
        let reader = || group.reader().ok_or_else(|| Error::internal("the meta group has no keys"));
        match request {
            Request::Get(key, read) => {
                self.make_recent(group, &read, deadline).await?;
                get(group, key, read).await.map(Response::Got)
            }
            Request::BatchGet(keys, read) => {
                self.make_recent(group, &read, deadline).await?;
                batch_get(group, keys, read).await.map(Response::GotBatch)
            }
            Request::Scan(page) => {
                self.make_recent(group, &page.read, deadline).await?;
                scan(group, page).await
            }
            Request::Changes(page) => {
                self.changes(group, page, deadline).boxed().await.map(Response::Changes)
            }
            Request::ReadPoint(point) => {
                let found = group.read_point(point.at, point.needs_after, point.is_vouched_for).await?;
                Ok(Response::ReadPoint { log_index: found.applied, revision: found.last_revision })
            }
            Request::GetLease(lease) => {
                group.read_barrier().await?;
                let found = reader()?.lease(lease).map_err(|error| group.read_failed(&error))?;
                group.check_open()?;
                Ok(Response::LeaseInfo(found.map(lease_info)))
            }
            Request::ListLeases { from, limit, .. } => {
                group.read_barrier().await?;
                let limit = limit.clamp(1, SCAN_ROWS_MAX);
                let found = reader()?.leases(from, limit).map_err(|error| group.read_failed(&error))?;
                group.check_open()?;
                Ok(Response::Leases(found.into_iter().map(lease_info).collect()))
            }
            Request::LeaseKeys { lease, after, limit, .. } => {
                group.read_barrier().await?;
                let limit = limit.clamp(1, SCAN_ROWS_MAX);
                let found = reader()?.lease_keys(lease, after.as_ref(), limit);
                let keys = found.map_err(|error| group.read_failed(&error))?;
                group.check_open()?;
                Ok(Response::LeaseKeys(keys))
            }
            Request::Write(write, options) => self.write(group, write, options, deadline).await,
            Request::KeepLeaseAlive(lease) => {
                propose(group, Command::Lease(LeaseCommand::KeepAlive(lease))).await.map(Response::LeaseKept)
            }
            Request::Tell(_, lease, what) => {
                match propose(group, Command::Lease(what.command(lease))).await? {
                    Outcome::Lease(LeaseOutcome::Gone) => Ok(Response::Told { lives: false, more: false }),
                    Outcome::Lease(LeaseOutcome::Detached { more, .. }) => {
                        Ok(Response::Told { lives: false, more })
                    }
                    _ => Ok(Response::Told { lives: true, more: false }),
                }
            }
            Request::OpenSession(_) => propose(group, Command::OpenSession).await.map(Response::Session),
            Request::CloseSession(_, session) => {
                propose(group, Command::CloseSession(session)).await.map(Response::Session)
            }
            Request::Snapshot(_) => Err(Error::internal("a snapshot is of no one shard")),
        }
    }

    async fn write(
        &self,
        group: &Group,
        write: Write,
        options: WriteOptions,
        deadline: Instant,
    ) -> Result<Response> {
        let answer = match &write.op {
            WriteOp::Put { .. } => Response::Put,
            WriteOp::Delete { .. } => Response::Deleted,
            WriteOp::DeleteRange { .. } => Response::RangeDeleted,
            WriteOp::Txn(_) => Response::Txn,
            WriteOp::GrantLease { .. } | WriteOp::RevokeLease(_) => Response::Lease,
        };
        let attaches = write.op.leases().next().is_some();
        let outcome = if attaches {
            self.write_attaching(group, write, options.after, deadline).boxed().await?
        } else {
            let outcome = group.propose_after(Command::Write(write), options.after).await?;
            unless_refused(outcome)?
        };
        if options.ack == Ack::All {
            self.wait_for_all_voters(group, deadline).boxed().await?;
        }
        Ok(answer(outcome))
    }

    /// A write that attaches keys to leases of which the shard may not have been told.
    async fn write_attaching(
        &self,
        group: &Group,
        write: Write,
        after: Revision,
        deadline: Instant,
    ) -> Result<Outcome> {
        for _ in 0..ATTACHED_MAX {
            match group.propose_after(Command::Write(write.clone()), after).await? {
                Outcome::Refused(Refusal::LeaseNotAttached(lease)) => {
                    self.attach(group, lease, deadline).await?;
                }
                outcome => return unless_refused(outcome),
            }
        }
        Err(refusal(&Refusal::TooManyLeases))
    }

    /// Has the home of a lease expect keys at this shard, and then lets the shard attach them.
    async fn attach(&self, group: &Group, lease: LeaseId, deadline: Instant) -> Result<()> {
        let age_ms = group.reader().map_or(0, |reader| reader.stats().age_ms);
        let not_after_ms = age_ms.saturating_add(ATTACH_VALID_MS);
        if !self.expect_at_home(group.id(), lease, deadline).await? {
            return Err(refusal(&Refusal::LeaseEnded(lease)));
        }
        propose(group, Command::Lease(LeaseCommand::Attach { lease, not_after_ms })).await.map(drop)
    }

    async fn wait_for_all_voters(&self, group: &Group, deadline: Instant) -> Result<()> {
        let missing = |why: String| {
            Error::unknown(format!(
                "the write is on disk at a majority of shard {}, but not yet known to be at all of its voters: {why}; \
                 retry it in the same session to wait on",
                group.id()
            ))
        };
        match tokio::time::timeout_at(deadline, group.wait_for_all_voters()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(missing(error.message)),
            Err(_elapsed) => Err(missing("one is away, or slow".to_owned())),
        }
    }
}

/// Proposes a command; a refusal is the caller's error.
async fn propose(group: &Group, command: Command) -> Result<Outcome> {
    unless_refused(group.propose(command).await?)
}

fn unless_refused(outcome: Outcome) -> Result<Outcome> {
    match outcome {
        Outcome::Refused(refused) => Err(refusal(&refused)),
        outcome => Ok(outcome),
    }
}

/// A key's version, of a replica that is as recent as the read asks for.
async fn get(group: &Group, key: Key, read: Read) -> Result<Option<(Key, Record)>> {
    let (found, key) = group.read(1, move |reader| Ok((version(reader, &key, read.at)?, key))).await?;
    known(read.at, found).map(|found| found.map(|record| (key, record)))
}

fn version(
    reader: &ShardReader,
    key: &Key,
    at: Option<Revision>,
) -> Result<AsOf<Option<Record>>, kvd_machine::Error> {
    match at {
        None => reader.get(key).map(AsOf::Known),
        Some(at) => reader.get_as_of(key, at),
    }
}

async fn batch_get(group: &Group, keys: Vec<Key>, read: Read) -> Result<Vec<Option<(Key, Record)>>> {
    let keys_count = keys.len();
    let read_all = move |reader: &ShardReader| {
        let mut bytes = 0;
        let mut all = Vec::with_capacity(keys.len());
        for key in keys {
            let found = match known(read.at, version(reader, &key, read.at)?) {
                Ok(found) => found,
                Err(error) => return Ok(Err(error)),
            };
            bytes += found.as_ref().map_or(0, |record| key.as_bytes().len() + record.value.len());
            // Here and not when all is there: a batch may ask for a gibibyte.
            if bytes > ANSWER_BYTES_MAX {
                return Ok(Err(Error::invalid(format!(
                    "the batch's answer has more than {ANSWER_BYTES_MAX} bytes, the most that an answer has: ask for fewer keys"
                ))));
            }
            all.push(found.map(|record| (key, record)));
        }
        Ok(Ok(all))
    };
    group.read(keys_count, read_all).await?
}

async fn scan(group: &Group, page: ScanPage) -> Result<Response> {
    let at = page.read.at;
    let found = group.read(page.limit, move |reader| reader.page(&page)).await?;
    known(at, found).map(Response::Page)
}

/// What was read, unless it may have been forgotten.
pub(super) fn known<T>(at: Option<Revision>, found: AsOf<T>) -> Result<T> {
    match found {
        AsOf::Known(found) => Ok(found),
        AsOf::Compacted { oldest } => Err(Error::compacted(at.unwrap_or_default(), oldest)),
    }
}

fn lease_info(view: kvd_machine::LeaseView) -> LeaseInfo {
    let kvd_machine::LeaseView { id, ttl_ms, remaining_ms, shards } = view;
    LeaseInfo { id, ttl_ms, remaining_ms, shards }
}
