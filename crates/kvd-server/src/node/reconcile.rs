//! Making things as they should be.
//!
//! The meta group's state says which replicas there should be, where, and who should lead. Each node looks at it
//! whenever it changes and a few times a second, and takes the next step that is its to take:
//!
//! - open the replicas that are placed on it, discard those that have been retired;
//! - for each group that it leads: bring in new replicas as learners, make them voters once they have caught up, take
//!   retired ones out, hand leadership to where it should be;
//! - if it leads the meta group: place the shards once enough nodes have joined, say who votes in the meta group;
//! - rebuild what is broken, and ask for successors of what is lost;
//! - take checkpoints as the log grows.
//!
//! Every step can be cut short or done twice. A step that fails is tried again on the next look.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use kvd_machine::MetaState;
use kvd_placement::{NodeView, Ring, initial_placement, meta_voters};
use kvd_raft::{Fault, Group};
use kvd_types::{
    ErrorKind, GroupId, MetaEpoch, NodeId, ReplicaId, Result, Term,
    cluster::{MetaCommand, MetaOutcome, NodeState, Placement, Replica},
    limits::META_VOTERS_MAX,
};
use tokio::time::Instant;

use super::{
    Node,
    checkpoints::Checkpoints,
    hand_over::{HandOvers, HandedOver, Situation},
    routing::Routing,
};

/// How often a node looks, even if nothing has changed: at moments when other loops look, see [`super::rest`].
const LOOK_INTERVAL: Duration = Duration::from_millis(300);
/// Of groups that sleep only every so many looks: nothing about them changes by itself but who of them could lead.
const ASLEEP_EVERY: u32 = 8;
/// How long a new leader leads before it hands over to the preferred one: a node that has just come back must not be
/// given everything at once, nor one that is about to stop.
const SETTLED_AFTER: Duration = Duration::from_secs(3);
/// How long a hand-over may take.
const TRANSFER_PATIENCE: Duration = Duration::from_secs(2);
/// How long a change of the cluster may take.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(3);
/// What a node remembers between two looks.
#[derive(Default)]
pub(super) struct Reconciler {
    /// Since when this node has led which group, in which term.
    leads_since: BTreeMap<GroupId, (Term, Instant)>,
    /// The hand-overs that have failed.
    hand_overs: HandOvers,
    /// The checkpoints.
    checkpoints: Checkpoints,
    /// How often it has looked since it looked at groups that sleep, and the state as of then.
    looks: u32,
    looked_at: MetaEpoch,
}

impl Node {
    /// Looks and acts until the node stops.
    pub(super) async fn reconcile_loop(&self) {
        let mut reconciler = Reconciler::default();
        let mut changes = self.meta.subscribe();
        loop {
            let state = changes.borrow_and_update().clone();
            tokio::select! {
                () = self.stopping.cancelled() => return,
                looked = self.reconcile(&mut reconciler, &state) => if let Err(error) = looked {
                    tracing::debug!(%error, "a step will be tried again");
                },
            }
            tokio::select! {
                () = self.stopping.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
                () = self.rest(LOOK_INTERVAL) => {}
            }
        }
    }

    async fn reconcile(&self, reconciler: &mut Reconciler, state: &MetaState) -> Result<()> {
        self.learn(state)?;
        self.mend(state).await?;
        self.open_placed(state).await?;
        let sleepers_too = reconciler.looks >= ASLEEP_EVERY || reconciler.looked_at != state.epoch;
        reconciler.looks = if sleepers_too { 0 } else { reconciler.looks + 1 };
        reconciler.looked_at = state.epoch;
        self.take_checkpoints(&mut reconciler.checkpoints, sleepers_too).await?;
        self.trust_state().await?;
        if !self.is_announced() {
            // The state may be history: what it says of others was true once, and may be acted on no more.
            return Ok(());
        }
        self.discard_retired(state).await?;
        self.lead_groups(reconciler, state, sleepers_too).await?;
        self.lead_meta(state).await
    }

    /// Whether this start's announcement has been applied here, so that the state is not history.
    fn is_announced(&self) -> bool {
        self.announced_at.get().is_some()
    }

    /// Looks for this node in the registry: whether its announcement stands, or somebody else has taken its place.
    fn find_self(&self, state: &MetaState) -> Result<()> {
        let Some(joined) = self.joined() else { return Ok(()) };
        if let Some(farewell) = state.farewell(joined.node) {
            self.fail(farewell);
        }
        let Some(registered) = state.nodes.get(&joined.node) else { return Ok(()) };
        let incarnation = self.disk()?.identity().incarnation;
        if (registered.incarnation, registered.start_nonce) == (incarnation, self.start_nonce) {
            self.announced_at.get_or_init(|| state.next_replica);
        } else if registered.incarnation >= incarnation {
            self.fail(format!(
                "another process has started as node {} on a copy of this data directory: stop one of them",
                registered.id
            ));
        }
        Ok(())
    }

