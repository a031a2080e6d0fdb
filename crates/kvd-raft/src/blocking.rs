//! The seam between tasks and the disk: where work that waits for it is done.
//!
//! A task that blocks keeps all others of its thread waiting, so such work goes to threads of its own. A simulation has
//! only one thread, which is what makes its runs repeat; there the work is done in place.

use std::io;

/// Where work that may wait for the disk is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Blocking {
    /// On the runtime's threads for blocking work.
    #[default]
    Pool,
    /// Here, after all other tasks that are ready have had their turn.
    Inline,
}

impl Blocking {
    /// Does the work.
    ///
    /// # Errors
    /// The work's own; another one if it panicked or the runtime is going down.
    pub async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        match self {
            Self::Pool => tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?,
            Self::Inline => {
                tokio::task::yield_now().await;
                work()
            }
        }
    }
}
