//! One cluster at a time.
//!
//! Tests run side by side, in one process and in several; three nodes each would starve each other, and what fails then
//! says nothing. A lock on a file orders them all.

use std::fs::File;

/// The right to start processes, for as long as this lives.
#[derive(Debug)]
pub struct Turn(#[expect(dead_code, reason = "held for its lock")] File);

impl Turn {
    /// Waits for it, however long the others take: each has a deadline of its own.
    ///
    /// # Panics
    /// The lock's file can't be made.
    pub async fn take() -> Self {
        Self::take_of("kvd-tests").await
    }

    /// Waits for the right to do what has this name, which nobody else on this machine does meanwhile.
    ///
    /// # Panics
    /// The lock's file can't be made.
    pub async fn take_of(what: &'static str) -> Self {
        let taken = tokio::task::spawn_blocking(move || {
            let path = std::env::temp_dir().join(format!("{what}.lock"));
            let file = File::options().create(true).truncate(false).write(true).open(&path);
            let file = file.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            file.lock().expect("a file can be locked");
            Self(file)
        });
        taken.await.expect("nothing in it panics")
    }
}
