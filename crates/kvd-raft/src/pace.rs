//! What a shard's leader says of time in each of its entries: its clock, the shard's age, what readers may be shown, and what
//! may be forgotten.
//!
//! # The problem
//! The state machine knows no time but what entries tell it. Leases must live on through a change of leader, neither cut
//! short nor reset; a reader must be able to see several shards as of one moment; and history must go at last, but not while
//! somebody still reads it.
//!
//! # The approach
//! - *Age.* A leader goes on from the age that it has applied, and counts with a clock that never jumps. What has passed since
//!   the last entry of the leader before is not counted: so nothing lapses early, and what has a lifetime gets at most that
//!   much longer. While anything has one, a leader commits the age at least every [`AGE_INTERVAL`].
//! - *Clock.* The time of day, raised above whatever a reader was shown.
//! - *Ceiling.* Before it shows a reader the shard as of a revision that no write has had, a leader commits a ceiling above
//!   it, with room for the readers of the next [`CEILING_ROOM`]. No later leader gives a write a revision up to there; this
//!   one gives none that it has shown.
//! - *Compacted.* From time to time a leader takes note of the age and the last revision. What was replaced by the revision of
//!   a note that is as old as the retention may be forgotten, but for what is pinned; and even that, once the note is
//!   [`PIN_FACTOR`] times as old. What is more than [`HistoryOptions::bytes_max`] goes sooner, note by note. It goes by notes
//!   and not by the time in a revision, because clocks jump. A new leader has none and keeps what it finds for a whole
//!   retention more.
//!
//! All of it is plain arithmetic on what is passed in.
//!
//! # Invariants
//! - Ages, ceilings and compacted revisions never go back within a leadership, and the state machine takes the largest.
//! - A clock is above all that was shown when it was read.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use kvd_machine::ShardStats;
use kvd_types::{Error, Result, Revision};

/// How often the age is committed while anything has a lifetime.
const AGE_INTERVAL: Duration = Duration::from_secs(1);
/// The least pause between the last entry and one that is made because something is due.
const DUE_INTERVAL: Duration = Duration::from_millis(5);
/// How often an entry is committed while there is something to be forgotten.
const FORGET_INTERVAL: Duration = Duration::from_millis(20);
/// How far ahead of what is shown a ceiling is committed.
const CEILING_ROOM: Duration = Duration::from_secs(3);
/// How far ahead of the leader's clock a revision may be that a client asks for, if nobody has had it yet.
const AHEAD_MAX: Duration = Duration::from_secs(10);
/// How far ahead of the leader's clock a revision may be that a writer has seen, to be believed. It may be a lie, so no clock may
/// be drawn after it without end; but clocks may well be hours apart.
const SEEN_AHEAD_MAX: Duration = Duration::from_secs(24 * 3600);
/// What is pinned is kept so many times as long as the retention.
const PIN_FACTOR: u64 = 2;
/// How long a pin holds.
const PIN_KEPT: Duration = Duration::from_secs(60);
/// Pins that are kept; beyond them a reader is on its own.
const PINS_MAX: usize = 4096;
/// Notes in one retention.
const NOTES_PER_RETENTION: u64 = 64;
/// Notes that are kept; beyond them the oldest but one goes.
const NOTES_MAX: usize = 512;

/// How much of its history a shard keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryOptions {
    /// What was replaced or deleted is kept for so long, by the time that the shard is led.
    pub retention: Duration,
    /// More than so many bytes of it are not kept that long.
    pub bytes_max: u64,
}

impl Default for HistoryOptions {
    fn default() -> Self {
        Self { retention: Duration::from_secs(600), bytes_max: 64 << 20 }
    }
}

/// What an entry says of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) clock: Revision,
    pub(crate) age_ms: u64,
    pub(crate) ceiling: Revision,
    pub(crate) compacted: Revision,
}

