//! Openraft's network on a [`Transport`].
//!
//! Appends are pipelined: up to [`APPENDS_IN_FLIGHT_MAX`] requests to a follower are on their way at once, answered in
//! order. They all take one lane, those without entries too: one that overtook its predecessor would be answered with a
//! conflict on an entry that the predecessor's answer has just confirmed, which openraft takes for a log that has gone
//! back, and stops. An append's own deadline is not openraft's (three quarters of a heartbeat, less than a slow disk's sync) but
//! [`NetworkOptions::append_patience`]; some deadline is a must, because a stream that neither answers nor fails keeps
//! the log from being purged.

use std::{future::Future, sync::Arc, time::Duration};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::BoxStream};
use kvd_proto::peer::v1 as p;
use kvd_storage::checkpoint::Checkpoint;
use kvd_types::{GroupId, NodeId, ReplicaId};
use openraft::{
    OptionalSend, RaftNetworkFactory, RaftNetworkV2,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
        TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};

use tokio_util::task::TaskTracker;

use crate::{
    codec,
    confirm::CommittedTold,
    transport::{CallError, Lane, Transport},
    types::{LogId, Snapshot, TypeConfig, Vote},
};

/// Append requests to one follower that may await their answers.
const APPENDS_IN_FLIGHT_MAX: usize = 8;

/// How long messages may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NetworkOptions {
    /// How long a follower may take to store entries.
    pub(crate) append_patience: Duration,
    /// How long a vote or heartbeat may take.
    pub(crate) control_patience: Duration,
}

/// Makes one group's connections.
pub(crate) struct NetworkFactory {
    pub(crate) group: GroupId,
    pub(crate) replica: ReplicaId,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) options: NetworkOptions,
    /// Holds a token for each checkpoint that is on its way.
    pub(crate) sending: TaskTracker,
    pub(crate) told: CommittedTold,
}

