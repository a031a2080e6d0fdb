//! Checkpoints over gRPC, and who is believed to have them.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use futures::{FutureExt as _, future::BoxFuture};
use kvd_proto::{net::Dialer, peer::v1 as p};
use kvd_types::{ClusterId, Error, Incarnation, NodeId, ReplicaId, Result};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use super::harness::{self, Network, Node, leader, put_many, until, value};
use crate::{
    Group,
    blocking::Blocking,
    peer::{AddressBook, Handshake, PeerHandler, PeerNetwork, PeerService},
};

/// A node that takes checkpoints for one replica, and says how often it has started.
#[derive(Default)]
struct Host {
    replica: Mutex<Option<Group>>,
    starts: AtomicU64,
    /// How often it will still say that it has no room.
    full: AtomicUsize,
}

fn handshake(starts: u64) -> Handshake {
    Handshake {
        cluster: Some(ClusterId(1)),
        token: String::new(),
        from: NodeId(0),
        to: NodeId(0),
        incarnation: Incarnation(starts),
        start_nonce: 0,
    }
}

impl PeerHandler for Host {
    fn admit(&self, _caller: &Handshake) -> Result<CancellationToken> {
        Ok(CancellationToken::new())
    }

    fn introduce(&self) -> Handshake {
        handshake(self.starts.load(Ordering::Relaxed))
    }

    fn probe(&self, _caller: &Handshake) -> Result<p::ProbeResponse> {
        Err(Error::unavailable("not here"))
    }

    fn propose_meta(
        &self,
        _caller: Handshake,
        _request: p::ProposeMetaRequest,
    ) -> BoxFuture<'static, Result<p::ProposeMetaResponse>> {
        async { Err(Error::unavailable("not here")) }.boxed()
    }

    fn handle(&self, _message: p::Envelope) -> BoxFuture<'static, p::Envelope> {
        async { p::Envelope::default() }.boxed()
    }

    fn check_checkpoint(&self, _header: &p::CheckpointHeader) -> BoxFuture<'static, Result<()>> {
        let full = self.full.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |times| times.checked_sub(1));
        async move { full.map_or(Ok(()), |_| Err(Error::unavailable("no room"))) }.boxed()
    }

    fn replica(&self, id: ReplicaId) -> Option<Group> {
        self.replica.lock().clone().filter(|group| group.replica() == id)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_went_to_a_copy_of_the_node_does_not_count() {
    let (network, mut nodes, mut groups) = harness::three().await;
    leader(&groups).await;
    let (late, mut late_node) = (groups.remove(2), nodes.remove(2));
    late_node.crash(&late).await;
    let (_, group) = leader(&groups).await;
    put_many(&group, "key-", 100).await;
    for group in &groups {
        group.checkpoint().await.unwrap();
    }
    until("the log is purged right up to the checkpoint", || group.log_bytes() == 0).await;

    let host = Arc::new(Host { starts: AtomicU64::new(1), ..Host::default() });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses = AddressBook::default();
    addresses.set(late_node.replica().node, listener.local_addr().unwrap().to_string());
    let stop = CancellationToken::new();
    let service = PeerService::server(Arc::clone(&host), stop.clone());
    let serving = Server::builder().add_service(service);
    let serving = serving
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop.clone().cancelled_owned());
    let serving = tokio::spawn(serving);

    // It is known that the node has started twice.
    let refused = Arc::new(AtomicUsize::new(0));
    let refusals = Arc::clone(&refused);
    let verify = move |answering: &Handshake| {
        if answering.incarnation >= Incarnation(2) {
            return Ok(());
        }
        refusals.fetch_add(1, Ordering::Relaxed);
        Err(Error::unavailable("an old copy"))
    };
    let carrier =
        PeerNetwork::new(handshake(1), addresses, Arc::new(verify), Dialer::default(), Blocking::Pool);
    network.send_checkpoints_by(Arc::new(carrier));
    let copy_node = Node::new(late_node.id, &Network::default());
    let copy = copy_node.open().await;
    *host.replica.lock() = Some(copy.clone());
    until("the copy was sent checkpoints", || refused.load(Ordering::Relaxed) >= 2).await;
    assert!(copy.status().checkpoint_index.is_some());

    // What the copy has the node lacks; and at first it has no room.
    host.full.store(2, Ordering::Relaxed);
    let late = late_node.open().await;
    *host.replica.lock() = Some(late.clone());
    host.starts.store(2, Ordering::Relaxed);
    until("room was asked for", || host.full.load(Ordering::Relaxed) == 0).await;
    until("it follows", || value(&late, "key-99").is_some()).await;
    assert_eq!(*group.fault().borrow(), None);
    copy_node.stop(&copy).await;
    stop.cancel();
    serving.await.unwrap().unwrap();
}
