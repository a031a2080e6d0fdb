//! When writes were acknowledged, per shard: how long a fault was felt, and by whom.

use std::{collections::BTreeMap, sync::Mutex};

use kvd_client::ShardId;

/// The times of acknowledged writes of each shard, in milliseconds, in the order in which they were noted.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    beats: Mutex<BTreeMap<ShardId, Vec<u64>>>,
}

impl Pulse {
    /// Notes that a write to a shard was acknowledged.
    pub(crate) fn beat(&self, shard: ShardId, now_ms: u64) {
        self.beats.lock().unwrap().entry(shard).or_default().push(now_ms);
    }

    /// The shards that were written to.
    pub(crate) fn shards(&self) -> Vec<ShardId> {
        self.beats.lock().unwrap().keys().copied().collect()
    }

    /// The longest time between two acknowledged writes to a shard that touches the time from `from_ms` to `to_ms`,
    /// cut off at `to_ms`. What began before counts as a whole: nobody knows when exactly a fault bites.
    pub(crate) fn longest_gap_ms(&self, shard: ShardId, from_ms: u64, to_ms: u64) -> u64 {
        let beats = self.beats.lock().unwrap();
        let beats = beats.get(&shard).map(Vec::as_slice).unwrap_or_default();
        let before = beats.iter().copied().filter(|&beat| beat <= from_ms).max();
        let mut last = before.unwrap_or(from_ms);
        let mut longest = 0;
        for beat in beats.iter().copied().filter(|&beat| beat > from_ms) {
            longest = longest.max(beat.min(to_ms).saturating_sub(last));
            last = last.max(beat);
        }
        longest.max(to_ms.saturating_sub(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(7);

    fn pulse(beats: &[u64]) -> Pulse {
        let pulse = Pulse::default();
        beats.iter().for_each(|&beat| pulse.beat(SHARD, beat));
        pulse
    }

    #[test]
    fn a_gap_counts_from_before_the_window_and_is_cut_off_at_its_end() {
        let pulse = pulse(&[100, 200, 900, 1000, 5000]);
        assert_eq!(pulse.longest_gap_ms(SHARD, 300, 1000), 700);
        assert_eq!(pulse.longest_gap_ms(SHARD, 950, 1500), 500);
        assert_eq!(pulse.longest_gap_ms(SHARD, 950, 9000), 4000);
    }

    #[test]
    fn silence_until_the_end_is_a_gap() {
        assert_eq!(pulse(&[100]).longest_gap_ms(SHARD, 200, 2000), 1900);
        assert_eq!(pulse(&[]).longest_gap_ms(SHARD, 200, 2000), 1800);
    }

    #[test]
    fn beats_that_are_noted_late_do_no_harm() {
        assert_eq!(pulse(&[100, 300, 290, 400]).longest_gap_ms(SHARD, 150, 400), 200);
    }
}
