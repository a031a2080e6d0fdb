//! The meta group, from any node: its state as applied here, and changes to it.

use std::time::Duration;

use kvd_proto::{
    error::from_status,
    log::{meta_command_to_wire, meta_outcome_from_wire},
    peer::v1 as p,
};
use kvd_raft::peer;
use kvd_types::{
    Command, Error, ErrorKind, GroupId, NodeId, Outcome, Result,
    cluster::{MetaCommand, MetaOutcome},
};
use tokio::time::Instant;
use tonic::Request;

use super::Node;

/// Between two tries to find the meta group's leader.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// How long one of several nodes may take to answer: one that hangs must not use up the others' time.
const PEER_TIMEOUT: Duration = Duration::from_secs(1);

impl Node {
    /// Proposes a change of the cluster, here or where the meta group is led, until the deadline.
    ///
    /// # Errors
    /// Unavailable: it was not applied. Outcome unknown: it may have been; all changes can be asked for again.
    pub(super) async fn propose_meta(&self, command: MetaCommand, deadline: Instant) -> Result<MetaOutcome> {
        loop {
            let tried = self.try_propose_meta(command.clone(), deadline).await;
            match tried {
                Err(error) if error.is_retryable() && Instant::now() + RETRY_PAUSE < deadline => {
                    tracing::debug!(%error, "the meta group did not take a change; trying again");
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                tried => return tried,
            }
        }
    }

    async fn try_propose_meta(&self, command: MetaCommand, deadline: Instant) -> Result<MetaOutcome> {
        let no_leader = || Error::unavailable("the meta group has no leader that this node knows");
        let group = self.replicas()?.group(GroupId::META).ok_or_else(no_leader)?;
        let leadership = group.leadership();
        if leadership.is_self {
            return self.propose_meta_here(command, deadline).await;
        }
        let leader = leadership.leader.ok_or_else(no_leader)?;
        self.propose_meta_at(leader.node, command, deadline).await
    }

    /// Proposes a change to this node's replica of the meta group, which must lead it.
    pub(super) async fn propose_meta_here(
        &self,
        command: MetaCommand,
        deadline: Instant,
    ) -> Result<MetaOutcome> {
        let group = self.replicas()?.group(GroupId::META);
        let group = group.ok_or_else(|| Error::unavailable("this node has no replica of the meta group"))?;
        let proposed = tokio::time::timeout_at(deadline, group.propose(Command::Meta(command))).await;
        match proposed {
            Ok(Ok(Outcome::Meta(outcome))) => Ok(outcome),
            Ok(Ok(other)) => Err(Error::internal(format!("the meta group answered with {other:?}"))),
            Ok(Err(error)) => Err(error),
            Err(_elapsed) => Err(Error::unknown("the meta group did not answer by the deadline")),
        }
    }

    async fn propose_meta_at(
        &self,
        node: NodeId,
        command: MetaCommand,
        deadline: Instant,
    ) -> Result<MetaOutcome> {
        let address = self.addresses.get(node);
        let address =
            address.ok_or_else(|| Error::unavailable(format!("the address of node {node} is not known")))?;
        let response = self.ask_meta(&address, node, command, deadline).await?;
        meta_outcome_from_wire(response.outcome.unwrap_or_default())
    }

    /// Asks the other nodes one after the other, for a node that has no replica of the meta group to ask.
    pub(super) async fn ask_any_peer(&self, command: MetaCommand, deadline: Instant) -> Result<MetaOutcome> {
        let mut latest = Error::unavailable("no other node's address is known");
        for (node, address) in self.addresses.all() {
            let deadline = deadline.min(Instant::now() + PEER_TIMEOUT);
            match self.ask_meta(&address, node, command.clone(), deadline).await {
                Ok(response) => return meta_outcome_from_wire(response.outcome.unwrap_or_default()),
                Err(error) => latest = error,
            }
        }
        Err(latest)
    }

    /// Asks the node at an address to propose a change.
    pub(super) async fn ask_meta(
        &self,
        address: &str,
        node: NodeId,
        command: MetaCommand,
        deadline: Instant,
    ) -> Result<p::ProposeMetaResponse> {
        let mut client = peer::connect(&self.platform.dialer(), address).await?;
        let mut request =
            Request::new(p::ProposeMetaRequest { command: Some(meta_command_to_wire(command)) });
        self.handshake(node).write(request.metadata_mut())?;
        let asked = tokio::time::timeout_at(deadline, client.propose_meta(request)).await;
        let unknown = |what: String| Error::new(ErrorKind::OutcomeUnknown, what);
        match asked {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(from_status(&status)),
            Err(_elapsed) => Err(unknown(format!("the node at {address} did not answer by the deadline"))),
        }
    }
}