/// What clocks say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// The time of day.
    pub(crate) unix_ms: u64,
    /// Of a clock that never jumps.
    pub(crate) monotonic_ms: u64,
}

/// A leader's account of time.
#[derive(Debug)]
pub(crate) struct Pace {
    history: HistoryOptions,
    /// The age when it began to count, and what its monotonic clock said.
    began: (u64, u64),
    /// The age in the last entry.
    said_age_ms: u64,
    shown: Revision,
    ceiling: Revision,
    compacted: Revision,
    /// The age, and the last revision at that age. In order.
    notes: VecDeque<(u64, Revision)>,
    /// The shard's history had so many bytes at the last note.
    noted_bytes: u64,
}

/// Revisions that somebody still reads at, each for [`PIN_KEPT`] since it was last asked for.
#[derive(Debug, Default)]
pub(crate) struct Pins(BTreeMap<Revision, u64>);

impl Pins {
    /// Keeps what was at a revision, and what came after it, for a while.
    pub(crate) fn pin(&mut self, at: Revision, monotonic_ms: u64) {
        if self.0.len() < PINS_MAX || self.0.contains_key(&at) {
            self.0.insert(at, monotonic_ms.saturating_add(millis(PIN_KEPT)));
        }
    }

    /// The oldest that is pinned.
    pub(crate) fn oldest(&mut self, monotonic_ms: u64) -> Option<Revision> {
        self.0.retain(|_, until_ms| *until_ms > monotonic_ms);
        self.0.keys().next().copied()
    }
}

impl Pace {
    /// Begins to lead a shard of which so much has been applied.
    pub(crate) fn lead(stats: &ShardStats, now: Reading, history: HistoryOptions) -> Self {
        Self {
            history,
            began: (stats.age_ms, now.monotonic_ms),
            said_age_ms: stats.age_ms,
            shown: Revision::ZERO,
            ceiling: stats.ceiling,
            compacted: stats.compacted,
            notes: VecDeque::new(),
            noted_bytes: 0,
        }
    }

    /// The shard's age.
    pub(crate) const fn age_ms(&self, now: Reading) -> u64 {
        let (age_ms, at_ms) = self.began;
        age_ms.saturating_add(now.monotonic_ms.saturating_sub(at_ms))
    }

    /// The clock: above all that was shown.
    pub(crate) fn clock(&self, now: Reading) -> Revision {
        Revision::from_unix_ms(now.unix_ms).max(self.shown.next())
    }

    /// The ceiling that the next entry has.
    pub(crate) const fn ceiling(&self) -> Revision {
        self.ceiling
    }

    /// What the next entry says. `pinned`: the oldest revision that somebody still reads at.
    pub(crate) fn stamp(&mut self, now: Reading, stats: &ShardStats, pinned: Option<Revision>) -> Stamp {
        if stats.age_ms > self.age_ms(now) {
            // Entries of the leader before were still to be applied when this one began.
            self.began = (stats.age_ms, now.monotonic_ms);
        }
        let age_ms = self.age_ms(now);
        self.said_age_ms = age_ms;
        self.note(age_ms, stats);
        self.compact(age_ms, stats, pinned);
        Stamp { clock: self.clock(now), age_ms, ceiling: self.ceiling, compacted: self.compacted }
    }

    /// Takes note of the age and the last revision, if it is time to.
    fn note(&mut self, age_ms: u64, stats: &ShardStats) {
        let interval_ms = millis(self.history.retention) / NOTES_PER_RETENTION;
        let grown = stats.history_bytes.saturating_sub(self.noted_bytes);
        let is_due = self.notes.back().is_none_or(|&(noted_ms, revision)| {
            revision < stats.last_revision
                && (age_ms >= noted_ms.saturating_add(interval_ms)
                    || grown > self.history.bytes_max / NOTES_PER_RETENTION)
        });
        if !is_due {
            return;
        }
        self.noted_bytes = stats.history_bytes;
        self.notes.push_back((age_ms, stats.last_revision));
        if self.notes.len() > NOTES_MAX {
            self.notes.remove(1);
        }
    }