    /// Takes the next step of each group that this node leads. They don't wait for each other.
    async fn lead_groups(
        &self,
        reconciler: &mut Reconciler,
        state: &MetaState,
        sleepers_too: bool,
    ) -> Result<()> {
        let mut led = Vec::new();
        for group in self.replicas()?.all() {
            let leadership = group.leadership();
            let since = reconciler.leads_since.entry(group.id()).or_insert((leadership.term, Instant::now()));
            if !leadership.is_self || since.0 != leadership.term {
                *since = (leadership.term, Instant::now());
            }
            if leadership.is_self && (sleepers_too || !group.sleeps()) {
                led.push((since.1.elapsed() >= SETTLED_AFTER, group));
            }
        }
        let hand_overs = &reconciler.hand_overs;
        let steps = led.iter().filter_map(|(settled, group)| {
            let placement = state.placements.get(&group.id())?;
            Some(async move {
                let handed_over = self.lead(state, group, placement, *settled, hand_overs).await;
                (group.id(), handed_over.unwrap_or_else(|error| {
                    tracing::debug!(group = %group.id(), %error, "a step of this group will be tried again");
                    HandedOver::NotTried
                }))
            })
        });
        for (group, handed_over) in futures::future::join_all(steps).await {
            reconciler.hand_overs.note(group, handed_over, Instant::now());
        }
        Ok(())
    }

    /// Takes up what the state says of addresses and the ring.
    pub(super) fn learn(&self, state: &MetaState) -> Result<()> {
        self.find_self(state)?;
        for node in state.nodes.values().filter(|node| !self.is_self(node.id)) {
            self.addresses.set(node.id, node.profile.addresses.peer.clone());
        }
        self.part_with_replaced(state);
        let Some(spec) = state.ring() else { return Ok(()) };
        let placed =
            || state.placements.values().filter_map(|placement| Some((placement.group.shard()?, placement)));
        let known = self.routing.load();
        let unchanged =
            known.as_ref().is_some_and(|known| known.ring.spec() == spec && known.is_placed_as(placed()));
        if !unchanged {
            let placements = placed().map(|(shard, placement)| (shard, placement.clone())).collect();
            let ring = Ring::build(spec).map_err(|error| kvd_types::Error::internal(error.to_string()))?;
            self.routing.store(Some(Routing::new(ring, placements).into()));
        }
        Ok(())
    }

    /// Has stopped replicas opened again, rebuilt if need be, and asks for successors of lost ones.
    async fn mend(&self, state: &MetaState) -> Result<()> {
        let replicas = self.replicas()?;
        let (stopped, _) = replicas.faults();
        for (group, fault) in stopped {
            match fault {
                Fault::Rows(_) => replicas.disbelieve(group.id(), group.replica()).await?,
                Fault::Core(_) => replicas.close(group.id()).await?,
                // The node stops for it.
                Fault::Node(_) => {}
            }
            // The shards' are opened again with all that are placed here.
            if group.id() == GroupId::META && !replicas.open(group.id(), group.replica(), None, false).await?
            {
                self.fail("this node's replica of the meta group is lost; started again, the node asks for a new one");
            }
        }
        let Some(joined) = self.joined().filter(|_| self.is_announced()) else { return Ok(()) };
        for (group, lost, _) in replicas.lost() {
            let placed = state.placements.get(&group).is_some_and(|placement| {
                placement.voters.iter().chain(&placement.learners).any(|replica| replica.id == lost)
            });
            if group != GroupId::META && placed {
                self.change(MetaCommand::ReplaceReplica { group, lost, node: joined.node }).await?;
            }
        }
        Ok(())
    }

    /// Opens the replicas that are placed here. One that can't be opened doesn't keep the others from it.
    async fn open_placed(&self, state: &MetaState) -> Result<()> {
        let Some(joined) = self.joined() else { return Ok(()) };
        for placement in state.placements.values().filter(|placement| placement.group != GroupId::META) {
            if let Some(here) = placement.on_node(joined.node)
                && let Err(error) = self.open_one(placement, here).await
            {
                tracing::warn!(group = %placement.group, replica = %here.id, %error, "the replica can't be opened yet");
            }
        }
        Ok(())
    }

