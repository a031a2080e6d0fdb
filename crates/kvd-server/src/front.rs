//! What all transports do with a request: check it, time it, count it, and give its answer one form.

use std::{sync::Arc, time::Duration};

use kvd_proto::operation::refusal;
use kvd_types::{
    Error, Outcome, Record, Result,
    limits::{ANSWER_BYTES_MAX, REQUEST_DEADLINE_DEFAULT, REQUEST_DEADLINE_MAX},
    operation::{Reply, Request, Response},
};
use tokio::time::Instant;

use crate::{
    metrics::{SharedMetrics, code_of},
    store::Store,
};

/// The way from a transport to the store. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Front {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) metrics: SharedMetrics,
    pub(crate) value_bytes_max: usize,
}

impl Front {
    /// Serves what arrived, be it a request or the reason why it isn't one.
    pub(crate) async fn execute(
        &self,
        method: &'static str,
        transport: &'static str,
        request: Result<Request>,
        deadline: Instant,
    ) -> Result<Reply> {
        let started = Instant::now();
        let answer = match request.and_then(|request| checked(request, self.value_bytes_max)) {
            Ok(request) => self.store.execute(request, deadline).await.and_then(without_refusal),
            Err(error) => Err(error),
        };
        let code = answer.as_ref().map_or_else(code_of, |_| "ok");
        self.metrics.answered(method, transport, code, started.elapsed());
        answer
    }
}

/// A request that is a client's own.
fn checked(request: Request, value_bytes_max: usize) -> Result<Request> {
    if request.is_between_nodes() {
        return Err(Error::invalid("this is what nodes ask of each other; clients may not"));
    }
    request.check(value_bytes_max)?;
    Ok(request)
}

/// A refusal is an outcome to a replica, and an error to a client.
fn without_refusal(reply: Reply) -> Result<Reply> {
    match &reply.response {
        Response::Put(Outcome::Refused(why))
        | Response::Deleted(Outcome::Refused(why))
        | Response::RangeDeleted(Outcome::Refused(why))
        | Response::Txn(Outcome::Refused(why))
        | Response::Lease(Outcome::Refused(why))
        | Response::LeaseKept(Outcome::Refused(why))
        | Response::Session(Outcome::Refused(why)) => Err(refusal(why)),
        Response::GotBatch(found) => {
            let bytes: usize =
                found.iter().flatten().map(|(key, record)| key.as_bytes().len() + record.value.len()).sum();
            if bytes > ANSWER_BYTES_MAX {
                return Err(Error::invalid(format!(
                    "the batch's answer has {bytes} bytes; an answer has at most {ANSWER_BYTES_MAX} bytes: ask for fewer keys"
                )));
            }
            Ok(reply)
        }
        Response::Changes(changes) => {
            let value = |record: &Option<Record>| record.as_ref().map_or(0, |record| record.value.len());
            let bytes = changes.events.iter().map(|event| value(&event.record) + value(&event.previous));
            if bytes.sum::<usize>() > ANSWER_BYTES_MAX {
                return Err(Error::invalid(format!(
                    "the changes of one revision have more than {ANSWER_BYTES_MAX} bytes, the most that an answer has: \
                     leave out what was replaced, or watch"
                )));
            }
            Ok(reply)
        }
        _ => Ok(reply),
    }
}

/// The moment by which a request must be answered that named this time, or none.
pub(crate) fn deadline_after(named: Option<Duration>) -> Instant {
    Instant::now() + capped(named)
}

fn capped(named: Option<Duration>) -> Duration {
    named.unwrap_or(REQUEST_DEADLINE_DEFAULT).min(REQUEST_DEADLINE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_named_defaulted_or_capped() {
        assert_eq!(capped(None), REQUEST_DEADLINE_DEFAULT);
        assert_eq!(capped(Some(Duration::from_millis(7))), Duration::from_millis(7));
        assert_eq!(capped(Some(Duration::from_secs(3600))), REQUEST_DEADLINE_MAX);
    }
}
