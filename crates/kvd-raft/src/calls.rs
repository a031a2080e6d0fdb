//! Calls of openraft that may be given up at any moment.
//!
//! Whoever calls goes away when a deadline passes or a connection ends. Openraft does not expect that while a group's core
//! ends: the first call to notice waits for the core's task, and if it is dropped before that is over every later call
//! panics (0.10.0-alpha.37, `RaftInner::get_core_stop_error`). So once the core has ended a call that is given up is
//! brought to its end by a task of its own; as long as the core is there, it is just dropped.

use std::future::{Future, pending};

use futures::{FutureExt as _, future::BoxFuture};
use openraft::async_runtime::WatchReceiver as _;
use tokio::{
    runtime::Handle,
    task::{JoinError, unconstrained},
};

use crate::group::Raft;

/// Makes a call. Its first poll hands the message over, as openraft's own does.
pub(crate) async fn call<F>(raft: &Raft, make: impl FnOnce(Raft) -> F) -> F::Output
where
    F: Future<Output: Send> + Send + 'static,
{
    let mut under_way = UnderWay { raft, call: make(raft.clone()).boxed(), answered: false };
    let answer = (&mut under_way.call).await;
    under_way.answered = true;
    answer
}

/// Stops the core and waits until it has stopped, which it does whether or not anybody waits.
pub(crate) async fn shutdown(raft: &Raft) -> Result<(), JoinError> {
    let raft = raft.clone();
    tokio::spawn(async move { raft.shutdown().await }).await?
}

struct UnderWay<'a, T: Send + 'static> {
    raft: &'a Raft,
    call: BoxFuture<'static, T>,
    answered: bool,
}

impl<T: Send + 'static> Drop for UnderWay<'_, T> {
    fn drop(&mut self) {
        if self.answered || !has_ended(self.raft) {
            return;
        }
        // Without a runtime there is nobody left to call.
        if let Ok(runtime) = Handle::try_current() {
            drop(runtime.spawn(std::mem::replace(&mut self.call, pending().boxed())));
        }
    }
}

/// A core says so when it ends, except one that panics.
fn has_ended(raft: &Raft) -> bool {
    let mut metrics = raft.metrics();
    let stopped = metrics.borrow_and_update().running_state.is_err();
    stopped || matches!(unconstrained(metrics.changed()).now_or_never(), Some(Err(_)))
}
