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
    /// Lines of the input that are written.
    pub(super) lines: u64,
}

impl Progress {
    /// The beginning; `total_bytes` of input if that is known.
    pub(super) fn begin(total_bytes: Option<u64>) -> Self {
        let started = Instant::now();
        let bar = io::stderr().is_terminal().then(|| {
            let bar = total_bytes.map_or_else(ProgressBar::no_length, ProgressBar::new);
            let template = match total_bytes {
                Some(_) => "{bar:40} {percent}% of {total_bytes}, {msg}, {eta} left",
                None => "{spinner} {bytes}, {msg}",
            };
            // The templates above are right; a wrong one would show the default.
            bar.with_style(
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
            )
        });
        Self { bar, started, next_line: started + LINE_INTERVAL, lines: 0 }
    }

    /// One more line of so many bytes is written.
    pub(super) fn advance(&mut self, bytes: u64) {
        self.lines += 1;
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
            if self.lines.is_multiple_of(256) {
                bar.set_message(self.rate());
            }
        } else if Instant::now() >= self.next_line {
            self.next_line += LINE_INTERVAL;
            self.tell(&self.rate());
        }
    }

    /// The end: says how much was done.
    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.tell(&format!("{} in {:.1?}", self.rate(), self.started.elapsed()));
    }

    fn rate(&self) -> String {
        format!("{} lines, {}/s", self.lines, per_second(self.lines, self.started.elapsed()))
    }

    fn tell(&self, text: &str) {
        // Progress that nobody sees is no reason to stop.
        drop(writeln!(io::stderr(), "{text}"));
    }
}

/// How many a second, with the fractions of the time counted.
fn per_second(lines: u64, took: Duration) -> u128 {
    u128::from(lines) * 1000 / took.as_millis().max(1)
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
