//! What came of a run, for people and for programs.

use std::collections::BTreeMap;

use serde::Serialize;

use super::log::say;

/// A leader that is killed or cut off is missed no longer than this, on a machine that isn't busy.
const GAP_GOAL_MS: u64 = 1500;
/// The cluster is healthy again so long after a fault has ended, on a machine that isn't busy.
const RECOVERY_GOAL_MS: u64 = 10_000;
/// The faults for which the first goal stands: a leader is gone, and nothing else is wrong.
const GAP_GOAL_FOR: &[&str] = &["kill", "isolate", "cut-off"];

/// What was measured of one kind of fault.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Figures {
    /// How often it was tried.
    count: u64,
    /// The longest time without an acknowledged write to a shard that a victim led.
    gap_max_ms: u64,
    /// The longest time without an acknowledged write to any other shard.
    gap_elsewhere_max_ms: u64,
    /// The longest time from its end until the cluster was healthy.
    recovery_max_ms: u64,
}

impl Figures {
    /// Adds what was measured once.
    pub(crate) fn add(&mut self, gap_ms: u64, gap_elsewhere_ms: u64, recovery_ms: u64) {
        self.count += 1;
        self.gap_max_ms = self.gap_max_ms.max(gap_ms);
        self.gap_elsewhere_max_ms = self.gap_elsewhere_max_ms.max(gap_elsewhere_ms);
        self.recovery_max_ms = self.recovery_max_ms.max(recovery_ms);
    }
}

/// What came of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Summary {
    pub(crate) seed: u64,
    pub(crate) nodes: u8,
    pub(crate) clients: usize,
    /// From the first fault to the end of the last one.
    pub(crate) seconds: u64,
    pub(crate) rounds: u64,
    /// Of clients.
    pub(crate) operations: usize,
    /// Of which nobody can tell whether they happened.
    pub(crate) unknown: usize,
    /// What clients did beside reading and writing single keys, and was judged.
    pub(crate) features: BTreeMap<&'static str, u64>,
    pub(crate) faults_total: u64,
    pub(crate) faults: BTreeMap<String, Figures>,
    /// Machines that lost their power, once for each time.
    pub(crate) power_cuts: u64,
    pub(crate) bit_flips: u64,
    /// Requests that were refused because of what a disk had lost or couldn't read.
    pub(crate) corruption_answers: u64,
    /// Nodes that ended by themselves, where they may, and were started again.
    pub(crate) restarts: u64,
    /// Faults that this machine doesn't permit.
    pub(crate) skipped: Vec<String>,
    pub(crate) goals_missed: Vec<String>,
    pub(crate) violations: usize,
}

impl Summary {
    /// Notes which goals were missed. That is no violation: the machine may have been busy.
    pub(crate) fn judge(&mut self) {
        for (name, figures) in &self.faults {
            if GAP_GOAL_FOR.contains(&name.as_str()) && figures.gap_max_ms > GAP_GOAL_MS {
                self.goals_missed.push(format!(
                    "{name}: {} ms between acknowledged writes; the goal is {GAP_GOAL_MS} ms",
                    figures.gap_max_ms
                ));
            }
            if figures.recovery_max_ms > RECOVERY_GOAL_MS {
                self.goals_missed.push(format!(
                    "{name}: healthy after {} ms; the goal is {RECOVERY_GOAL_MS} ms",
                    figures.recovery_max_ms
                ));
            }
        }
    }

    /// Shows it to people.
    pub(crate) fn show(&self) {
        say(&format!(
            "\n{:<18}{:>6}{:>14}{:>20}{:>15}",
            "fault", "times", "longest gap", "gap, other shards", "healthy after"
        ));
        for (name, figures) in &self.faults {
            let Figures { count, gap_max_ms, gap_elsewhere_max_ms, recovery_max_ms } = figures;
            say(&format!(
                "{name:<18}{count:>6}{gap_max_ms:>11} ms{gap_elsewhere_max_ms:>17} ms{recovery_max_ms:>12} ms"
            ));
        }
        for missed in &self.goals_missed {
            say(&format!("goal missed: {missed}"));
        }
        for skipped in &self.skipped {
            say(&format!("SKIPPED: {skipped}"));
        }
        let features = self.features.iter().map(|(what, count)| format!("{count} {what}"));
        say(&format!("beside: {}", features.collect::<Vec<_>>().join(", ")));
        say(&format!(
            "{} s, {} operations of {} clients, {} of unknown outcome, {} rounds with {} faults, {} power cuts, {} bits flipped, {} nodes \
             restarted, {} violations",
            self.seconds,
            self.operations,
            self.clients,
            self.unknown,
            self.rounds,
            self.faults_total,
            self.power_cuts,
            self.bit_flips,
            self.restarts,
            self.violations
        ));
    }
}
