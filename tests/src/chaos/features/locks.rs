//! Contenders for one lock, who increase a register while they hold it, and some try to after.
//!
//! An increase is a transaction on the condition that the fence holds and that the register is as it was read: so each one that
//! is made adds exactly one, and one that is made with an old fence was let through by the fence. A holder may give the lock
//! back, or forget it, and its lease runs out.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use kvd_client::{Client, Compare, Error, ErrorKind, Lock, Record, Result, Revision, TxnOp, TxnResult};
use kvd_testkit::{
    check::locks::{self, Fenced, Hold},
    history::Moment,
};
use rand::{RngExt as _, rngs::StdRng};
use tokio::time::sleep;

use super::{Common, Worker};

/// What is counted.
pub(super) const FENCED: &str = "fenced writes";
pub(super) const OLD_FENCES: &str = "writes tried with an old fence";
const HELD: &str = "locks held";
pub(super) const REFUSED: &str = "fenced writes that were refused";

const NAME: &str = "chaos";
/// In the lock's shard.
const REGISTER: &str = "{kvd-lock:chaos}register";
const TTL: Duration = Duration::from_secs(3);
/// How long a contender waits for the lock.
const PATIENCE: Duration = Duration::from_secs(10);
const WRITES_MAX: u32 = 4;
/// Between two writes of a holder, at most.
const HOLDS_MAX: Duration = Duration::from_millis(300);
/// Fences that a contender keeps beyond their time.
const OLD_FENCES_MAX: usize = 4;
const LAST_READ_DEADLINE: Duration = Duration::from_secs(30);

/// What is known of the lock and of its register.
#[derive(Debug, Default)]
pub(super) struct Register(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    lock: locks::Lock,
    /// Increases of which nobody knows whether they were made.
    unknown: u64,
    /// What was found wrong on the spot.
    wrong: Vec<String>,
    /// What is there in the end: once it is read, the version, if there is one.
    left: Option<Option<Record>>,
}

/// Somebody who wants the lock.
pub(super) struct Contender {
    common: Arc<Common>,
    register: Arc<Register>,
    client: Client,
    /// Tokens and fences of locks that were held once.
    old: Vec<(Revision, Compare)>,
}

impl Contender {
    pub(super) fn new(common: &Arc<Common>, register: &Arc<Register>, client: Client) -> Self {
        Self { common: Arc::clone(common), register: Arc::clone(register), client, old: Vec::new() }
    }

    /// Increases the register by one, if the fence holds and nobody else does meanwhile.
    async fn increase(&self, token: Revision, fence: Compare) -> Result<()> {
        let before = self.client.get(REGISTER).await?;
        let revision = before.as_ref().map_or(Revision::ZERO, |record| record.revision);
        let (_, count) = before.as_ref().map_or((Revision::ZERO, 0), written);
        let put = TxnOp::put(REGISTER, format!("{} {}", token.get(), count + 1)).return_previous();
        let unchanged = Compare::revision(REGISTER).equal(revision);
        let outcome = match self.client.txn().when(fence).when(unchanged).then(put).await {
            Ok(outcome) => outcome,
            Err(error) => {
                self.register.0.lock().unwrap().unknown += u64::from(error.outcome_unknown());
                return Err(error);
            }
        };
        if !outcome.succeeded {
            self.common.count(REFUSED);
            return Ok(());
        }
        self.common.count(FENCED);
        let Some(TxnResult::Put { previous, .. }) = outcome.results.first() else {
            self.register.wrong(format!("a fenced write gives {:?}", outcome.results));
            return Ok(());
        };
        if *previous != before {
            self.register.wrong(format!("the register was to be {before:?} still, and was {previous:?}"));
        }
        let previous = previous.as_ref().map(|record| (record.revision, written(record).0));
        let fenced = Fenced { token, revision: outcome.revision, previous };
        self.register.0.lock().unwrap().lock.writes.push(fenced);
        Ok(())
    }

    /// Takes note if the lock is held for sure.
    fn look(&self, lock: &Lock, from: Moment) {
        // The moment first: this task may be held up before it looks, and then it was sure all the more.
        let until = self.common.moment();
        if lock.is_held() {
            let hold = Hold { token: lock.token(), from, until };
            self.register.0.lock().unwrap().lock.holds.push(hold);
        }
    }
}

