//! Judging a watch by the facts.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use kvd_types::{Event, Key, Revision, ShardId};

use super::{
    Account, End, Found, From, Watch,
    facts::{Fact, Facts},
};

pub(super) fn check(account: &Account, facts: &Facts, watch: &Watch, found: &mut Found) {
    let mut judge = Judge {
        account,
        facts,
        watch,
        wanted: wanted(account, facts, watch),
        told: BTreeSet::new(),
        reached: BTreeMap::new(),
        begun_ns: 0,
        found,
    };
    judge.items();
    judge.gaps();
}

/// What it must tell in the end, by shard: a revision and a key.
type Wanted = BTreeMap<ShardId, BTreeSet<(Revision, Key)>>;

struct Judge<'a, 'f> {
    account: &'a Account,
    facts: &'a Facts,
    watch: &'a Watch,
    wanted: Wanted,
    told: BTreeSet<(Revision, Key)>,
    /// The last revision told of each shard.
    reached: BTreeMap<ShardId, Revision>,
    /// When the latest write was begun that was told of: whatever is told later was said later.
    begun_ns: u64,
    found: &'f mut Found,
}

/// Whether the watch wants to know of a change.
fn wants(watch: &Watch, key: &Key, is_put: bool) -> bool {
    let is_left_out = if is_put { watch.no_puts } else { watch.no_deletes };
    !is_left_out && super::covers(&watch.start, &watch.end, key)
}

fn wanted(account: &Account, facts: &Facts, watch: &Watch) -> Wanted {
    let mut wanted = Wanted::new();
    for (key, of_key) in facts.range(&watch.start, &watch.end) {
        let Some(shard) = account.shards.get(key) else { continue };
        for (revision, fact) in of_key {
            if wants(watch, key, fact.put.is_some()) && is_after_start(account, watch, *revision, fact) {
                wanted.entry(*shard).or_default().insert((*revision, key.clone()));
            }
        }
    }
    wanted
}

/// Whether the watch had certainly begun.
fn is_after_start(account: &Account, watch: &Watch, revision: Revision, fact: &Fact) -> bool {
    match watch.from {
        From::After(after) => revision > after,
        From::Now { started, .. } => started.is_some_and(|started| {
            let write = fact.write.and_then(|place| account.writes.get(place));
            write.is_some_and(|write| write.invoked.sequence > started.sequence)
        }),
    }
}

impl Judge<'_, '_> {
    fn items(&mut self) {
        let watch = self.watch;
        for item in &watch.items {
            let before = self.told.len();
            for event in &item.events {
                self.event(event);
            }
            if self.told.len() > before {
                self.halves(&item.events);
            }
            if item.progress {
                self.progress(item.at.sequence);
            }
        }
    }

    fn event(&mut self, event: &Event) {
        let Event { key, revision, record, .. } = event;
        let name = self.name();
        if !wants(self.watch, key, record.is_some()) {
            self.found.add(|| format!("{name} was told of {key} at {revision}, which it didn't want"));
        }
        if record.as_ref().is_some_and(|record| record.revision != *revision) {
            self.found.add(|| format!("{name} was told of {key} at {revision} as {record:?}"));
        }
        if let Some(shard) = self.account.shards.get(key) {
            let reached = self.reached.entry(*shard).or_default();
            if *revision < *reached {
                let reached = *reached;
                self.found.add(|| {
                    format!("{name} was told of {key} at {revision} after {reached} of the same shard")
                });
            }
            *reached = revision.max(reached).to_owned();
        }
        if !self.told.insert((*revision, key.clone())) {
            self.found.add(|| format!("{name} was told twice of {key} at {revision}"));
        }
        let Some(of_key) = self.facts.of_key(key) else { return };
        if let Some(write) = of_key.get(revision).and_then(|fact| self.account.writes.get(fact.write?)) {
            self.begun_ns = self.begun_ns.max(write.invoked.time_ns);
            let was_over = |asked: u64| {
                matches!(write.end, End::Done(_)) && write.completed.is_some_and(|at| at.sequence < asked)
            };
            if let From::Now { asked, .. } = self.watch.from
                && was_over(asked.sequence)
            {
                self.found.add(|| format!("{name} begins now and was told of what was over: {write}"));
            }
        }
        if let From::After(after) = self.watch.from
            && *revision <= after
        {
            self.found.add(|| format!("{name} begins after {after} and was told of {key} at {revision}"));
        }
        self.previous(event, of_key);
    }

