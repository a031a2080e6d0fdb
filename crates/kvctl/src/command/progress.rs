//! How far a long verb is, on standard error: a bar on a terminal, else a line every few seconds.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

/// How often a line is written where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// How far a long verb is.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    started: Instant,
    next_line: Instant,
    /// What is counted.
    what: &'static str,
    /// How many are done.
    pub(super) done: u64,
}

impl Progress {
    /// The beginning, of so many `what`; `total_bytes` of input if that is known.
    pub(super) fn begin(what: &'static str, total_bytes: Option<u64>) -> Self {
        let started = Instant::now();
        let bar = io::stderr().is_terminal().then(|| {
            let bar = total_bytes.map_or_else(ProgressBar::no_length, ProgressBar::new);
            let template = match total_bytes {
                Some(_) => "{bar:40} {percent}% of {total_bytes}, {msg}, {eta} left",
                None => "{spinner} {msg}",
            };
            // The templates above are right; a wrong one would show the default.
            bar.with_style(
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
            )
        });
        Self { bar, started, next_line: started + LINE_INTERVAL, what, done: 0 }
    }

    /// One more of so many bytes is done.
    pub(super) fn advance(&mut self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
        let is_shown = self.done.is_multiple_of(256);
        self.reach(self.done + 1, is_shown);
    }

    /// So many are done by now.
    pub(super) fn reached(&mut self, done: u64) {
        self.reach(done, true);
    }

    fn reach(&mut self, done: u64, is_shown: bool) {
        self.done = done;
        if let Some(bar) = &self.bar {
            if is_shown {
                bar.set_message(self.rate());
            }
        } else if Instant::now() >= self.next_line {
            self.next_line += LINE_INTERVAL;
            self.tell(&self.rate());
        }
    }

    /// The end, of which nothing need be said.
    pub(super) fn end_quietly(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// The end: says how much was done.
    pub(super) fn end(&self) {
        self.end_quietly();
        self.tell(&format!("{} in {:.1?}", self.rate(), self.started.elapsed()));
    }

    fn rate(&self) -> String {
        format!("{} {}, {}/s", self.done, self.what, per_second(self.done, self.started.elapsed()))
    }

    fn tell(&self, text: &str) {
        // Progress that nobody sees is no reason to stop.
        drop(writeln!(io::stderr(), "{text}"));
    }
}

/// How many a second, with the fractions of the time counted.
fn per_second(count: u64, took: Duration) -> u128 {
    u128::from(count) * 1000 / took.as_millis().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_counts_fractions_of_a_second() {
        assert_eq!(per_second(63_666, Duration::from_millis(3700)), 17_207);
        assert_eq!(per_second(10, Duration::from_millis(500)), 20);
        assert_eq!(per_second(0, Duration::ZERO), 0);
    }
}
