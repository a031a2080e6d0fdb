//! What is said to whoever watches: plain lines on standard error.

/// Says a line.
pub(crate) fn say(line: &str) {
    eprintln!("{line}");
}