    /// Lets history go that is old enough, or too much.
    fn compact(&mut self, age_ms: u64, stats: &ShardStats, pinned: Option<Revision>) {
        if stats.is_forgetting {
            return;
        }
        let wanted = self.may_go(age_ms, stats, 1);
        let whatever_is_pinned = self.may_go(age_ms, stats, PIN_FACTOR);
        let pinned = pinned.unwrap_or(Revision(u64::MAX));
        self.compacted = self.compacted.max(wanted.min(pinned)).max(whatever_is_pinned);
        while self.notes.front().is_some_and(|&(_, revision)| revision <= self.compacted) {
            self.notes.pop_front();
        }
    }

    /// Up to where history is older than so many times the retention, or more than so many times what is kept.
    fn may_go(&self, age_ms: u64, stats: &ShardStats, factor: u64) -> Revision {
        let kept_ms = millis(self.history.retention).saturating_mul(factor);
        let old_enough = |&&(noted_ms, _): &&(u64, Revision)| noted_ms.saturating_add(kept_ms) <= age_ms;
        let too_old = self.notes.iter().take_while(old_enough).last();
        let is_too_much = stats.history_bytes > self.history.bytes_max.saturating_mul(factor);
        let too_much = self.notes.front().filter(|_| is_too_much);
        too_old.max(too_much).map_or(Revision::ZERO, |&(_, revision)| revision)
    }

    /// Raises the clock to a revision that a writer has seen, if it can be anything but an error of somebody's clock.
    pub(crate) fn see(&mut self, seen: Revision, stats: &ShardStats, now: Reading) {
        let is_known = seen <= stats.ceiling.max(stats.last_revision);
        if is_known || seen.unix_ms() <= now.unix_ms.saturating_add(millis(SEEN_AHEAD_MAX)) {
            self.shown = self.shown.max(seen);
        }
    }

    /// Prepares to show the shard as of a revision: from now on no clock is below. What was proposed before may still get
    /// such a revision, so it must have been applied before anything is shown. Gives whether the ceiling that is committed
    /// must be raised before, to what [`Self::stamp`] says then.
    ///
    /// # Errors
    /// Invalid argument: a client asks for it, nobody has had such a revision, and it is too far in the future.
    pub(crate) fn show(
        &mut self,
        at: Revision,
        is_vouched_for: bool,
        stats: &ShardStats,
        now: Reading,
    ) -> Result<bool> {
        let known = stats.ceiling.max(stats.last_revision).max(self.shown);
        let ahead_ms = at.unix_ms().saturating_sub(now.unix_ms);
        if !is_vouched_for && at > known && ahead_ms > millis(AHEAD_MAX) {
            return Err(Error::invalid(format!(
                "revision {at} is in the future: {ahead_ms} ms ahead of the clock of the shard's leader"
            )));
        }
        self.shown = self.shown.max(at);
        if at <= stats.ceiling.max(stats.last_revision) {
            return Ok(false);
        }
        let room = Revision::from_unix_ms(at.unix_ms().saturating_add(millis(CEILING_ROOM)));
        if self.ceiling < at {
            self.ceiling = room;
        }
        Ok(true)
    }

