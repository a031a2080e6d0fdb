//! A store that is right, with clients that are slow, give up, and are refused: driven by a list of choices.

use std::collections::BTreeMap;

use super::*;

/// How the clients behave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    /// No two puts have the same value.
    pub(super) unique_values: bool,
    /// Clients also give up writes with conditions.
    pub(super) gives_up_conditional: bool,
}

const KEYS: [&str; 3] = ["a", "b", "c"];
const CLIENTS: usize = 6;
/// Values, where they aren't unique.
const VALUES: usize = 3;

/// An operation that is under way.
struct Pending {
    place: usize,
    /// It has happened, and this came of it.
    answer: Option<Answer>,
    given_up: bool,
}

struct Store {
    manner: Manner,
    script: Script,
    keys: BTreeMap<Key, Version>,
    revision: u64,
    /// Revisions that clients have been told, by key.
    told: BTreeMap<Key, Vec<Revision>>,
    pending: Vec<Pending>,
    puts: usize,
}

/// A history of such a store.
pub(super) fn play(choices: &[u32], manner: Manner) -> History {
    let mut store = Store {
        manner,
        script: Script::default(),
        keys: BTreeMap::new(),
        revision: 0,
        told: BTreeMap::new(),
        pending: Vec::new(),
        puts: 0,
    };
    for &choice in choices {
        let detail = choice as usize / 8;
        match choice % 8 {
            0..=2 => store.begin(detail),
            3..=4 => store.apply(detail),
            5..=6 => store.complete(detail),
            _ => store.give_up(detail),
        }
    }
    // Half of the histories end with operations under way, which is as good as given up.
    if choices.len().is_multiple_of(2) || !manner.gives_up_conditional {
        for number in (0..store.pending.len()).rev() {
            store.apply(number);
        }
        while store.pending.iter().any(|pending| pending.answer.is_some() && !pending.given_up) {
            store.complete(0);
        }
    }
    for key in KEYS {
        store.script.history.shards.insert(Key::try_from(key).unwrap(), ShardId(1));
    }
    store.script.history
}

impl Store {
    fn begin(&mut self, detail: usize) {
        if self.pending.iter().filter(|pending| !pending.given_up).count() >= CLIENTS {
            return;
        }
        let key = KEYS[detail % KEYS.len()];
        let detail = detail / KEYS.len();
        let (kind, want_previous, detail) = (detail % 8, (detail / 8).is_multiple_of(3), detail / 24);
        let told = self.told.get(&Key::try_from(key).unwrap()).map_or(&[][..], Vec::as_slice);
        let told = told.get(told.len().saturating_sub(1 + detail % 4)).copied();
        // Where nothing has been told: one that there never is.
        let at_told = Condition::RevisionIs(told.unwrap_or(Revision(u64::MAX)));
        let action = match kind {
            0..=2 => Action::Get,
            3..=5 => {
                let condition = [Condition::Always, Condition::Absent, at_told][kind - 3];
                Action::Put { value: self.value(detail), condition, want_previous }
            }
            6 => Action::Delete { condition: Condition::Always, want_previous },
            _ => Action::Delete { condition: at_told, want_previous },
        };
        let place = self.script.begin_on(key, action);
        self.pending.push(Pending { place, answer: None, given_up: false });
    }

    fn value(&mut self, detail: usize) -> bytes::Bytes {
        self.puts += 1;
        let number = if self.manner.unique_values { self.puts } else { detail % VALUES };
        number.to_string().into()
    }

    fn pick(&self, detail: usize, is_wanted: impl Fn(&Pending) -> bool) -> Option<usize> {
        let wanted: Vec<usize> = (0..self.pending.len()).filter(|&it| is_wanted(&self.pending[it])).collect();
        wanted.get(detail % wanted.len().max(1)).copied()
    }

    fn apply(&mut self, detail: usize) {
        let Some(number) = self.pick(detail, |pending| pending.answer.is_none()) else { return };
        let place = self.pending[number].place;
        let Operation { key, action, .. } = self.script.history.operations[place].clone();
        let current = self.keys.get(&key).cloned();
        let answer = self.answer(&key, &action, current, detail);
        if self.pending[number].given_up {
            self.pending.remove(number);
        } else {
            self.pending[number].answer = Some(answer);
        }
    }

    fn answer(&mut self, key: &Key, action: &Action, current: Option<Version>, detail: usize) -> Answer {
        let holds = match action.condition() {
            Condition::Always => true,
            Condition::Absent => current.is_none(),
            Condition::RevisionIs(revision) => current.as_ref().is_some_and(|it| it.revision == revision),
        };
        let wanted = |version: Option<Version>| {
            version.map(|it| Version { value: it.value.filter(|_| action.wants_previous()), ..it })
        };
        if !holds {
            return Answer::ConditionFailed { current: wanted(current) };
        }
        let previous = current.clone().filter(|_| action.wants_previous());
        let next = Revision(self.revision + 1 + detail as u64 % 2);
        match action {
            Action::Get => Answer::Got(current),
            Action::Put { value, .. } => {
                let create_revision = current.as_ref().map_or(next, |it| it.create_revision);
                let version = current.map_or(1, |it| it.version + 1);
                let value = Some(value.clone());
                self.keys.insert(key.clone(), Version { value, revision: next, create_revision, version });
                self.revision = next.get();
                Answer::Put { revision: next, create_revision, version, previous }
            }
            Action::Delete { .. } if self.keys.remove(key).is_some() => {
                self.revision = next.get();
                Answer::Deleted { revision: next, previous }
            }
            Action::Delete { .. } => Answer::NotFound,
        }
    }

    fn complete(&mut self, detail: usize) {
        let Some(number) = self.pick(detail, |it| it.answer.is_some() && !it.given_up) else { return };
        let Pending { place, answer, .. } = self.pending.remove(number);
        let answer = answer.unwrap();
        if let Answer::Got(Some(Version { revision, .. }))
        | Answer::ConditionFailed { current: Some(Version { revision, .. }) }
        | Answer::Put { revision, .. } = &answer
        {
            let key = self.script.history.operations[place].key.clone();
            self.told.entry(key).or_default().push(*revision);
        }
        self.script.end(place, answer);
    }

    /// A client is told that nothing happened, where that is so, or gives up.
    fn give_up(&mut self, detail: usize) {
        let Some(number) = self.pick(detail / 2, |it| !it.given_up) else { return };
        let Pending { place, answer, .. } = &self.pending[number];
        let (place, is_applied) = (*place, answer.is_some());
        let action = &self.script.history.operations[place].action;
        if detail.is_multiple_of(2) && !is_applied {
            self.script.complete(place, Completion::Fail("refused".to_owned()));
            self.pending.remove(number);
        } else if action.is_write()
            && (self.manner.gives_up_conditional || action.condition() == Condition::Always)
        {
            self.script.complete(place, Completion::Unknown("deadline".to_owned()));
            if is_applied {
                self.pending.remove(number);
            } else {
                self.pending[number].given_up = true;
            }
        }
    }
}
