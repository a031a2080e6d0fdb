//! Ordered reads over memory and engine: see "A scan shows one moment" in [`super`].

use std::{cmp::Ordering, iter::Peekable, ops::Bound, sync::atomic, vec};

use bytes::Bytes;

use super::{DELETIONS_PASSED_MAX, Generation, Slot, State, Table};
use crate::{
    engine::{Direction, Row, Rows, is_empty_range},
    error::Result,
};

/// Vain attempts after which a scan holds drains.
const ATTEMPTS_MAX: usize = 3;

/// What memory has of a range, in the order asked for; `None` hides the engine's row.
type Overlay = Vec<(Bytes, Option<Bytes>)>;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
struct Request<'a> {
    start: Bound<&'a [u8]>,
    end: Bound<&'a [u8]>,
    direction: Direction,
    limit: Limit,
}

#[derive(Clone, Copy, Debug)]
struct Limit {
    rows: usize,
    bytes: usize,
}

/// Memory's part, and what must not have changed while the engine's is read.
struct Snapshot {
    overlay: Overlay,
    slot: Slot,
    installs: u64,
    active_number: u64,
    /// Deletions of the active generation in it.
    deletions_passed: usize,
}

impl Table {
    /// The first rows within the bounds, ascending, as of one moment: at most `limit_rows` of them, and no more than
    /// `limit_bytes` of keys and values together, except that a first row is returned whatever its size. Fewer rows than
    /// `limit_rows` do not mean that the range ends there: go on after the last key until nothing comes.
    ///
    /// # Errors
    /// [`crate::Error::Corruption`] if a row in the engine fails its checksum. [`crate::Error::Engine`].
    pub fn scan(
        &self,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
        limit_rows: usize,
        limit_bytes: usize,
    ) -> Result<Vec<Row>> {
        self.scan_in(Direction::Ascending, start, end, limit_rows, limit_bytes)
    }

    /// The same in either direction. `start` is the lower bound in both: descending, the last rows within the bounds come,
    /// and one goes on before the last key.
    ///
    /// # Errors
    /// As [`Self::scan`].
    pub fn scan_in(
        &self,
        direction: Direction,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
        limit_rows: usize,
        limit_bytes: usize,
    ) -> Result<Vec<Row>> {
        if limit_rows == 0 || is_empty_range(start, end) {
            return Ok(Vec::new());
        }
        let request =
            Request { start, end, direction, limit: Limit { rows: limit_rows, bytes: limit_bytes } };
        for _ in 0..ATTEMPTS_MAX {
            let snapshot = self.state.read().snapshot(request);
            if snapshot.deletions_passed > DELETIONS_PASSED_MAX {
                self.wants_drain.store(true, atomic::Ordering::Relaxed);
            }
            let (slot, installs, active_number) = (snapshot.slot, snapshot.installs, snapshot.active_number);
            let rows = self.merge(snapshot.overlay, slot, request);
            let state = self.state.read();
            if state.installs == installs && state.drain_begun < active_number {
                return rows;
            }
        }
        let _hold = self.gate.hold();
        let snapshot = self.state.read().snapshot(request);
        self.merge(snapshot.overlay, snapshot.slot, request)
    }

    fn merge(&self, overlay: Overlay, slot: Slot, request: Request<'_>) -> Result<Vec<Row>> {
        let Request { start, end, direction, .. } = request;
        let drained = self.drained(slot, start, end, direction).peekable();
        let mut merged = Merged { overlay: overlay.into_iter().peekable(), drained, direction };
        let mut budget = Budget::of(request.limit);
        let mut rows = Vec::new();
        while !budget.is_spent() {
            let Some((key, value)) = merged.next().transpose()? else { break };
            if !budget.take(&key, &value) {
                break;
            }
            rows.push((key, value));
        }
        Ok(rows)
    }
}

impl State {
    /// Copies as much of the memory generations as can matter: once they alone have filled the limit, nothing beyond
    /// that key can be in the result.
    fn snapshot<'a>(&'a self, request: Request<'a>) -> Snapshot {
        let Request { start, end, direction, limit } = request;
        let within = |generation: &'a Generation| {
            direction.over(generation.rows.range::<[u8], _>((start, end))).peekable()
        };
        let mut active = within(&self.active);
        let mut frozen = self.frozen.iter().flat_map(|frozen| within(frozen)).peekable();
        let mut budget = Budget::of(limit);
        let mut overlay = Overlay::new();
        let mut deletions_passed = 0;
        while !budget.is_spent() {
            let order = match (active.peek(), frozen.peek()) {
                (Some((newer, _)), Some((older, _))) => direction.order(newer, older),
                (Some(_), None) => Ordering::Less,
                (None, _) => Ordering::Greater,
            };
            if order == Ordering::Equal {
                frozen.next();
            }
            let next = if order == Ordering::Greater { frozen.next() } else { active.next() };
            let Some((key, value)) = next else { break };
            overlay.push((key.clone(), value.clone()));
            match value {
                Some(value) if !budget.take(key, value) => break,
                None if order != Ordering::Greater => deletions_passed += 1,
                _ => {}
            }
        }
        let (slot, installs, active_number) = (self.slot, self.installs, self.active.number);
        Snapshot { overlay, slot, installs, active_number, deletions_passed }
    }
}

/// The overlay over the engine's rows.
struct Merged<'a> {
    overlay: Peekable<vec::IntoIter<(Bytes, Option<Bytes>)>>,
    drained: Peekable<Rows<'a>>,
    direction: Direction,
}

impl Iterator for Merged<'_> {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Result<Row>> {
        loop {
            let order = match (self.overlay.peek(), self.drained.peek()) {
                (Some((over, _)), Some(Ok((under, _)))) => self.direction.order(over, under),
                (Some(_), None) => Ordering::Less,
                (None, _) | (_, Some(Err(_))) => Ordering::Greater,
            };
            if order == Ordering::Greater {
                return self.drained.next();
            }
            if order == Ordering::Equal {
                self.drained.next();
            }
            if let (key, Some(value)) = self.overlay.next()? {
                return Some(Ok((key, value)));
            }
        }
    }
}

/// What is left of a limit.
struct Budget {
    left: Limit,
    untouched: bool,
}

impl Budget {
    const fn of(limit: Limit) -> Self {
        Self { left: limit, untouched: true }
    }

    const fn is_spent(&self) -> bool {
        self.left.rows == 0
    }

    /// Whether the row still fits, in which case it is counted. A first row always does.
    fn take(&mut self, key: &[u8], value: &[u8]) -> bool {
        let bytes = key.len() + value.len();
        if bytes > self.left.bytes && !self.untouched {
            return false;
        }
        self.untouched = false;
        self.left.bytes = self.left.bytes.saturating_sub(bytes);
        self.left.rows -= 1;
        true
    }
}