    /// At which age the next entry is wanted, though nobody has a command; none: never, as things stand.
    pub(crate) fn next_tick_ms(&self, stats: &ShardStats) -> Option<u64> {
        let after_last = |pause: Duration| self.said_age_ms.saturating_add(millis(pause));
        if stats.is_forgetting {
            return Some(after_last(FORGET_INTERVAL));
        }
        // What is due is seen at an entry, and the age must not be lost.
        let due =
            stats.next_due_ms.map(|due_ms| due_ms.clamp(after_last(DUE_INTERVAL), after_last(AGE_INTERVAL)));
        let note_interval = self.history.retention / u32::try_from(NOTES_PER_RETENTION).unwrap_or(1);
        let forget = (stats.history_bytes > 0).then(|| after_last(note_interval.max(AGE_INTERVAL)));
        due.into_iter().chain(forget).min()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_800_000_000_000;

    fn options() -> HistoryOptions {
        HistoryOptions { retention: Duration::from_secs(640), bytes_max: 6400 }
    }

    const fn at(ms: u64) -> Reading {
        Reading { unix_ms: NOW_MS + ms, monotonic_ms: 5_000 + ms }
    }

    fn revision(ms: u64) -> Revision {
        Revision::from_unix_ms(NOW_MS + ms)
    }

    fn lead(stats: &ShardStats) -> Pace {
        Pace::lead(stats, at(0), options())
    }

    #[test]
    fn the_age_goes_on_from_the_leader_before_whatever_the_time_of_day_does() {
        let stats = ShardStats { age_ms: 70_000, ..ShardStats::default() };
        let mut pace = lead(&stats);
        assert_eq!(pace.stamp(at(250), &stats, None).age_ms, 70_250);
        let jumped = Reading { unix_ms: 0, monotonic_ms: 5_400 };
        assert_eq!(pace.stamp(jumped, &stats, None).age_ms, 70_400);
        assert_eq!(pace.age_ms(Reading { unix_ms: 0, monotonic_ms: 0 }), 70_000, "never back");
        // An entry of the leader before is applied only now.
        let stats = ShardStats { age_ms: 90_000, ..stats };
        assert_eq!(pace.stamp(at(500), &stats, None).age_ms, 90_000);
        assert_eq!(pace.stamp(at(700), &stats, None).age_ms, 90_200);
    }

    #[test]
    fn no_write_gets_a_revision_that_was_shown() {
        let stats = ShardStats::default();
        let mut pace = lead(&stats);
        assert_eq!(pace.clock(at(10)), revision(10));
        assert!(pace.show(revision(9_000), false, &stats, at(10)).unwrap());
        assert!(pace.clock(at(20)) > revision(9_000));
        // And no later leader's either, for what is committed first.
        let stamp = pace.stamp(at(20), &stats, None);
        assert!(stamp.ceiling >= revision(9_000));
        let stats = ShardStats { ceiling: stamp.ceiling, ..stats };
        assert!(!pace.show(revision(11_000), false, &stats, at(1_500)).unwrap(), "there is room");
        assert!(pace.show(stamp.ceiling.next(), false, &stats, at(2_500)).unwrap());
        assert!(pace.stamp(at(2_500), &stats, None).ceiling > stamp.ceiling);
    }

    #[test]
    fn a_write_comes_after_what_its_writer_has_seen() {
        let stats = ShardStats::default();
        let mut pace = lead(&stats);
        pace.see(revision(9_000), &stats, at(0));
        assert!(pace.clock(at(10)) > revision(9_000));
        pace.see(revision(25 * 3_600_000), &stats, at(0));
        assert!(pace.clock(at(10)) < revision(10_000), "no clock is that far ahead, or all would follow it");
    }

    #[test]
    fn a_revision_from_the_future_is_refused_and_changes_nothing_unless_a_shard_has_had_it() {
        let stats = ShardStats::default();
        let mut pace = lead(&stats);
        let before = pace.stamp(at(0), &stats, None);
        let error = pace.show(revision(10_002), false, &stats, at(0)).unwrap_err();
        assert!(error.message.contains("10002 ms ahead"), "{error}");
        assert_eq!(pace.stamp(at(0), &stats, None), before);
        // Another shard's leader has a clock that is a day ahead.
        let day_ms = 24 * 3_600_000;
        assert!(pace.show(revision(day_ms), true, &stats, at(0)).unwrap());
        assert!(pace.show(revision(day_ms - 1), false, &stats, at(1)).unwrap(), "shown before");
    }

    /// A shard that is written to once a second; gives what is compacted after each.
    fn run(
        pace: &mut Pace,
        seconds: std::ops::Range<u64>,
        history_bytes: u64,
        pinned: Option<Revision>,
    ) -> Revision {
        let mut compacted = Revision::ZERO;
        for second in seconds {
            let ms = second * 1000;
            let stats = ShardStats { last_revision: revision(ms), history_bytes, ..ShardStats::default() };
            compacted = pace.stamp(at(ms), &stats, pinned).compacted;
        }
        compacted
    }

    #[test]
    fn history_goes_once_it_is_as_old_as_the_retention_by_age() {
        let mut pace = lead(&ShardStats::default());
        assert_eq!(run(&mut pace, 0..640, 1, None), Revision::ZERO);
        let compacted = run(&mut pace, 640..2000, 1, None);
        let oldest = revision(1_999_000 - 640_000);
        assert!(compacted <= oldest && compacted >= revision(1_999_000 - 660_000), "{compacted}");
        // A clock that jumps ahead by a day takes nothing with it.
        let jumped = Reading { unix_ms: NOW_MS + 90_000_000, ..at(2_000_000) };
        let stats =
            ShardStats { last_revision: revision(1_999_000), history_bytes: 1, ..ShardStats::default() };
        assert!(pace.stamp(jumped, &stats, None).compacted <= revision(2_000_000 - 640_000));
    }

    #[test]
    fn what_is_pinned_is_kept_longer_but_not_for_ever() {
        let mut pace = lead(&ShardStats::default());
        let pinned = revision(100_000);
        for minute in 0..40 {
            let compacted = run(&mut pace, minute * 60..(minute + 1) * 60, 1, Some(pinned));
            if minute < 20 {
                assert!(compacted <= pinned, "minute {minute}");
            }
            if minute > 25 {
                assert!(compacted > pinned, "minute {minute}");
            }
        }
    }

    #[test]
    fn a_pin_that_nobody_renews_ends() {
        let mut pins = Pins::default();
        pins.pin(revision(2), 0);
        pins.pin(revision(1), 1000);
        assert_eq!(pins.oldest(59_000), Some(revision(1)));
        pins.pin(revision(2), 60_500);
        assert_eq!(pins.oldest(61_000), Some(revision(2)));
        assert_eq!(pins.oldest(120_500), None);
    }

    #[test]
    fn more_history_than_is_kept_goes_sooner_but_not_before_the_last_has_gone() {
        let mut pace = lead(&ShardStats::default());
        let few = run(&mut pace, 0..100, 6400, None);
        assert_eq!(few, Revision::ZERO);
        let many = run(&mut pace, 100..200, 6401, None);
        assert!(many > Revision::ZERO);
        let forgetting = ShardStats {
            last_revision: revision(300_000),
            history_bytes: 9000,
            is_forgetting: true,
            ..ShardStats::default()
        };
        assert_eq!(pace.stamp(at(300_000), &forgetting, None).compacted, many);
    }

    #[test]
    fn an_entry_is_wanted_when_something_is_due_and_none_when_nothing_ever_is() {
        let idle = ShardStats { age_ms: 1000, ..ShardStats::default() };
        let pace = lead(&idle);
        assert_eq!(pace.next_tick_ms(&idle), None);
        assert_eq!(pace.next_tick_ms(&ShardStats { next_due_ms: Some(1200), ..idle }), Some(1200));
        assert_eq!(pace.next_tick_ms(&ShardStats { next_due_ms: Some(1001), ..idle }), Some(1005));
        assert_eq!(pace.next_tick_ms(&ShardStats { next_due_ms: Some(90_000), ..idle }), Some(2000));
        assert_eq!(pace.next_tick_ms(&ShardStats { is_forgetting: true, ..idle }), Some(1020));
        assert_eq!(pace.next_tick_ms(&ShardStats { history_bytes: 1, ..idle }), Some(11_000));
    }
}