    async fn open_one(&self, placement: &Placement, here: Replica) -> Result<()> {
        let (group, replicas) = (placement.group, self.replicas()?);
        let open = replicas.group(group).map(|open| open.replica());
        if open == Some(here.id) || replicas.is_lost(here.id) {
            return Ok(());
        }
        let known = self.disk()?.log.replicas().contains(&(group, here.id));
        if !known && !self.is_announced() {
            return Ok(());
        }
        if open.is_some() {
            // Its predecessor here must go first, unless it is history that it has one.
            if !self.is_announced() {
                return Ok(());
            }
            replicas.close(group).await?;
        }
        let founders = placement.founders.contains(&here).then_some(placement.founders.as_slice());
        let minted_since = self.announced_at.get().is_some_and(|&first| here.id >= first);
        replicas.open(group, here.id, founders, minted_since).await.map(drop)
    }

    /// Once every replica on this disk has been taken up or rebuilt after a reboot, the engine may be believed again.
    async fn trust_state(&self) -> Result<()> {
        let (disk, replicas) = (self.disk()?, self.replicas()?);
        let taken_up = |replica: ReplicaId| replicas.replica(replica).is_some() || replicas.is_lost(replica);
        if !disk.awaits_rebuild() || !disk.log.replicas().into_iter().all(|(_, replica)| taken_up(replica)) {
            return Ok(());
        }
        let noted = self.platform.blocking().run(move || Ok(disk.set_state_trusted()));
        noted.await.map_err(|error| kvd_types::Error::internal(error.to_string()))?
    }

    /// Discards replicas on this disk that have no place any more, and lost ones, of which the log may know nothing.
    async fn discard_retired(&self, state: &MetaState) -> Result<()> {
        let (disk, replicas) = (self.disk()?, self.replicas()?);
        let own_meta = disk.identity().joined.map(|joined| joined.meta_replica);
        let lost = replicas.lost().into_iter().map(|(group, replica, _)| (group, replica));
        let held: BTreeSet<_> = disk.log.replicas().into_iter().chain(lost).collect();
        for (group, replica) in held {
            // A state from before the replica was minted can't tell.
            let is_known = replica < state.next_replica && Some(replica) != own_meta;
            let has_place = state
                .placements
                .get(&group)
                .is_some_and(|placement| placement.replicas().any(|placed| placed.id == replica));
            // Never one that its own group still counts on, whatever the state says.
            let votes =
                || replicas.replica(replica).is_some_and(|open| open.members().voters.contains_key(&replica));
            if is_known && !has_place && !votes() {
                if !self.has_room_for(0).await? {
                    // It takes a flush of the engine, and nothing waits for it.
                    return Ok(());
                }
                replicas.discard(group, replica).await?;
            }
        }
        Ok(())
    }

    /// Takes the next step for a group that this node leads.
    async fn lead(
        &self,
        state: &MetaState,
        group: &Group,
        placement: &Placement,
        settled: bool,
        hand_overs: &HandOvers,
    ) -> Result<HandedOver> {
        if self.change_members(group, placement).await? || !settled {
            return Ok(HandedOver::NotTried);
        }
        let situation = self.situation(state, group, placement);
        let Some(target) = hand_overs.target(group.id(), &situation, Instant::now()) else {
            return Ok(HandedOver::NotTried);
        };
        tracing::info!(group = %group.id(), replica = %target, "handing over leadership");
        match self.hand_over(group, target, TRANSFER_PATIENCE).await {
            Ok(()) => Ok(HandedOver::Done),
            // It has been handed over meanwhile, or was deposed.
            Err(error) if matches!(error.kind, ErrorKind::NotLeader(_)) => Ok(HandedOver::NotTried),
            Err(error) => {
                tracing::info!(group = %group.id(), replica = %target, %error, "leadership was not taken over");
                Ok(HandedOver::Failed(target))
            }
        }
    }

