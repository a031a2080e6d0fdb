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
        let taken = tokio::task::spawn_blocking(|| {
            let path = std::env::temp_dir().join("kvd-tests.lock");
            let file = File::options().create(true).truncate(false).write(true).open(&path);
            let file = file.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            file.lock().expect("a file can be locked");
            Self(file)
        });
        taken.await.expect("nothing in it panics")
    }
}
