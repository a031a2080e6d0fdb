//! What this node does with other nodes' calls.
//!
//! A caller must show the cluster's token, the cluster's id and the right target, and must not be an earlier start of its
//! node, nor another process on a copy of its disk, nor a node that was replaced. What is turned away is turned away before
//! any group hears of it.

use std::sync::Arc;

use futures::{FutureExt as _, future::BoxFuture};
use kvd_machine::MetaState;
use kvd_proto::{
    log::{meta_command_from_wire, meta_outcome_to_wire, node_to_wire},
    operation::{reply_to_wire, request_from_wire},
    peer::v1::{self as p, envelope::Body, refusal::Reason},
    v1,
};
use kvd_raft::{
    Group,
    peer::{Handshake, PeerHandler},
};
use kvd_types::{
    Error, ErrorKind, GroupId, Incarnation, NodeId, ReplicaId, Result,
    cluster::{MetaCommand, MetaOutcome, NodeProfile},
    limits::{REQUEST_DEADLINE_DEFAULT, REQUEST_DEADLINE_MAX},
};
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use super::{Node, bootstrap};

/// How long the meta group may take for a change that another node asks for.
const META_TIMEOUT: Duration = Duration::from_secs(4);

/// One start of another node.
#[derive(Default)]
pub(super) struct Start {
    incarnation: Incarnation,
    nonce: u128,
    /// Cancelled once a later start has called.
    admitted: CancellationToken,
}

/// A node, as other nodes call it.
pub(super) struct Peers(pub(super) Arc<Node>);

impl PeerHandler for Peers {
    fn admit(&self, caller: &Handshake) -> Result<CancellationToken> {
        self.0.check_token(caller)?;
        self.0.check_member(caller)?;
        self.0.check_target(caller)?;
        self.0.check_start(caller)
    }

    fn introduce(&self) -> Handshake {
        self.0.handshake(NodeId(0))
    }

    fn probe(&self, caller: &Handshake) -> Result<p::ProbeResponse> {
        self.0.check_token(caller)?;
        let joined = self.0.joined();
        let nonce = self.0.start_nonce;
        Ok(p::ProbeResponse {
            start_nonce_high: u64::try_from(nonce >> 64).unwrap_or_default(),
            start_nonce_low: u64::try_from(nonce & u128::from(u64::MAX)).unwrap_or_default(),
            cluster_id: joined.map(|joined| joined.cluster.to_string()).unwrap_or_default(),
            node: joined.map_or(0, |joined| joined.node.get()),
            seeds_hash: bootstrap::seeds_hash(&self.0.config.seeds),
        })
    }

    fn propose_meta(
        &self,
        caller: Handshake,
        request: p::ProposeMetaRequest,
    ) -> BoxFuture<'static, Result<p::ProposeMetaResponse>> {
        let node = Arc::clone(&self.0);
        async move { node.propose_meta_for(&caller, request).await }.boxed()
    }

    fn handle(&self, message: p::Envelope) -> BoxFuture<'static, p::Envelope> {
        let (group, from, to) = (message.group, message.from_replica, message.to_replica);
        let node = Arc::clone(&self.0);
        async move {
            let body = match message.body {
                Some(Body::Operation(operation)) => {
                    Body::OperationResult(node.serve_forwarded(operation).await)
                }
                Some(Body::Pulse(question)) => match node.replicas() {
                    Ok(replicas) => Body::PulseResponse(replicas.pulses().answer(&question)),
                    Err(error) => Body::Refusal(refusal(Reason::ReplicaFailed, error.message)),
                },
                Some(body) => match (node.fullness().check_message(&body, to), node.replica_for(group, to)) {
                    (Ok(()), Ok(group)) => group.handle(body).await,
                    (Ok(()), Err(refusal)) => Body::Refusal(refusal),
                    (Err(why), _) => Body::Refusal(refusal(Reason::ReplicaFailed, why.to_owned())),
                },
                None => Body::Refusal(refusal(Reason::Malformed, "a message without a body".to_owned())),
            };
            p::Envelope { call: 0, group, from_replica: to, to_replica: from, body: Some(body) }
        }
        .boxed()
    }

    fn check_checkpoint(&self, header: &p::CheckpointHeader) -> BoxFuture<'static, Result<()>> {
        let (node, size_bytes) = (Arc::clone(&self.0), header.size_bytes);
        async move { node.check_checkpoint_room(size_bytes).await }.boxed()
    }

    fn replica(&self, id: ReplicaId) -> Option<Group> {
        self.0.replicas().ok()?.replica(id)
    }
}

