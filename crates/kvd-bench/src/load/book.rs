//! What the clients of a load have counted.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;
use parking_lot::Mutex;

use super::Kind;
use crate::target::{Failure, OVERLOADED};

/// The longest time that is told apart, in microseconds. Longer ones count as this.
const TIME_MICROS_MAX: u64 = 120_000_000;
/// Pages of a book: enough that clients seldom wait for each other. A histogram for each of thousands of clients would take
/// more memory, and more of the processor's caches, than what is measured.
const PAGES: usize = 16;

/// The times of the requests of one kind that were answered, in microseconds.
#[derive(Clone, Debug)]
pub(crate) struct Times(pub(crate) Histogram<u64>);

impl Times {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self(Histogram::new_with_max(TIME_MICROS_MAX, 3)?))
    }

    pub(crate) fn add(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_micros()).unwrap_or(TIME_MICROS_MAX));
    }
}

/// What was counted.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) times: BTreeMap<Kind, Times>,
    /// Rows or keys that requests of more than one were answered with.
    pub(crate) rows: u64,
    /// How many requests failed, by kind of failure; not those that the target had too much to do for.
    pub(crate) errors: BTreeMap<Failure, u64>,
    /// How many the target has refused because it had too much to do.
    pub(crate) overloaded: u64,
}

impl Counts {
    fn merge(&mut self, other: Self) -> anyhow::Result<()> {
        for (kind, times) in other.times {
            match self.times.get_mut(&kind) {
                Some(sum) => sum.0.add(times.0)?,
                None => drop(self.times.insert(kind, times)),
            }
        }
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
        self.rows += other.rows;
        self.overloaded += other.overloaded;
        Ok(())
    }
}

/// Where clients write down what they count.
pub(crate) struct Book {
    pages: Vec<Mutex<Counts>>,
}

impl Book {
    /// A book for requests of these kinds.
    pub(crate) fn new(kinds: &[Kind]) -> anyhow::Result<Self> {
        let page = || {
            let times = kinds.iter().map(|&kind| Ok((kind, Times::new()?))).collect::<anyhow::Result<_>>()?;
            Ok(Mutex::new(Counts { times, ..Counts::default() }))
        };
        Ok(Self { pages: (0..PAGES).map(|_| page()).collect::<anyhow::Result<_>>()? })
    }

    /// Writes down a request of the client with this number, and how many rows it was answered with.
    pub(crate) fn note(&self, client: usize, kind: Kind, time: Duration, outcome: Result<u64, Failure>) {
        let Some(page) = self.pages.get(client % PAGES) else { return };
        let mut counts = page.lock();
        match outcome {
            Ok(rows) => {
                counts.rows += rows;
                if let Some(times) = counts.times.get_mut(&kind) {
                    times.add(time);
                }
            }
            Err(failure) if failure == OVERLOADED => counts.overloaded += 1,
            Err(failure) => *counts.errors.entry(failure).or_default() += 1,
        }
    }

    /// The sum.
    pub(crate) fn sum(&self) -> anyhow::Result<Counts> {
        let mut sum = Counts::default();
        for page in &self.pages {
            sum.merge(std::mem::take(&mut *page.lock()))?;
        }
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_book_is_the_sum_of_its_pages_and_tells_overload_apart() {
        let book = Book::new(&[Kind::Put, Kind::Get]).unwrap();
        for client in 0..2 * PAGES {
            book.note(client, Kind::Put, Duration::from_millis(1), Ok(2));
            book.note(client, Kind::Put, Duration::from_millis(1), Err(OVERLOADED.to_owned()));
            book.note(client, Kind::Get, Duration::from_millis(1), Err("Unavailable".to_owned()));
        }
        let sum = book.sum().unwrap();
        assert_eq!((sum.times[&Kind::Put].0.len(), sum.rows), (32, 64));
        assert_eq!(sum.times[&Kind::Get].0.len(), 0);
        assert_eq!((sum.overloaded, sum.errors), (32, BTreeMap::from([("Unavailable".to_owned(), 32)])));
    }
}
