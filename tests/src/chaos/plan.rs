//! What is done to the cluster and when: computed from a seed, so that the same plan can be had again.
//!
//! # The approach
//! A plan is a row of rounds. In a round some faults begin and end, one over the other; then the cluster must become
//! healthy before the next one begins. Two rounds of three have one fault, so that its effects can be told; in the third
//! there are several. No two of a round claim the same part of the same machine, and at most one destroys what was stored.

use std::{collections::BTreeSet, fmt};

use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};

use super::fault::{Fault, Kind, Part, Victims};

/// Every so many rounds there are several faults at once.
const ROUNDS_PER_MIX: u64 = 3;
const MIX_FAULTS: std::ops::RangeInclusive<usize> = 2..=5;
/// Faults of a round begin within this time.
const BEGIN_WITHIN_MS: u64 = 3000;
/// How often another fault is drawn for one that gets into the others' way.
const DRAWS_MAX: usize = 40;

/// Stands for a machine that is nobody's: whatever claims the one beside the others claims the same.
const NO_VICTIM: usize = usize::MAX;

/// One fault of a round.
#[derive(Clone, Debug)]
pub(crate) struct Strike {
    /// What kind of fault.
    pub(crate) kind: &'static Kind,
    /// Its machines, counted from zero.
    pub(crate) victims: Vec<usize>,
    /// When it begins, after the round's beginning.
    pub(crate) begins_ms: u64,
    /// How long it is left before it is healed.
    pub(crate) lasts_ms: u64,
    seed: u64,
}

impl Strike {
    fn draw(kind: &'static Kind, nodes: usize, begins_ms: u64, random: &mut StdRng) -> Self {
        let mut victims: Vec<usize> = (0..nodes).collect();
        victims.shuffle(random);
        if let Victims::Some(count) = kind.victims {
            victims.truncate(count);
        }
        let lasts_ms = random.random_range(kind.lasts_ms.clone());
        Self { kind, victims, begins_ms, lasts_ms, seed: random.next_u64() }
    }

    /// The fault, ready to begin.
    pub(crate) fn fault(&self) -> Box<dyn Fault> {
        (self.kind.make)(&self.victims, &mut StdRng::seed_from_u64(self.seed))
    }

    fn claims(&self) -> BTreeSet<(usize, Part)> {
        let parts = self.kind.claims;
        let claim = |victim, part| if part == Part::Spare { (NO_VICTIM, part) } else { (victim, part) };
        self.victims.iter().flat_map(|&victim| parts.iter().map(move |&part| claim(victim, part))).collect()
    }
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let victims: Vec<String> = self.victims.iter().map(|victim| format!("node-{}", victim + 1)).collect();
        write!(
            f,
            "{} of {} after {} ms for {} ms",
            self.kind.name,
            victims.join(", "),
            self.begins_ms,
            self.lasts_ms
        )
    }
}

/// A row of rounds without an end.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// What it is computed from.
    pub(crate) seed: u64,
    /// How many machines there are.
    pub(crate) nodes: usize,
    /// What may be done to them.
    pub(crate) kinds: Vec<&'static Kind>,
    /// Whether kinds come in the order given, rather than in one by the seed.
    pub(crate) in_order: bool,
    /// Whether there are rounds with several faults.
    pub(crate) mixed: bool,
}

impl Plan {
    /// The faults of a round, counted from zero.
    pub(crate) fn round(&self, number: u64) -> Vec<Strike> {
        let mut random = StdRng::seed_from_u64(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number);
        if self.mixed && number % ROUNDS_PER_MIX == ROUNDS_PER_MIX - 1 {
            return self.mix(&mut random);
        }
        let single = if self.mixed { number - number / ROUNDS_PER_MIX } else { number };
        let single = usize::try_from(single).unwrap_or(usize::MAX);
        let mut order = self.kinds.clone();
        if !self.in_order {
            // Each kind once, then each again in another order.
            let cycle = u64::try_from(single / order.len()).unwrap_or(u64::MAX);
            order.shuffle(&mut StdRng::seed_from_u64(self.seed ^ cycle));
        }
        vec![Strike::draw(order[single % order.len()], self.nodes, 0, &mut random)]
    }

    fn mix(&self, random: &mut StdRng) -> Vec<Strike> {
        let wanted = random.random_range(MIX_FAULTS);
        let mut strikes: Vec<Strike> = Vec::new();
        let mut claimed = BTreeSet::new();
        for _ in 0..DRAWS_MAX {
            let kind = self.kinds[random.random_range(0..self.kinds.len())];
            let begins_ms = random.random_range(0..=BEGIN_WITHIN_MS);
            let strike = Strike::draw(kind, self.nodes, begins_ms, random);
            let destroys_too = kind.destroys && strikes.iter().any(|other| other.kind.destroys);
            if destroys_too || !claimed.is_disjoint(&strike.claims()) {
                continue;
            }
            claimed.extend(strike.claims());
            strikes.push(strike);
            if strikes.len() == wanted {
                break;
            }
        }
        strikes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::fault::KINDS;

    fn plan(seed: u64) -> Plan {
        Plan { seed, nodes: 5, kinds: KINDS.to_vec(), in_order: false, mixed: true }
    }

    fn text(plan: &Plan) -> String {
        let rounds =
            (0..200).map(|round| plan.round(round).iter().map(|it| format!("{it}; ")).collect::<String>());
        rounds.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_seed_is_a_plan() {
        assert_eq!(text(&plan(7)), text(&plan(7)));
        assert_ne!(text(&plan(7)), text(&plan(8)));
    }

    #[test]
    fn every_kind_has_its_turn() {
        let plan = plan(1);
        let names: BTreeSet<_> = (0..60).flat_map(|round| plan.round(round)).map(|it| it.kind.name).collect();
        assert_eq!(names.len(), KINDS.len());
    }

    #[test]
    fn faults_of_a_round_keep_out_of_each_others_way() {
        let mut several = 0;
        for seed in 0..20 {
            for round in (0..100).map(|round| plan(seed).round(round)) {
                let all: Vec<_> = round.iter().flat_map(Strike::claims).collect();
                let different: BTreeSet<_> = all.iter().collect();
                assert_eq!(all.len(), different.len(), "{round:?}");
                assert!(round.iter().filter(|strike| strike.kind.destroys).count() <= 1, "{round:?}");
                assert!(round.iter().filter(|strike| strike.kind.name == "clone").count() <= 1, "{round:?}");
                several += usize::from(round.len() > 1);
            }
        }
        assert!(several > 0);
    }
}