    /// Brings a group's members nearer to its placement. Whether there was anything to do.
    async fn change_members(&self, group: &Group, placement: &Placement) -> Result<bool> {
        let members = group.members();
        let voters: BTreeSet<ReplicaId> = placement.voters.iter().map(|replica| replica.id).collect();
        if let Some(begun) = &members.changing_to {
            // Whoever began the change may not have lived to end it. It is ended as it was begun, wherever replicas are to be
            // by now: one that has been placed since is not even a learner.
            group.change_voters(&members, begun.clone()).await?;
            return Ok(true);
        }
        let is_member =
            |id: ReplicaId| members.voters.contains_key(&id) || members.learners.contains_key(&id);
        let wanted: BTreeSet<ReplicaId> =
            placement.voters.iter().chain(&placement.learners).map(|replica| replica.id).collect();
        if let Some(missing) =
            placement.voters.iter().chain(&placement.learners).find(|replica| !is_member(replica.id))
        {
            tracing::info!(group = %group.id(), replica = %missing.id, node = %missing.node, "adding a replica");
            group.add_learner(*missing).await?;
            return Ok(true);
        }
        // Voters change all at once, when those that are new have caught up; a leader that must go hands over first.
        if members.voters.keys().copied().collect::<BTreeSet<_>>() != voters {
            let late =
                voters.iter().find(|id| !members.voters.contains_key(id) && !members.is_caught_up(**id));
            if late.is_none() {
                tracing::info!(group = %group.id(), ?voters, "changing the voters");
                group.change_voters(&members, voters).await?;
            }
            return Ok(true);
        }
        let superfluous: BTreeSet<ReplicaId> =
            members.learners.keys().copied().filter(|id| !wanted.contains(id)).collect();
        if !superfluous.is_empty() {
            tracing::info!(group = %group.id(), replicas = ?superfluous, "removing replicas");
            group.remove_learners(&members, superfluous).await?;
            return Ok(true);
        }
        if !placement.retiring.is_empty() {
            let replicas = placement.retiring.iter().map(|replica| replica.id).collect();
            self.change(MetaCommand::DropRetired { group: group.id(), replicas }).await?;
            return Ok(true);
        }
        Ok(false)
    }

    /// What bears on who should lead a group that this node leads.
    fn situation(&self, state: &MetaState, group: &Group, placement: &Placement) -> Situation {
        let drains =
            |node: NodeId| state.nodes.get(&node).is_some_and(|node| node.state == NodeState::Draining);
        let members = group.members();
        let could_lead = |id: ReplicaId, node: NodeId| !drains(node) && members.is_caught_up(id);
        let voters = members.voters.iter();
        Situation {
            own: group.replica(),
            preferred: placement.preferred_leader,
            fit: voters.filter(|&(&id, &node)| could_lead(id, node)).map(|(&id, _)| id).collect(),
            // A node that refuses puts is no leader for anything.
            must_go: self.fullness().refuses_puts || self.joined().is_some_and(|joined| drains(joined.node)),
        }
    }

    /// Places shards and names the meta group's voters, if this node leads the meta group.
    async fn lead_meta(&self, state: &MetaState) -> Result<()> {
        let group = self.replicas()?.group(GroupId::META);
        let (Some(group), Some(founding)) = (group, &state.founding) else { return Ok(()) };
        if !group.leadership().is_self {
            return Ok(());
        }
        let nodes: Vec<NodeView<'_>> = state.nodes.values().map(|node| NodeView::new(node, true)).collect();
        let unplaced: Vec<_> = founding
            .ring
            .shards
            .iter()
            .map(|shard| shard.id)
            .filter(|&shard| !state.placements.contains_key(&shard.into()))
            .collect();
        if !unplaced.is_empty() && nodes.len() >= founding.settings.initial_nodes as usize {
            match initial_placement(&nodes, &unplaced, founding.settings.replication_factor) {
                Ok(shards) => self.change(MetaCommand::PlaceShards { shards }).await?,
                Err(error) => tracing::warn!(%error, "the shards can't be placed yet"),
            }
        }
        let Some(placement) = state.placements.get(&GroupId::META) else { return Ok(()) };
        let current: Vec<NodeId> = placement.voters.iter().map(|voter| voter.node).collect();
        let wanted = meta_voters(&nodes, &current, META_VOTERS_MAX);
        if current.iter().copied().collect::<BTreeSet<_>>() != wanted.iter().copied().collect() {
            tracing::info!(?wanted, "naming the meta group's voters");
            self.change(MetaCommand::SetMetaVoters { nodes: wanted }).await?;
        }
        Ok(())
    }

    /// Proposes a change of the cluster; a refusal is only logged, for it says that the state has moved on.
    pub(super) async fn change(&self, command: MetaCommand) -> Result<()> {
        match self.propose_meta(command.clone(), Instant::now() + CHANGE_TIMEOUT).await? {
            MetaOutcome::Refused(why) => tracing::warn!(?command, why, "a change of the cluster was refused"),
            outcome => tracing::info!(?command, ?outcome, "the cluster was changed"),
        }
        Ok(())
    }
}
