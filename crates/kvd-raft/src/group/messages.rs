//! What other replicas say to this one.

use std::io;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use kvd_proto::peer::v1::{self as p, refusal::Reason};
use kvd_types::{ReplicaId, Term};
use openraft::raft::AppendEntriesResponse;

use super::{Arc, Body, Error, Group, Instant, Result, codec};
use crate::{calls::call, confirm::latest_term, state::Fault, types::Snapshot};

impl Group {
    /// Serves a message. The future's first poll hands it to the group, so messages that are polled in order arrive in
    /// order. What it can't serve it answers with a refusal.
    pub async fn handle(&self, message: Body) -> Body {
        match self.try_handle(message).await {
            Ok(answer) => answer,
            Err((reason, why)) => Body::Refusal(p::Refusal { reason: reason.into(), message: why }),
        }
    }

    async fn try_handle(&self, message: Body) -> Result<Body, (Reason, String)> {
        let malformed = |error: Error| (Reason::Malformed, error.message);
        let raft = &self.0.raft;
        match message {
            Body::Append(append) => {
                if let Some(vote) = &append.vote {
                    let (term, leader) = (Term(vote.term), ReplicaId(vote.voted_for));
                    self.0.state.observer.heard_leader(self.id(), term, leader);
                }
                let request = codec::append_from_wire(append).map_err(malformed)?;
                self.0.sleeper.spoken_to();
                let response = call(raft, |raft| async move { raft.append_entries(request).await })
                    .await
                    .map_err(failed)?;
                if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
                    self.0.heard.send_if_modified(|heard| !std::mem::replace(heard, true));
                    self.0.sleeper.heard();
                }
                Ok(Body::AppendResponse(codec::append_response_to_wire(&response)))
            }
            Body::Vote(vote) | Body::PreVote(vote) if self.may_have_promised(&vote) => Err((
                Reason::Overloaded,
                "this replica has just been opened and may have promised its vote to a leader".to_owned(),
            )),
            Body::Vote(vote) | Body::PreVote(vote)
                if !vote.leader_transfer && self.0.sleeper.refuses_vote() =>
            {
                let why = "this replica slept, and has no reason yet to believe its leader gone".to_owned();
                Err((Reason::Overloaded, why))
            }
            Body::Vote(vote) => {
                self.0.sleeper.spoken_to();
                let request = codec::vote_request_from_wire(vote).map_err(malformed)?;
                let response =
                    call(raft, |raft| async move { raft.vote(request).await }).await.map_err(failed)?;
                Ok(Body::VoteResponse(codec::vote_response_to_wire(&response)))
            }
            Body::PreVote(vote) => {
                let request = codec::vote_request_from_wire(vote).map_err(malformed)?;
                let response =
                    call(raft, |raft| async move { raft.pre_vote(request).await }).await.map_err(failed)?;
                Ok(Body::VoteResponse(codec::vote_response_to_wire(&response)))
            }
            Body::TransferLeader(transfer) => {
                self.0.sleeper.spoken_to();
                let request = codec::transfer_from_wire(transfer).map_err(malformed)?;
                let response = call(raft, |raft| async move { raft.handle_transfer_leader(request).await })
                    .await
                    .map_err(failed)?;
                Ok(Body::TransferLeaderResponse(p::TransferLeaderResponse { accepted: response.is_ok() }))
            }
            // Not through the core: see [`crate::confirm`].
            Body::ConfirmLeader(_) => {
                let term = latest_term(&self.0.log).map_err(failed)?.get();
                Ok(Body::ConfirmLeaderResponse(p::ConfirmLeaderResponse { term }))
            }
            Body::Sleep(offer) => {
                let sleeps = self.0.sleeper.take_up(&offer);
                Ok(Body::SleepResponse(p::SleepResponse { sleeps }))
            }
            Body::Wake(p::WakeRequest {}) => {
                self.0.sleeper.asked_who_leads();
                Ok(Body::WakeResponse(p::WakeResponse {}))
            }
            Body::Operation(_)
            | Body::AppendResponse(_)
            | Body::VoteResponse(_)
            | Body::TransferLeaderResponse(_)
            | Body::OperationResult(_)
            | Body::ConfirmLeaderResponse(_)
            | Body::SleepResponse(_)
            | Body::WakeResponse(_)
            | Body::Pulse(_)
            | Body::PulseResponse(_)
            | Body::Refusal(_) => {
                Err((Reason::Malformed, "not a message from one replica to another".to_owned()))
            }
        }
    }

    /// Whether it may have promised, before it was opened, not to elect anybody for as long as it is asked to now.
    fn may_have_promised(&self, vote: &p::VoteRequest) -> bool {
        let leases = self.0.lease_reads.as_ref().filter(|_| !vote.leader_transfer);
        leases.is_some_and(|leases| Instant::now() < leases.promised_until)
    }

    /// Receives a checkpoint and installs it, all of it or nothing. A transfer that broke off is taken up anew.
    ///
    /// # Errors
    /// Invalid argument for pieces that don't fit; corruption if the whole fails its checks; unavailable if this replica
    /// has stopped or the disk is full.
    pub async fn receive_checkpoint(
        &self,
        header: p::CheckpointHeader,
        mut pieces: impl Stream<Item = Result<Bytes>> + Send + Unpin,
    ) -> Result<p::SendCheckpointResponse> {
        let vote = codec::required_vote(header.vote)?;
        let meta = codec::snapshot_meta_from_wire(header.meta.unwrap_or_default())?;
        let id = format!("{}-{:?}", header.from_replica, meta.last_log_id);
        let state = &self.0.state;
        let storage = |error: kvd_storage::Error| {
            if error.is_fatal() {
                state.report(Fault::Node(error.to_string()));
            }
            Error::unavailable(format!("the checkpoint can't be received: {error}"))
        };
        let receiver = Arc::new(state.checkpoints.receive(&id, header.size_bytes).map_err(storage)?);
        let mut offset = 0;
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            let length = piece.len() as u64;
            let receiver = Arc::clone(&receiver);
            let written =
                state.blocking.run(move || receiver.write(offset, &piece).map_err(io::Error::other));
            written
                .await
                .map_err(|error| Error::unavailable(format!("the checkpoint can't be received: {error}")))?;
            offset += length;
        }
        let receiver =
            Arc::into_inner(receiver).ok_or_else(|| Error::internal("a piece is still being written"))?;
        let finished = state.blocking.run(move || Ok(receiver.finish()));
        let checkpoint =
            finished.await.map_err(|error| Error::internal(error.to_string()))?.map_err(storage)?;
        let header = codec::decode_header(checkpoint.manifest().state_header.clone())?;
        if checkpoint.manifest().group != self.id() || header != meta {
            return Err(Error::invalid("the checkpoint is not the one that was announced"));
        }
        let snapshot = Snapshot { meta, snapshot: checkpoint };
        self.0.sleeper.spoken_to();
        let response =
            call(&self.0.raft, |raft| async move { raft.install_full_snapshot(vote, snapshot).await })
                .await
                .map_err(|fatal| self.stopped(&fatal))?;
        let vote = codec::vote_to_wire(&response.vote);
        tracing::info!(group = %self.id(), replica = %self.replica(), bytes = offset, "a checkpoint was installed");
        Ok(p::SendCheckpointResponse { vote: Some(vote) })
    }
}

fn failed(error: impl std::fmt::Display) -> (Reason, String) {
    (Reason::ReplicaFailed, error.to_string())
}