impl Worker for Contender {
    const PAUSE_MAX: Duration = Duration::from_millis(300);

    async fn turn(&mut self, random: &mut StdRng) -> Result<()> {
        if !self.old.is_empty() && random.random_bool(0.3) {
            let (token, fence) = self.old.swap_remove(random.random_range(0..self.old.len()));
            self.increase(token, fence).await?;
            self.common.count(OLD_FENCES);
            return Ok(());
        }
        let lock = match self.client.lock(NAME, TTL).within(PATIENCE).await {
            Ok(Some(lock)) => lock,
            Ok(None) => return Ok(()),
            // While it waited, its lease has ended.
            Err(Error { kind: ErrorKind::NotFound | ErrorKind::FailedPrecondition, .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        self.common.count(HELD);
        let from = self.common.moment();
        if self.old.len() < OLD_FENCES_MAX {
            self.old.push((lock.token(), lock.fence()));
        }
        for _ in 0..random.random_range(1..=WRITES_MAX) {
            self.increase(lock.token(), lock.fence()).await?;
            sleep(HOLDS_MAX.mul_f64(random.random_range(0.0..=1.0))).await;
            self.look(&lock, from);
        }
        if random.random_bool(0.7) {
            lock.unlock().await?;
        }
        Ok(())
    }
}

impl Register {
    fn wrong(&self, what: String) {
        self.0.lock().unwrap().wrong.push(what);
    }

    /// Reads what is there in the end.
    pub(super) async fn finish(&self, client: &Client) -> Result<()> {
        let left = client.get(REGISTER).deadline(LAST_READ_DEADLINE).await?;
        self.0.lock().unwrap().left = Some(left);
        Ok(())
    }

    /// What can't have been right.
    pub(super) fn judge(&self) -> Vec<String> {
        let State { lock, unknown, wrong, left } = &*self.0.lock().unwrap();
        let mut found = wrong.clone();
        found.extend(locks::check(&BTreeMap::from([(NAME.to_owned(), lock.clone())])));
        if let Some(left) = left {
            let (token, count) = left.as_ref().map_or((Revision::ZERO, 0), written);
            let acknowledged = u64::try_from(lock.writes.len()).unwrap_or(u64::MAX);
            if !(acknowledged..=acknowledged.saturating_add(*unknown)).contains(&count) {
                found.push(format!(
                    "lock {NAME}: {acknowledged} increases were acknowledged and {unknown} are unknown, and there are {count}"
                ));
            }
            if let Some(later) = lock.writes.iter().find(|write| write.token > token) {
                found.push(format!(
                    "lock {NAME}: in the end its register is holder {token}'s, after {later:?}"
                ));
            }
        }
        found
    }
}

/// The token and the count in a register.
fn written(record: &Record) -> (Revision, u64) {
    let text = String::from_utf8_lossy(&record.value);
    let parsed =
        text.split_once(' ').and_then(|(token, count)| Some((token.parse().ok()?, count.parse().ok()?)));
    parsed.map_or((Revision(u64::MAX), 0), |(token, count)| (Revision(token), count))
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let State { lock, unknown, left, .. } = &*self.0.lock().unwrap();
        writeln!(f, "---- lock {NAME}: {unknown} increases of unknown outcome, in the end {left:?}")?;
        lock.writes.iter().try_for_each(|write| writeln!(f, "{write:?}"))?;
        lock.holds.iter().try_for_each(|hold| writeln!(f, "{hold:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found of two increases, by holders 3 and 5, with this left in the register.
    fn found(left: &'static str, unknown: u64) -> usize {
        let first = Fenced { token: Revision(3), revision: Revision(4), previous: None };
        let previous = Some((Revision(4), Revision(3)));
        let second = Fenced { token: Revision(5), revision: Revision(6), previous };
        let lock = locks::Lock { writes: vec![first, second], holds: Vec::new() };
        let left = Some(Some(Record { value: left.into(), ..Record::default() }));
        Register(Mutex::new(State { lock, unknown, wrong: Vec::new(), left })).judge().len()
    }

    #[test]
    fn increases_add_up_and_the_last_holder_stays() {
        assert_eq!(found("5 2", 0), 0);
        assert_eq!(found("5 3", 1), 0);
        assert_eq!(found("5 1", 0), 1);
        assert_eq!(found("5 3", 0), 1);
        assert_eq!(found("3 3", 1), 1);
    }
}
