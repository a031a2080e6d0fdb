//! Serving a request at the replica that leads its shard.

use std::ops::Bound;

use bytes::Bytes;
use kvd_machine::ShardReader;
use kvd_proto::operation::refusal;
use kvd_raft::Group;
use kvd_types::{
    Command, Error, ErrorKind, Outcome, Result, WriteOp,
    limits::{ANSWER_BYTES_MAX, SCAN_BYTES_MAX, SCAN_ROWS_MAX},
    operation::{Request, Response, ScanPage},
};
use tokio::time::Instant;

/// Serves a request whose keys all belong to the group's shard, by the deadline.
///
/// # Errors
/// Not leader or unavailable: it was not applied, try elsewhere or later. Outcome unknown: the deadline passed while a
/// write was under way.
pub(super) async fn serve(group: &Group, request: Request, deadline: Instant) -> Result<Response> {
    let is_write = request.is_write();
    match tokio::time::timeout_at(deadline, serve_unbounded(group, request)).await {
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

async fn serve_unbounded(group: &Group, request: Request) -> Result<Response> {
    match request {
        Request::Get(key) => {
            let found = read(group).await?.get(&key).map_err(|error| group.read_failed(&error))?;
            group.check_open()?;
            Ok(Response::Got(found.map(|record| (key, record))))
        }
        Request::BatchGet(keys) => {
            let reader = read(group).await?;
            let mut bytes = 0;
            let found = keys.into_iter().map(|key| {
                let found = reader.get(&key).map_err(|error| group.read_failed(&error))?;
                bytes += found.as_ref().map_or(0, |record| key.as_bytes().len() + record.value.len());
                // Here and not when all is there: a batch may ask for a gibibyte.
                if bytes > ANSWER_BYTES_MAX {
                    return Err(Error::invalid(format!(
                        "the batch's answer has more than {ANSWER_BYTES_MAX} bytes, the most that an answer has: ask for fewer keys"
                    )));
                }
                Ok(found.map(|record| (key, record)))
            });
            let found = found.collect::<Result<_>>()?;
            group.check_open()?;
            Ok(Response::GotBatch(found))
        }
        Request::Scan(page) => {
            let page = scan(read(group).await?, &page).map_err(|error| group.read_failed(&error))?;
            group.check_open()?;
            Ok(Response::Page { rows: page.rows, more: page.more })
        }
        Request::Write(write) => {
            let is_put = matches!(write.op, WriteOp::Put { .. });
            let outcome = propose(group, Command::Write(write)).await?;
            Ok(if is_put { Response::Put(outcome) } else { Response::Deleted(outcome) })
        }
        Request::OpenSession(_) => propose(group, Command::OpenSession).await.map(Response::Session),
        Request::CloseSession(_, session) => {
            propose(group, Command::CloseSession(session)).await.map(Response::Session)
        }
    }
}

/// Proposes a command; a refusal is the caller's error.
async fn propose(group: &Group, command: Command) -> Result<Outcome> {
    match group.propose(command).await? {
        Outcome::Refused(refused) => Err(refusal(&refused)),
        outcome => Ok(outcome),
    }
}

/// The shard's rows, once they show everything that was committed before.
async fn read(group: &Group) -> Result<&ShardReader> {
    group.read_barrier().await?;
    group.reader().ok_or_else(|| Error::internal("the meta group has no keys"))
}

fn scan(reader: &ShardReader, page: &ScanPage) -> Result<kvd_machine::Page, kvd_machine::Error> {
    let bound = |key: &'_ Bytes| if key.is_empty() { None } else { Some(key.clone()) };
    let (start, end) = (bound(&page.start), bound(&page.end));
    let limit_rows = if page.limit == 0 { SCAN_ROWS_MAX } else { page.limit };
    reader.scan(
        start.as_deref().map_or(Bound::Unbounded, Bound::Included),
        end.as_deref().map_or(Bound::Unbounded, Bound::Excluded),
        limit_rows,
        SCAN_BYTES_MAX,
    )
}