impl NetworkFactory {
    fn connection(&self, target: ReplicaId, node: NodeId, lane: Lane) -> Network {
        Network {
            group: self.group,
            from: self.replica,
            to: target,
            node,
            lane,
            transport: Arc::clone(&self.transport),
            options: self.options,
            sending: self.sending.clone(),
            told: self.told.clone(),
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for NetworkFactory {
    type Network = Network;

    async fn new_client(&mut self, target: ReplicaId, node: &NodeId) -> Network {
        self.connection(target, *node, Lane::Log)
    }

    async fn new_heartbeat_client(&mut self, target: ReplicaId, node: &NodeId) -> Network {
        self.connection(target, *node, Lane::Control)
    }
}

/// The way from one replica to another.
pub(crate) struct Network {
    group: GroupId,
    from: ReplicaId,
    to: ReplicaId,
    node: NodeId,
    lane: Lane,
    transport: Arc<dyn Transport>,
    options: NetworkOptions,
    sending: TaskTracker,
    told: CommittedTold,
}

type RpcResult<T> = Result<T, RPCError<TypeConfig>>;

impl Network {
    fn call(&self, lane: Lane, body: p::envelope::Body) -> BoxFuture<'static, RpcResult<p::envelope::Body>> {
        let message = p::Envelope {
            call: 0,
            group: self.group.get(),
            from_replica: self.from.get(),
            to_replica: self.to.get(),
            body: Some(body),
        };
        let patience = match lane {
            Lane::Log => self.options.append_patience,
            Lane::Control | Lane::Forward => self.options.control_patience,
        };
        let answer = self.transport.call(self.node, lane, message, patience);
        async move {
            let envelope = answer.await.map_err(|error| rpc_error(&error))?;
            envelope.body.ok_or_else(|| malformed("an answer without a body"))
        }
        .boxed()
    }

    fn append(
        &self,
        request: AppendEntriesRequest<TypeConfig>,
    ) -> BoxFuture<'static, RpcResult<AppendEntriesResponse<TypeConfig>>> {
        if let Some(committed) = &request.leader_commit {
            self.told.note(committed.index());
        }
        let answer = self.call(self.lane, p::envelope::Body::Append(codec::append_to_wire(request)));
        async move {
            match answer.await? {
                p::envelope::Body::AppendResponse(response) => {
                    codec::append_response_from_wire(response).map_err(|error| malformed(&error.message))
                }
                _ => Err(malformed("an append was answered with something else")),
            }
        }
        .boxed()
    }

    async fn ask_vote(&self, body: p::envelope::Body) -> RpcResult<VoteResponse<TypeConfig>> {
        match self.call(Lane::Control, body).await? {
            p::envelope::Body::VoteResponse(response) => {
                codec::vote_response_from_wire(response).map_err(|error| malformed(&error.message))
            }
            _ => Err(malformed("a vote was answered with something else")),
        }
    }
}

impl RaftNetworkV2<TypeConfig> for Network {
    type SnapshotData = Checkpoint;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> RpcResult<AppendEntriesResponse<TypeConfig>> {
        self.append(request).await
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, RpcResult<BoxStream<'s, RpcResult<StreamAppendResult<TypeConfig>>>>>
    where
        S: futures::Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let network: &'s Self = self;
        let answers = input
            .map(move |request| {
                let range = Range::of(&request);
                let answer = network.append(request);
                async move { answer.await.map(|response| range.result(response)) }
            })
            .buffered(APPENDS_IN_FLIGHT_MAX);
        // After a failure, or an answer that covers less than was sent, what follows in the pipeline is of no use: the
        // stream ends and openraft starts another from where the follower stands.
        let stream = futures::stream::unfold(Some(answers.boxed()), |answers| async {
            let mut answers = answers?;
            let (result, go_on) = match answers.next().await? {
                Ok((result, whole)) => (Ok(result), whole),
                Err(error) => (Err(error), false),
            };
            Some((result, go_on.then_some(answers)))
        });
        async move { Ok(stream.boxed()) }.boxed()
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        self.ask_vote(p::envelope::Body::Vote(codec::vote_request_to_wire(&request))).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        self.ask_vote(p::envelope::Body::PreVote(codec::vote_request_to_wire(&request))).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let header = p::CheckpointHeader {
            group: self.group.get(),
            from_replica: self.from.get(),
            to_replica: self.to.get(),
            vote: Some(codec::vote_to_wire(&vote)),
            size_bytes: snapshot.snapshot.size_bytes(),
            meta: Some(codec::snapshot_meta_to_wire(&snapshot.meta)),
        };
        let _token = self.sending.token();
        let sent = self.transport.send_checkpoint(self.node, header, snapshot.snapshot);
        tokio::select! {
            closed = cancel => Err(closed.into()),
            answer = sent => match answer {
                Ok(response) => {
                    let vote = codec::required_vote(response.vote).map_err(|error| StreamingError::Network(NetworkError::from_string(error.message)))?;
                    Ok(SnapshotResponse::new(vote))
                }
                // A checkpoint is dear: never send it again at once.
                Err(error) => Err(StreamingError::Unreachable(Unreachable::from_string(error.to_string()))),
            },
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        _option: RPCOption,
    ) -> RpcResult<TransferLeaderResponse<TypeConfig>> {
        let body = p::envelope::Body::TransferLeader(codec::transfer_to_wire(&request));
        match self.call(Lane::Control, body).await? {
            p::envelope::Body::TransferLeaderResponse(response) if response.accepted => Ok(Ok(())),
            // Why it was refused doesn't matter to openraft, which only logs it.
            p::envelope::Body::TransferLeaderResponse(_) => Err(malformed("the target refused to take over")),
            _ => Err(malformed("a leader transfer was answered with something else")),
        }
    }
}

/// The log ids that an append request covers.
struct Range {
    previous: Option<LogId>,
    last: Option<LogId>,
}

impl Range {
    fn of(request: &AppendEntriesRequest<TypeConfig>) -> Self {
        let last = request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id);
        Self { previous: request.prev_log_id, last }
    }

    /// What the answer means for the stream, and whether the whole request was accepted.
    fn result(self, response: AppendEntriesResponse<TypeConfig>) -> (StreamAppendResult<TypeConfig>, bool) {
        let whole = match &response {
            AppendEntriesResponse::Success => true,
            AppendEntriesResponse::PartialSuccess(matching) => *matching == self.last,
            AppendEntriesResponse::Conflict | AppendEntriesResponse::HigherVote(_) => false,
        };
        // A conflict on a request that follows nothing can't be: such a follower is not to be believed.
        let response = match (response, &self.previous) {
            (AppendEntriesResponse::Conflict, None) => AppendEntriesResponse::PartialSuccess(None),
            (response, _) => response,
        };
        (response.into_stream_result(self.previous, self.last), whole)
    }
}

fn rpc_error(error: &CallError) -> RPCError<TypeConfig> {
    // Openraft backs off from an unreachable node and retries any other failure at once; a node that refuses or doesn't
    // answer deserves the pause as well.
    RPCError::Unreachable(Unreachable::from_string(error.to_string()))
}

fn malformed(what: &str) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::from_string(what))
}
