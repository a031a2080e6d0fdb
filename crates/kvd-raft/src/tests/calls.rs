//! Calls that are given up while a core ends.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use kvd_proto::peer::v1 as p;
use kvd_storage::checkpoint::Checkpoint;
use kvd_types::{GroupId, NodeId, ReplicaId};
use openraft::{Config, async_runtime::WatchReceiver as _, errors::Fatal, testing::log::StoreBuilder as _};
use tokio::task::{consume_budget, yield_now};
use tokio_util::task::TaskTracker;

use super::conformance::{Builder, Disk};
use crate::{
    CallError, Lane, Transport,
    calls::{call, shutdown},
    confirm::CommittedTold,
    group::Raft,
    network::{NetworkFactory, NetworkOptions},
};

/// How many steps tokio lets a task take in a row.
const STEPS_OF_A_TASK: usize = 128;

struct Nobody;

impl Transport for Nobody {
    fn call(
        &self,
        to: NodeId,
        _lane: Lane,
        _message: p::Envelope,
        _patience: Duration,
    ) -> BoxFuture<'static, Result<p::Envelope, CallError>> {
        async move { Err(CallError::Unreachable(to, "it is alone".to_owned())) }.boxed()
    }

    fn send_checkpoint(
        &self,
        to: NodeId,
        _header: p::CheckpointHeader,
        _checkpoint: Checkpoint,
    ) -> BoxFuture<'static, Result<p::SendCheckpointResponse, CallError>> {
        async move { Err(CallError::Unreachable(to, "it is alone".to_owned())) }.boxed()
    }
}

/// A core without peers.
async fn alone() -> (Disk, Raft) {
    let (disk, store, machine) = Builder.build().await.unwrap();
    let second = Duration::from_secs(1);
    let network = NetworkFactory {
        group: GroupId(1),
        replica: ReplicaId(1),
        transport: Arc::new(Nobody),
        options: NetworkOptions { append_patience: second, control_patience: second },
        sending: TaskTracker::new(),
        told: CommittedTold::default(),
    };
    let config = Arc::new(Config::default());
    (disk, Raft::new(ReplicaId(1), config, network, store, machine).await.unwrap())
}

#[tokio::test]
async fn a_call_that_is_given_up_as_the_core_ends_does_not_make_the_others_panic() {
    let (_disk, raft) = alone().await;
    // It is dropped before anything waits for its answer.
    drop(raft.with_raft_state(|_| panic!("the core ends")).now_or_never());
    let mut metrics = raft.metrics();
    while metrics.changed().await.is_ok() {}

    // Tokio has a task wait, once it has taken its share of steps: with so few left, some of these are given up where openraft
    // waits for the core's task.
    for left in 0..STEPS_OF_A_TASK {
        yield_now().await;
        for _ in left..STEPS_OF_A_TASK {
            consume_budget().now_or_never();
        }
        drop(call(&raft, |raft| async move { raft.with_raft_state(|_| ()).await }).now_or_never());
    }
    yield_now().await;
    let asked = call(&raft, |raft| async move { raft.with_raft_state(|_| ()).await }).await;
    assert_eq!(asked, Err(Fatal::Panicked));
}

#[tokio::test]
async fn a_shutdown_that_nobody_waits_for_is_ended() {
    let (_disk, raft) = alone().await;
    assert!(shutdown(&raft).now_or_never().is_none(), "it was given up before the core had ended");
    let ask = || call(&raft, |raft| async move { raft.with_raft_state(|_| ()).await });
    while ask().await != Err(Fatal::Stopped) {
        yield_now().await;
    }
}
