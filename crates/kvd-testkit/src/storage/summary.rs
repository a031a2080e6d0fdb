//! What was tried, and what came of it.

use serde::Serialize;

use super::judge::Verdict;

/// Counts of what was tried, and what came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// What everything was derived from.
    pub seed: u64,
    /// Power cuts that were recovered from and held against the model: each operation, before and in the middle of it,
    /// times each way of survival.
    pub crash_points: u64,
    /// Power cuts on top of those, while a node was starting after one.
    pub nested_crashes: u64,
    /// Operations that were made to fail, with an I/O error or a full disk.
    pub failures: u64,
    /// Of those, the ones after which the store stopped.
    pub stopped: u64,
    /// Writes and syncs that the disk reported done and had not done, or done elsewhere.
    pub lies: u64,
    /// Bits flipped, sectors zeroed, scrambled, misplaced or made unreadable on a stopped store.
    pub bit_flips: u64,
    /// Of lies and flips, the ones of which something was lost that was then reported.
    pub detected: u64,
    /// The ones that were reported, and nothing was lost.
    pub repaired: u64,
    /// The ones that nobody can ever notice, for everything is as it was.
    pub harmless: u64,
    /// The last two together.
    pub repaired_or_harmless: u64,
    /// What must never be: something lost, invented, or taken back, silently.
    pub violations: u64,
    /// Wall time, in milliseconds.
    pub elapsed_ms: u64,
}

impl Summary {
    pub(super) fn count(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Detected => self.detected += 1,
            Verdict::Repaired => self.repaired += 1,
            Verdict::Harmless => self.harmless += 1,
        }
        self.repaired_or_harmless = self.repaired + self.harmless;
    }
}