    /// The version before is the one before.
    fn previous(&mut self, event: &Event, of_key: &BTreeMap<Revision, Fact>) {
        let Event { key, revision, previous, .. } = event;
        if !self.watch.previous {
            if previous.is_some() {
                let name = self.name();
                self.found.add(|| {
                    format!("{name} was told what {key} was before {revision}, and didn't want to be")
                });
            }
            return;
        }
        let before = of_key.range(..*revision).next_back();
        let is_right = match (previous, before) {
            (Some(previous), Some((before, fact))) => previous.revision == *before && fact.put.is_some(),
            (Some(_), None) => false,
            (None, Some((_, Fact { put: Some(_), .. }))) => self.facts.may_be_gone(key, u64::MAX),
            (None, _) => true,
        };
        if !is_right {
            let name = self.name();
            let told = previous.as_ref().map(|previous| previous.revision);
            let before = before.map(|(revision, _)| *revision);
            self.found.add(|| {
                format!("{name} was told that {key} before {revision} was of {told:?}, and not of {before:?}")
            });
        }
    }

    /// All changes at one revision of a shard come together.
    fn halves(&mut self, events: &[Event]) {
        let name = self.name();
        let here: BTreeSet<(Revision, &Key)> =
            events.iter().map(|event| (event.revision, &event.key)).collect();
        for event in events {
            let write = self.facts.of_key(&event.key).and_then(|facts| facts.get(&event.revision)?.write);
            let Some(write) = write.and_then(|place| self.account.writes.get(place)) else { continue };
            for (key, put) in &write.changes {
                if wants(self.watch, key, put.is_some()) && !here.contains(&(event.revision, key)) {
                    let revision = event.revision;
                    self.found.add(|| {
                        format!("{name} was told half of what happened at {revision}, not {key}: {write}")
                    });
                }
            }
        }
    }

    /// A mark was said after the latest of what had been told before was begun. All that was finished so long before then
    /// must have been told.
    fn progress(&mut self, at: u64) {
        let after_ns = u64::try_from(self.watch.progress_after.as_nanos()).unwrap_or(u64::MAX);
        let Some(finished_ns) = self.begun_ns.checked_sub(after_ns) else { return };
        let name = self.name();
        for (revision, key) in self.wanted.values().flatten() {
            let write = self.facts.of_key(key).and_then(|facts| facts.get(revision)?.write);
            let Some(write) = write.and_then(|place| self.account.writes.get(place)) else { continue };
            let was_finished = matches!(write.end, End::Done(_))
                && write.completed.is_some_and(|at| at.time_ns < finished_ns);
            if was_finished && !self.told.contains(&(*revision, key.clone())) {
                let waited = Duration::from_nanos(after_ns);
                self.found.add(|| {
                    format!("{name} was told at {at} that all was well {waited:?} before, and lacks {key} at {revision}: {write}")
                });
            }
        }
    }

    /// Before the last that it has told of a shard, nothing is missing.
    fn gaps(&mut self) {
        let name = self.name();
        for (shard, wanted) in &self.wanted {
            let Some(&reached) = self.reached.get(shard) else { continue };
            let missing = wanted.iter().find(|it| it.0 < reached && !self.told.contains(it));
            if let Some((revision, key)) = missing {
                self.found.add(|| {
                    format!("{name} was told of {reached} of shard {shard}, and not of {key} at {revision}")
                });
            }
        }
    }

    fn name(&self) -> String {
        let Watch { process, start, end, from, .. } = self.watch;
        format!(
            "the watcher of {process} of [{}, {}) from {from:?}",
            start.escape_ascii(),
            end.escape_ascii()
        )
    }
}
