//! The checkers, checked: histories with planted anomalies, which must be found; histories of a register that is right, which must be
//! accepted; and such with one thing spoiled.

mod generated;
mod locks;
mod planted;
mod register;
mod transactions;
mod versions;

use kvd_types::{Condition, Key, Revision, ShardId};

use crate::history::{Action, Answer, Completion, History, Moment, Operation, Process, Version};

/// A history that is written event by event.
#[derive(Default)]
struct Script {
    history: History,
    next_sequence: u64,
}

impl Script {
    fn moment(&mut self) -> Moment {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        Moment { sequence, time_ns: sequence * 1000 }
    }

    /// An operation on a key begins.
    fn begin_on(&mut self, key: &str, action: Action) -> usize {
        let invoked = self.moment();
        let place = self.history.operations.len();
        self.history.operations.push(Operation {
            process: Process(0),
            key: Key::try_from(key).unwrap(),
            action,
            invoked,
            completed: None,
            completion: Completion::Unknown("under way".to_owned()),
        });
        place
    }

    fn begin(&mut self, action: Action) -> usize {
        self.begin_on("k", action)
    }

    fn end(&mut self, place: usize, answer: Answer) {
        self.complete(place, Completion::Ok(answer));
    }

    fn complete(&mut self, place: usize, completion: Completion) {
        self.history.operations[place].completed = Some(self.moment());
        self.history.operations[place].completion = completion;
    }

    /// An operation during which nothing else happens.
    fn run(&mut self, action: Action, answer: Answer) {
        let place = self.begin(action);
        self.end(place, answer);
    }

    fn run_on(&mut self, key: &str, shard: u32, action: Action, answer: Answer) {
        let place = self.begin_on(key, action);
        self.end(place, answer);
        self.history.shards.insert(Key::try_from(key).unwrap(), ShardId(shard));
    }

    fn fail(&mut self, action: Action) {
        let place = self.begin(action);
        self.complete(place, Completion::Fail("refused".to_owned()));
    }

    fn unknown(&mut self, action: Action) {
        let place = self.begin(action);
        self.complete(place, Completion::Unknown("deadline".to_owned()));
    }
}

fn get() -> Action {
    Action::Get
}

fn put_if(value: &'static str, condition: Condition) -> Action {
    Action::Put { value: value.into(), condition, want_previous: false }
}

fn put(value: &'static str) -> Action {
    put_if(value, Condition::Always)
}

fn at(revision: u64) -> Condition {
    Condition::RevisionIs(Revision(revision))
}

fn delete() -> Action {
    Action::Delete { condition: Condition::Always, want_previous: false }
}

fn seen(value: &'static str, revision: u64, create_revision: u64, version: u64) -> Option<Version> {
    Some(Version {
        value: Some(value.into()),
        revision: Revision(revision),
        create_revision: Revision(create_revision),
        version,
    })
}

fn got(value: &'static str, revision: u64, create_revision: u64, version: u64) -> Answer {
    Answer::Got(seen(value, revision, create_revision, version))
}

const NOTHING: Answer = Answer::Got(None);

fn made(revision: u64, create_revision: u64, version: u64) -> Answer {
    Answer::Put {
        revision: Revision(revision),
        create_revision: Revision(create_revision),
        version,
        previous: None,
    }
}

fn deleted(revision: u64) -> Answer {
    Answer::Deleted { revision: Revision(revision), previous: None }
}
