//! Waiting for what is bound to happen.

use std::time::Duration;

use tokio::time::Instant;

/// Long enough for anything on a busy machine; a test that waits for it has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Looks again and again until there is something to see, and gives it.
///
/// # Panics
/// After [`PATIENCE`], with what was missing at last.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    let mut missing = "nothing was seen".to_owned();
    loop {
        match tokio::time::timeout_at(deadline, look()).await {
            Ok(Ok(seen)) => return seen,
            Ok(Err(why)) => missing = why,
            Err(_elapsed) => {}
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain for {what}: {missing}");
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
