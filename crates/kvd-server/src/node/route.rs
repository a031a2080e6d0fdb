//! From a request to the replica that serves it.
//!
//! Any node takes any request. It finds the shard by the ring, serves the request if its own replica leads the shard, and
//! else sends it to the node that does: by what its own replica knows, by what an earlier answer said, or else where the
//! leader should be. A request that was certainly not applied is tried again, for as long as an election may take; one
//! that may have been is tried again only if that is harmless: a read, or a write within a session.

use std::{collections::BTreeMap, pin::pin, sync::Arc, time::Duration};

use futures::FutureExt as _;
use kvd_machine::ShardReader;
use kvd_proto::{
    operation::{reply_from_wire, request_to_wire},
    peer::v1::{self as p, envelope::Body},
    v1,
};
use kvd_raft::{CallError, Group, Lane, Leadership, Transport as _};
use kvd_types::{
    Error, ErrorKind, GroupId, Key, LeaderHint, NodeId, Read, Result, ShardId,
    operation::{Reply, Request, Response, Served},
};
use tokio::time::Instant;

use super::{
    Node,
    forwarded::{Received, expected_bytes},
    routing::Routing,
};

/// Between two tries.
const RETRY_PAUSE: Duration = Duration::from_millis(15);
/// How long an answer from a node that no longer leads is still waited for: it may be under way.
const LAST_ANSWER: Duration = Duration::from_millis(50);

impl Node {
    /// Serves a request, here or where its shard is led.
    ///
    /// # Errors
    /// Every kind that a client is told of; only outcome-unknown and internal leave a write in doubt.
    pub(super) async fn execute(&self, request: Request, deadline: Instant) -> Result<Reply> {
        let routing = self.routing()?;
        match request {
            // What is rare is boxed: thousands of the others wait at a time.
            Request::BatchGet(keys, read) => self.batch_get(&routing, keys, read, deadline).boxed().await,
            Request::Snapshot(mut shards) => {
                if shards.is_empty() {
                    shards = routing.ring.shards().to_vec();
                }
                let revision = self.snapshot(&shards, deadline).boxed().await?;
                let served = Served { ring_epoch: routing.ring.epoch(), ..Served::default() };
                Ok(Reply { response: Response::Snapshot(revision), served })
            }
            request => {
                let shard = shard_of(&routing, &request)?;
                self.execute_on(&routing, shard, request, deadline).await
            }
        }
    }

    /// Serves a request if this node leads its shard, and says where the leader is if it doesn't.
    pub(super) async fn execute_here(&self, request: Request, deadline: Instant) -> Result<Reply> {
        request.check(self.config.limits.value_bytes_max)?;
        let routing = self.routing()?;
        let shard = match &request {
            Request::BatchGet(keys, _) => {
                let mut shards = keys.iter().map(|key| routing.ring.shard_of(key));
                let first = shards.next().ok_or_else(|| Error::invalid("the batch has no keys"))?;
                if shards.any(|shard| shard != first) {
                    return Err(Error::invalid("a forwarded batch has keys of several shards"));
                }
                first
            }
            request => shard_of(&routing, request)?,
        };
        let group = self.replicas()?.group(shard.into());
        let group = group.ok_or_else(|| {
            Error::new(ErrorKind::NotLeader(None), format!("this node has no replica of shard {shard}"))
        })?;
        let leadership = group.leadership();
        if !leadership.is_self && !request.is_for_any_replica() {
            let hint = leadership.leader.map(|leader| self.hint(shard, leader.node));
            return Err(Error::new(
                ErrorKind::NotLeader(hint),
                format!("this node does not lead shard {shard}"),
            ));
        }
        self.check_room(&request)?;
        let response = self.serve_at(&group, request, deadline).await?;
        Ok(self.reply(&routing, &group, shard, response))
    }

