//! A node whose disk is full.

use std::sync::Arc;

use kvd_storage::{
    disk::RealDisk,
    engine::{Engine, Tree},
    log::Observer,
    space::{Space, SpaceOptions},
};

use super::{super::disk::NodeDisk, *};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_disk_puts_are_refused_and_deletes_are_taken() {
    let mut cluster = Cluster::new(1);
    cluster.start(0).await;
    cluster.ready().await;
    let node = Arc::clone(&cluster.nodes[0].node);
    execute(&node, put("key", "value")).await.unwrap();
    let refused = async {
        loop {
            // The log makes its reserve once it has been opened, and then says that there is room.
            node.disk_full.store(true, Ordering::Relaxed);
            if let Err(refused) = execute(&node, put("key", "another")).await {
                return refused;
            }
        }
    };
    let refused = tokio::time::timeout(PATIENCE, refused).await.expect("a put is refused");
    assert!(matches!(refused.kind, ErrorKind::Overloaded { .. }), "{refused}");
    let key = Key::try_from("key").unwrap();
    let op = WriteOp::Delete { key, condition: Condition::Always, want_previous: false };
    let deleted = execute(&node, Request::write(Write { session: None, op })).await;
    assert!(matches!(deleted, Ok(Response::Deleted(Outcome::Deleted { .. }))), "{deleted:?}");
    cluster.stop(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_goes_to_the_only_node_that_has_room() {
    /// The meta group and the shards of [`config`].
    const GROUPS: usize = 5;
    let mut cluster = Cluster::of_three().await;
    cluster.settled().await;
    until(|| {
        for full in &cluster.nodes[..2] {
            full.node.disk_full.store(true, Ordering::Relaxed);
        }
        let leads = |index: usize| {
            let groups = cluster.nodes[index].node.replicas().unwrap().all();
            groups.into_iter().filter(|group| group.leadership().is_self).count()
        };
        let led = [leads(0), leads(1), leads(2)];
        if led == [0, 0, GROUPS] { Vec::new() } else { vec![format!("the nodes lead {led:?} groups")] }
    })
    .await;
    let written = async {
        for i in 0..10 {
            // On a starved machine a node with a full disk may be elected, for a while.
            while let Err(error) =
                execute(&cluster.nodes[i % 3].node, put(&format!("key-{i}"), &format!("value-{i}"))).await
            {
                assert!(error.is_retryable() && !error.outcome_unknown(), "{error}");
            }
        }
    };
    tokio::time::timeout(PATIENCE, written).await.expect("puts are taken");
    cluster.check_values(10).await;
    for _ in 0..3 {
        cluster.stop(0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_successor_has_a_full_disk_leads_on_as_if_nothing_had_been() {
    let mut cluster = Cluster::of_three().await;
    cluster.settled().await;
    let group_id = GroupId(1);
    let preferred = cluster.nodes[0].node.meta().placements[&group_id].preferred_leader;
    let led_by = |index: usize| {
        let group = cluster.nodes[index].node.replicas().unwrap().group(group_id)?;
        (group.leadership().is_self && group.replica() == preferred).then_some((index, group))
    };
    let find = || (0..3).find_map(led_by);
    until(|| if find().is_some() { Vec::new() } else { vec!["the preferred one does not lead".to_owned()] })
        .await;
    let (leader, group) = find().expect("it leads");
    let full = &cluster.nodes[(leader + 1) % 3].node;
    full.disk_full.store(true, Ordering::Relaxed);
    let successor = full.replicas().unwrap().group(group_id).unwrap().replica();
    until(|| if group.members().is_caught_up(successor) { Vec::new() } else { vec!["it lags".to_owned()] })
        .await;

    let node = &cluster.nodes[leader].node;
    let refused = node.hand_over(&group, successor, Duration::from_secs(2)).await.unwrap_err();
    assert!(refused.message.contains("disk is full"), "{refused}");
    let opened = group.propose(kvd_types::Command::OpenSession).await;
    assert!(matches!(opened, Ok(Outcome::SessionOpened(_))), "it takes writes: {opened:?}");
    for _ in 0..3 {
        cluster.stop(0).await;
    }
}

#[tokio::test]
async fn a_node_with_a_full_disk_takes_over_no_group() {
    let node = Node::new(
        Arc::new(System::default()),
        Config::default(),
        CancellationToken::new(),
        Arc::new(Metrics::new("test")),
    );
    let node = Arc::new(node);
    let peers = Peers(Arc::clone(&node));
    let ask = async || {
        let body = p::envelope::Body::TransferLeader(p::TransferLeaderRequest::default());
        let message = p::Envelope { body: Some(body), ..p::Envelope::default() };
        let answer = kvd_raft::peer::PeerHandler::handle(&peers, message).await;
        let Some(p::envelope::Body::Refusal(refusal)) = answer.body else { panic!("{answer:?}") };
        refusal.message
    };
    let why = ask().await;
    assert!(why.contains("is not on this node"), "{why}");
    node.disk_full.store(true, Ordering::Relaxed);
    let why = ask().await;
    assert!(why.contains("disk is full; another one must lead"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_does_not_fit_is_refused_before_it_is_sent() {
    let mut cluster = Cluster::new(1);
    cluster.start(0).await;
    cluster.ready().await;
    let peers = Peers(Arc::clone(&cluster.nodes[0].node));
    let check = async |size_bytes| {
        let header = p::CheckpointHeader { size_bytes, ..p::CheckpointHeader::default() };
        kvd_raft::peer::PeerHandler::check_checkpoint(&peers, &header).await
    };
    assert_eq!(check(1).await, Ok(()));
    // Twice as much is next to nothing, if it is not bounded.
    for size_bytes in [1 << 60, (1 << 63) + 1] {
        let refused = check(size_bytes).await.unwrap_err();
        assert!(matches!(refused.kind, ErrorKind::Overloaded { .. }), "{refused}");
        assert!(refused.message.contains("no room for a checkpoint"), "{refused}");
    }
    cluster.stop(0).await;
}

#[derive(Debug)]
struct Unwatched;

impl Observer for Unwatched {}

/// Nothing may flush it.
#[derive(Debug)]
struct NeverFlushed(Arc<dyn Engine>);

impl Engine for NeverFlushed {
    fn tree(&self, name: &str) -> kvd_storage::Result<Arc<dyn Tree>> {
        self.0.tree(name)
    }

    fn tree_names(&self) -> kvd_storage::Result<Vec<String>> {
        self.0.tree_names()
    }

    fn flush(&self) -> kvd_storage::Result<()> {
        panic!("flushed without room")
    }
}

#[test]
fn on_a_full_disk_the_engine_is_not_flushed_whoever_asks() {
    let config = Cluster::new(1).configs.remove(0);
    let open = || NodeDisk::open(&System::default(), &config, Arc::new(Unwatched), 1).unwrap().0;
    let disk = open();
    assert!(disk.flush().unwrap());
    disk.close().unwrap();
    assert!(disk.identity().clean_stop);
    drop(disk);

    let mut full = open();
    // Room is what leaves as much as the ballast takes.
    let options = SpaceOptions { ballast_bytes: u64::MAX, ..SpaceOptions::default() };
    full.space = Space::new(Arc::new(RealDisk), &config.data_dir, options);
    full.engine = Arc::new(NeverFlushed(Arc::clone(&full.engine)));
    let before = full.identity();
    assert!(!full.flush().unwrap());
    full.set_state_trusted().unwrap();
    full.close().unwrap();
    assert_eq!(full.identity(), before, "nothing is noted of what was not done");
    assert!(!before.clean_stop);
}
