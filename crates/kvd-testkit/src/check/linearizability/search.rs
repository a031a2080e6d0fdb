//! The search for an order.

use std::{collections::HashSet, num::NonZeroUsize};

use super::{
    Verdict,
    model::{Model, State},
};

/// Operations that are named where none can come next.
const STUCK_MAX: usize = 8;

/// A configuration: which steps have been taken, and what they have left.
type Configuration = (Box<[u64]>, State);

/// A set of steps.
#[derive(Clone, Debug)]
struct Taken {
    words: Vec<u64>,
    /// The first step that must happen and hasn't been taken.
    frontier: usize,
    /// How many that must happen have been taken.
    count: usize,
    completed: usize,
}

/// A choice that was made, and those that remain.
struct Frame {
    /// What was taken since the choice before: the chosen write, and what it let be observed.
    taken: Vec<usize>,
    /// The state that this led to.
    state: State,
    /// What can come next.
    choices: Vec<usize>,
    next_choice: usize,
}

impl Taken {
    fn none(model: &Model<'_>) -> Self {
        let words = vec![0; model.steps.len().div_ceil(64)];
        Self { words, frontier: 0, count: 0, completed: model.completed }
    }

    fn has(&self, step: usize) -> bool {
        self.words.get(step / 64).is_some_and(|word| word >> (step % 64) & 1 == 1)
    }

    fn add(&mut self, step: usize) {
        self.words[step / 64] |= 1 << (step % 64);
        self.count += usize::from(step < self.completed);
        while self.frontier < self.completed && self.has(self.frontier) {
            self.frontier += 1;
        }
    }

    fn remove(&mut self, step: usize) {
        self.words[step / 64] &= !(1 << (step % 64));
        if step < self.completed {
            self.count -= 1;
            self.frontier = self.frontier.min(step);
        }
    }

    /// Told apart from all others, in little room: all steps before the frontier are taken and need not be listed.
    fn fingerprint(&self, last_reached: usize) -> Box<[u64]> {
        let begin = self.frontier / 64;
        let end = (last_reached / 64 + 1).min(self.words.len());
        let unknown = self.completed / 64;
        let window = self.words.get(begin..end).unwrap_or_default();
        let rest = self.words.get(unknown.max(end)..).unwrap_or_default();
        let begin = u64::try_from(begin).unwrap_or(u64::MAX);
        let length = u64::try_from(window.len()).unwrap_or(u64::MAX);
        [begin, length].iter().chain(window).chain(rest).copied().collect()
    }
}

/// Searches for an order.
pub(super) fn search(model: &Model<'_>, states_max: NonZeroUsize) -> Verdict {
    let mut taken = Taken::none(model);
    let mut known: HashSet<Configuration> = HashSet::new();
    let mut best = (0, Vec::new());
    let mut frames = vec![enter(model, &mut taken, None, None)];
    while let Some(frame) = frames.last_mut() {
        if taken.count == model.completed {
            return Verdict::Linearizable;
        }
        let is_new = frame.next_choice > 0 || {
            let (window, last_reached) = window(model, &taken);
            if taken.count >= best.0 {
                best = (taken.count + 1, window);
            }
            known.insert((taken.fingerprint(last_reached), frame.state))
        };
        if known.len() > states_max.get() {
            return Verdict::Undecided(known.len());
        }
        match frame.choices.get(frame.next_choice).copied().filter(|_| is_new) {
            Some(choice) => {
                frame.next_choice += 1;
                let state = frame.state;
                frames.push(enter(model, &mut taken, Some(choice), state));
            }
            None => {
                for &step in &frame.taken {
                    taken.remove(step);
                }
                frames.pop();
            }
        }
    }
    let mut stuck = best.1;
    stuck.sort_by_key(|&number| model.steps[number].returned);
    stuck.truncate(STUCK_MAX);
    Verdict::NotLinearizable(stuck.into_iter().map(|number| model.steps[number].place).collect())
}

/// Takes a choice, and with it all that can only observe; finds what can come next.
fn enter(model: &Model<'_>, taken: &mut Taken, choice: Option<usize>, before: State) -> Frame {
    let mut frame = Frame { taken: Vec::new(), state: before, choices: Vec::new(), next_choice: 0 };
    if let Some(choice) = choice {
        frame.state = model.step(choice, before).unwrap_or(before);
        taken.add(choice);
        frame.taken.push(choice);
    }
    loop {
        let (window, _) = window(model, taken);
        let observed: Vec<usize> = window
            .iter()
            .copied()
            .filter(|&step| model.only_observes(step) && model.step(step, frame.state).is_some())
            .collect();
        if observed.is_empty() {
            frame.choices = choices(model, taken, frame.state, window);
            return frame;
        }
        for step in observed {
            taken.add(step);
            frame.taken.push(step);
        }
    }
}

/// The steps that must happen and that none of the others must precede, and the last one that was looked at.
fn window(model: &Model<'_>, taken: &Taken) -> (Vec<usize>, usize) {
    let mut first_return = u64::MAX;
    let mut window = Vec::new();
    let mut last_reached = taken.frontier;
    for (number, step) in model.steps.iter().enumerate().take(model.completed).skip(taken.frontier) {
        if step.invoked > first_return {
            break;
        }
        last_reached = number;
        if !taken.has(number) {
            first_return = first_return.min(step.returned);
            window.push(number);
        }
    }
    (window, last_reached)
}

/// The writes that can come next: those that must happen first, the first to complete before the others.
fn choices(model: &Model<'_>, taken: &Taken, state: State, window: Vec<usize>) -> Vec<usize> {
    let first_return = window.iter().map(|&step| model.steps[step].returned).min().unwrap_or(u64::MAX);
    let mut choices = window;
    choices.retain(|&step| !model.only_observes(step) && model.step(step, state).is_some());
    choices.sort_by_key(|&step| model.steps[step].returned);
    let unknown = (model.completed..model.steps.len())
        .take_while(|&step| model.steps[step].invoked < first_return)
        .filter(|&step| !taken.has(step))
        .filter(|&step| model.twins[step].is_none_or(|twin| taken.has(twin)))
        .filter(|&step| model.step(step, state).is_some());
    choices.extend(unknown);
    choices
}