impl Node {
    fn check_token(&self, caller: &Handshake) -> Result<()> {
        if caller.token == self.config.cluster_token.reveal() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::PermissionDenied,
            "the caller's cluster token is not this cluster's: give both nodes the same one, or other seeds",
        ))
    }

    fn check_cluster(&self, caller: &Handshake) -> Result<()> {
        let ours = self.joined().map(|joined| joined.cluster);
        match (caller.cluster, ours) {
            (Some(theirs), Some(ours)) if theirs != ours => Err(refused(format!(
                "the caller belongs to cluster {theirs}, this node to cluster {ours}: an address in a seed list or a data \
                 directory is another cluster's"
            ))),
            _ => Ok(()),
        }
    }

    /// Whoever reaches a group or changes the cluster must say that it is one of its nodes.
    fn check_member(&self, caller: &Handshake) -> Result<()> {
        if caller.cluster.is_none() || caller.from == NodeId(0) {
            return Err(refused(
                "the caller is in no cluster yet: all that it can ask for is to join".to_owned(),
            ));
        }
        self.check_cluster(caller)
    }

    /// Judges a node that has answered a call.
    pub(super) fn check_answering(&self, answering: &Handshake) -> Result<()> {
        self.check_cluster(answering)?;
        self.check_start(answering).map(drop)
    }

    fn check_target(&self, caller: &Handshake) -> Result<()> {
        let joined = self.joined().ok_or_else(|| Error::unavailable("this node is in no cluster yet"))?;
        if caller.to == joined.node {
            return Ok(());
        }
        Err(refused(format!(
            "this is node {}, not node {}: does an address belong to another node now?",
            joined.node, caller.to
        )))
    }

    /// Refuses an earlier start of a node, a second process on a copy of its disk, and a node that was replaced: nothing
    /// is registered of its starts any more, so that an old copy of its disk could not be told. The lanes of earlier
    /// starts end.
    fn check_start(&self, caller: &Handshake) -> Result<CancellationToken> {
        let state = self.meta();
        if let Some(farewell) = state.farewell(caller.from) {
            return Err(refused(farewell));
        }
        let registered = state.nodes.get(&caller.from).map(|node| (node.incarnation, node.start_nonce));
        let mut seen = self.seen.lock();
        let called = seen.get(&caller.from).map(|start| (start.incarnation, start.nonce));
        // Of two processes at the same count the registered one is the node, whoever called first.
        let latest = match (registered, called) {
            (Some(registered), Some(called)) if called.0 > registered.0 => Some(called),
            (Some(registered), _) => Some(registered),
            (None, called) => called,
        };
        let (incarnation, nonce) = latest.unwrap_or_default();
        if caller.incarnation < incarnation {
            return Err(refused(format!(
                "node {} has started {incarnation} times, the caller only {} times: its data directory is an old copy. \
                 Start it with an empty one; it joins as a new node",
                caller.from, caller.incarnation
            )));
        }
        if caller.incarnation == incarnation && incarnation != Incarnation(0) && caller.start_nonce != nonce {
            return Err(refused(format!(
                "two processes run as node {}, on copies of one data directory: stop one of them",
                caller.from
            )));
        }
        let start = seen.entry(caller.from).or_default();
        if (start.incarnation, start.nonce) != (caller.incarnation, caller.start_nonce) {
            start.admitted.cancel();
            let admitted = CancellationToken::new();
            *start = Start { incarnation: caller.incarnation, nonce: caller.start_nonce, admitted };
        }
        Ok(start.admitted.clone())
    }

    /// Ends what there was with nodes that have been replaced since: nobody calls them any more, at addresses that are
    /// other nodes' now, nor listens to them.
    pub(super) fn part_with_replaced(&self, state: &MetaState) {
        for (node, _) in self.addresses.all() {
            if state.is_replaced(node) {
                self.addresses.remove(node);
            }
        }
        self.seen.lock().retain(|&node, start| {
            let replaced = state.is_replaced(node);
            if replaced {
                start.admitted.cancel();
            }
            !replaced
        });
    }

    fn replica_for(&self, group: u32, to: u64) -> Result<Group, p::Refusal> {
        let none =
            || refusal(Reason::NoSuchReplica, format!("replica {to} of group {group} is not on this node"));
        let open =
            self.replicas().ok().and_then(|replicas| replicas.group(GroupId(group))).ok_or_else(none)?;
        if open.replica() == ReplicaId(to) { Ok(open) } else { Err(none()) }
    }

    /// Takes a change to the meta group on behalf of another node, which may be joining.
    async fn propose_meta_for(
        &self,
        caller: &Handshake,
        request: p::ProposeMetaRequest,
    ) -> Result<p::ProposeMetaResponse> {
        let deadline = Instant::now() + META_TIMEOUT;
        self.check_token(caller)?;
        self.check_cluster(caller)?;
        let mut command = meta_command_from_wire(request.command.unwrap_or_default())?;
        if matches!(command, MetaCommand::CreateCluster { .. }) {
            return Err(Error::invalid("a cluster is created by its founder, not over the network"));
        }
        let joins = matches!(command, MetaCommand::RegisterNode { .. });
        let is_joining = joins && caller.from == NodeId(0);
        if !is_joining {
            self.check_member(caller)?;
            self.check_target(caller)?;
            // Neither is tried again by whoever is told so: a node that was replaced stops, and so does one whose start is
            // not its latest, of which the meta group is the better judge.
            if let Some(farewell) = self.meta().farewell(caller.from) {
                return self.meta_response(MetaOutcome::Refused(farewell), false);
            }
            if !matches!(command, MetaCommand::AnnounceStart { .. }) {
                self.check_start(caller).map(drop)?;
            }
        }
        if self.meta().founding.is_none() {
            return Err(Error::unavailable("the cluster is still being founded"));
        }
        if let MetaCommand::RegisterNode { join_nonce, profile, replaces } = &mut command
            && is_joining
        {
            // Whatever it said itself.
            *replaces = match self.find_replaced(caller, *join_nonce, profile).await {
                Ok(found) => found,
                Err(why) => return self.meta_response(MetaOutcome::Refused(why), joins),
            };
        }
        // A node that joins may ask anybody, and so may one that announces its start: turned away as a copy it knows of no
        // leader, or the leader is the very node that it takes itself for. What else a node of the cluster asks for is
        // for the leader, and so is what another one passes on, so that changes never go in circles.
        let announces_itself =
            matches!(command, MetaCommand::AnnounceStart { node, .. } if node == caller.from);
        let outcome = if is_joining || announces_itself {
            self.propose_meta(command, deadline).await?
        } else {
            self.propose_meta_here(command, deadline).await?
        };
        self.meta_response(outcome, joins)
    }

    /// The answer to a proposed change; for a node that joins, with the registry.
    fn meta_response(&self, outcome: MetaOutcome, joins: bool) -> Result<p::ProposeMetaResponse> {
        let joined = self.joined().ok_or_else(|| Error::unavailable("this node is in no cluster yet"))?;
        let nodes = if joins { self.meta().nodes.values().map(node_to_wire).collect() } else { Vec::new() };
        Ok(p::ProposeMetaResponse {
            outcome: Some(meta_outcome_to_wire(outcome)),
            cluster_id: joined.cluster.to_string(),
            nodes,
        })
    }

    /// Finds out which node a joining one comes in place of: the one whose peer address it has, if the very process that
    /// asks answers there, so that nobody else can be reached there any more.
    ///
    /// # Errors
    /// Why it may not join at that address now, and what to do.
    async fn find_replaced(
        &self,
        caller: &Handshake,
        join_nonce: u128,
        profile: &NodeProfile,
    ) -> Result<Option<NodeId>, String> {
        let state = self.meta();
        if state.nodes.values().any(|node| node.join_nonce == join_nonce) {
            return Ok(None);
        }
        let address = &profile.addresses.peer;
        let Some(node) = state.nodes.values().find(|node| node.profile.addresses.peer == *address) else {
            return Ok(None);
        };
        let lost = node.id;
        match self.probe(address).await {
            Ok(answering) if answering.start_nonce == caller.start_nonce => {
                tracing::warn!(node = %lost, %address, "a new node answers at this node's address, and is to replace it");
                Ok(Some(lost))
            }
            Ok(answering) => {
                let who = match answering.told.node {
                    0 => "another process, in no cluster yet,".to_owned(),
                    id => format!("node {id}"),
                };
                Err(format!(
                    "the peer address {address} is that of node {lost}, and {who} answers there: give this node another \
                     address; or, if it is to replace node {lost}, stop the other process first"
                ))
            }
            Err(error) => Err(format!(
                "the peer address {address} is that of node {lost}, and this node can't be reached there to take its \
                 place ({error}): give it another address, or make it reachable at that one"
            )),
        }
    }

    /// Serves an operation that another node took this one to lead. It is not forwarded again.
    async fn serve_forwarded(&self, operation: v1::Operation) -> v1::OperationResult {
        let asked = Duration::from_millis(operation.deadline_ms.into());
        let allowed =
            if asked.is_zero() { REQUEST_DEADLINE_DEFAULT } else { asked.min(REQUEST_DEADLINE_MAX) };
        let deadline = Instant::now() + allowed;
        let reply = match operation.request.ok_or_else(|| Error::invalid("an operation without a request")) {
            Ok(request) => match request_from_wire(request) {
                Ok(request) => self.execute_here(request, deadline).await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        v1::OperationResult { id: operation.id, response: Some(reply_to_wire(reply)) }
    }
}

fn refused(why: String) -> Error {
    Error::new(ErrorKind::FailedPrecondition, why)
}

fn refusal(reason: Reason, message: String) -> p::Refusal {
    p::Refusal { reason: reason.into(), message }
}