    /// Serves a request of one shard, here or where it is led.
    pub(super) async fn execute_on(
        &self,
        routing: &Routing,
        shard: ShardId,
        request: Request,
        deadline: Instant,
    ) -> Result<Reply> {
        let harmless_again = request.is_idempotent();
        let give_up = deadline.min(Instant::now() + self.leader_patience());
        let mut in_doubt = false;
        loop {
            let tried = {
                let mut trying = pin!(self.try_on(routing, shard, request.clone(), deadline));
                if harmless_again {
                    self.unless_led_anew(shard, &request, trying.as_mut()).await
                } else {
                    trying.await
                }
            };
            let error = match tried {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            in_doubt |= request.is_write() && error.outcome_unknown();
            let again = match error.kind {
                ErrorKind::NotLeader(_) | ErrorKind::Unavailable => true,
                ErrorKind::OutcomeUnknown => harmless_again,
                _ => false,
            };
            if !again || Instant::now() + RETRY_PAUSE >= give_up {
                return Err(final_error(error, in_doubt, shard));
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// A try that is given up soon after another leader was heard of than the one that was asked. One that was cut off
    /// from its peers, and not from here, would not answer before the deadline.
    async fn unless_led_anew(
        &self,
        shard: ShardId,
        request: &Request,
        trying: impl Future<Output = Result<Reply>>,
    ) -> Result<Reply> {
        let Some(group) = self.replicas()?.group(shard.into()) else { return trying.await };
        let Leadership { leader: asked, is_self, .. } = group.leadership();
        if is_self {
            // A leader that is deposed answers what it has in hand.
            return trying.await;
        }
        let mut leadership = group.watch_leadership();
        let led_anew = async move {
            let new = leadership.wait_for(|it| it.leader.is_some() && it.leader != asked).await.map(drop);
            if new.is_err() {
                // The replica is closed, so no news will come.
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(LAST_ANSWER).await;
        };
        tokio::select! {
            biased;
            tried = trying => tried,
            () = led_anew => {
                let message = format!("the leader of shard {shard} has changed before it answered");
                Err(if request.is_write() { Error::unknown(message) } else { Error::unavailable(message) })
            }
        }
    }

    async fn try_on(
        &self,
        routing: &Routing,
        shard: ShardId,
        request: Request,
        deadline: Instant,
    ) -> Result<Reply> {
        let group = self.replicas()?.group(shard.into());
        let leadership = group.as_ref().map(Group::leadership).unwrap_or_default();
        if let Some(group) = group.filter(|_| leadership.is_self || request.is_for_any_replica()) {
            self.check_room(&request)?;
            let response = self.serve_at(&group, request, deadline).await?;
            return Ok(self.reply(routing, &group, shard, response));
        }
        let no_leader = || Error::unavailable(format!("shard {shard} has no leader at the moment; retry"));
        let known = leadership.leader.map(|leader| leader.node);
        let node = known.or_else(|| routing.guess(shard)).ok_or_else(no_leader)?;
        if self.is_self(node) {
            routing.doubt(shard, node);
            return Err(no_leader());
        }
        if known.is_none() && !self.network()?.is_connected(node) {
            // Before it is asked: whoever waits for it may have gone by the time that it turns out to be silent.
            routing.doubt(shard, node);
        }
        let forwarded = self.forward(shard, node, request, deadline).await;
        match &forwarded {
            Ok(_) => routing.saw_leader(shard, node),
            Err(Error { kind: ErrorKind::NotLeader(Some(hint)), .. }) => routing.saw_leader(shard, hint.node),
            Err(_) => routing.doubt(shard, node),
        }
        forwarded
    }

    async fn forward(
        &self,
        shard: ShardId,
        node: NodeId,
        request: Request,
        deadline: Instant,
    ) -> Result<Reply> {
        let is_write = request.is_write();
        let expected_bytes = expected_bytes(&request);
        let network = Arc::clone(self.network()?);
        let call = move || {
            let left = deadline.saturating_duration_since(Instant::now());
            let operation = v1::Operation {
                id: 0,
                deadline_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1),
                request: Some(request_to_wire(request)),
            };
            let message = p::Envelope {
                call: 0,
                group: GroupId::from(shard).get(),
                from_replica: 0,
                to_replica: 0,
                body: Some(Body::Operation(operation)),
            };
            network.call(node, Lane::Forward, message, left)
        };
        let answered = match self.forwarded.receive(expected_bytes, deadline, call).await {
            Received::Answer(answered) => answered,
            Received::NotAsked => {
                return Err(Error::new(
                    ErrorKind::NotLeader(Some(self.hint(shard, node))),
                    format!("too many answers wait here for clients that do not read them; ask node {node}"),
                ));
            }
            Received::Late => Err(CallError::NoAnswer(node, "none by the deadline".to_owned())),
        };
        let result = match answered {
            Ok(p::Envelope { body: Some(Body::OperationResult(result)), .. }) => result,
            Ok(_) => {
                return Err(Error::internal(format!(
                    "node {node} answered an operation with something else"
                )));
            }
            Err(CallError::NoAnswer(_, why)) if is_write => {
                return Err(Error::unknown(format!(
                    "node {node} was sent the write and did not answer: {why}"
                )));
            }
            Err(error) => return Err(Error::unavailable(error.to_string())),
        };
        let response =
            result.response.ok_or_else(|| Error::internal(format!("node {node} sent an empty answer")))?;
        let mut reply = reply_from_wire(response)?;
        reply.served.leader_address = self.client_address(node);
        Ok(reply)
    }

    async fn batch_get(
        &self,
        routing: &Routing,
        keys: Vec<Key>,
        read: Read,
        deadline: Instant,
    ) -> Result<Reply> {
        let mut by_shard: BTreeMap<ShardId, Vec<(usize, Key)>> = BTreeMap::new();
        let count = keys.len();
        for (place, key) in keys.into_iter().enumerate() {
            by_shard.entry(routing.ring.shard_of(&key)).or_default().push((place, key));
        }
        let parts = by_shard.into_iter().map(|(shard, placed)| async move {
            let (places, keys): (Vec<usize>, Vec<Key>) = placed.into_iter().unzip();
            let reply = self.execute_on(routing, shard, Request::BatchGet(keys, read), deadline).await?;
            let Response::GotBatch(found) = reply.response else {
                return Err(Error::internal("a batch-get was answered with something else"));
            };
            Ok((places, found, reply.served))
        });
        let mut all = vec![None; count];
        let mut served = None;
        for part in futures::future::try_join_all(parts).await? {
            let (places, found, part_served) = part;
            for (place, found) in places.into_iter().zip(found) {
                if let Some(slot) = all.get_mut(place) {
                    *slot = found;
                }
            }
            served.get_or_insert(part_served);
        }
        let served =
            served.unwrap_or_else(|| Served { ring_epoch: routing.ring.epoch(), ..Served::default() });
        Ok(Reply { response: Response::GotBatch(all), served })
    }

    fn reply(&self, routing: &Routing, group: &Group, shard: ShardId, response: Response) -> Reply {
        let leader = group.leadership().leader.map(|leader| leader.node).unwrap_or_default();
        let stats = group.reader().map(ShardReader::stats).unwrap_or_default();
        let served = Served {
            shard,
            leader,
            leader_address: if self.is_self(leader) { String::new() } else { self.client_address(leader) },
            ring_epoch: routing.ring.epoch(),
            shard_age_ms: stats.age_ms,
            revision: stats.last_revision,
        };
        Reply { response, served }
    }

    fn hint(&self, shard: ShardId, node: NodeId) -> LeaderHint {
        LeaderHint { shard, node, address: self.client_address(node) }
    }

    fn client_address(&self, node: NodeId) -> String {
        self.meta().nodes.get(&node).map(|node| node.profile.addresses.client.clone()).unwrap_or_default()
    }

    /// How long a request waits for a leader: as long as an election takes that fails once.
    fn leader_patience(&self) -> Duration {
        self.config.raft.election_timeout().1 * 2 + Duration::from_millis(500)
    }

    pub(super) fn routing(&self) -> Result<Arc<Routing>> {
        self.routing
            .load_full()
            .ok_or_else(|| Error::unavailable("this node does not know the cluster's ring yet"))
    }
}

fn shard_of(routing: &Routing, request: &Request) -> Result<ShardId> {
    let ring = &routing.ring;
    let named = match request {
        Request::Get(key, _) => return Ok(ring.shard_of(key)),
        Request::Write(write, _) => ring.shard_of_write(&write.op)?,
        Request::KeepLeaseAlive(lease) | Request::GetLease(lease) => return Ok(ring.shard_of_lease(*lease)),
        Request::Scan(page) => page.shard,
        Request::Changes(page) => page.shard,
        Request::ReadPoint(point) => point.shard,
        Request::ListLeases { shard, .. }
        | Request::LeaseKeys { shard, .. }
        | Request::Tell(shard, ..)
        | Request::OpenSession(shard)
        | Request::CloseSession(shard, _) => *shard,
        Request::BatchGet(..) | Request::Snapshot(_) => {
            return Err(Error::internal("the request is of no one shard"));
        }
    };
    if ring.shards().contains(&named) {
        return Ok(named);
    }
    Err(Error::new(ErrorKind::NotFound, format!("there is no shard {named}")))
}

/// Says "unknown" if any try of a write may have been applied, whatever the last one came to.
fn final_error(error: Error, in_doubt: bool, shard: ShardId) -> Error {
    if in_doubt && !error.outcome_unknown() {
        return Error::unknown(format!(
            "whether the write to shard {shard} was applied can't be told: {error}"
        ));
    }
    error
}
