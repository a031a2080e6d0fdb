//! How a process becomes a node of a cluster.
//!
//! A node knows its seeds: the peer addresses of some nodes, its own perhaps among them. As long as it belongs to no
//! cluster it asks all of them who they are, again and again:
//!
//! - one belongs to a cluster: the node asks it for an id and joins;
//! - all have answered, none belongs to a cluster, all have the same seeds, and this node is the first of them: it founds
//!   one. Nobody else may, and with a seed missing nobody does, so that two halves that can't see each other never
//!   found two clusters. The token is checked by whoever is asked;
//! - otherwise it waits.
//!
//! Whatever is cut short is taken up again: the founder's identity is durable before it tells anybody, and registering
//! twice under one nonce gives one id. So nodes may start, stop and start again in any order.
//!
//! # A node that has lost its disk
//! It has forgotten its votes, so it must not come back under its old id: it joins as any new node does. Where addresses
//! are fixed it has those of the lost one, though, and so takes its place: whichever node it asks to be let in calls the
//! address and looks whether the very process that asks answers there. If so, nobody can be reached there as the lost
//! node any more, and the meta group gives the new node successors of all that the lost one held (see
//! [`MetaCommand::RegisterNode`]). If anybody else answers, or nobody, the new node is kept out, and told so.

use std::time::Duration;

use kvd_proto::{
    error::from_status,
    log::{meta_outcome_from_wire, node_from_wire},
    peer::v1 as p,
};
use kvd_raft::peer;
use kvd_storage::identity::Joined;
use kvd_types::{
    ClusterId, Error, ErrorKind, NodeId, ReplicaId, Result,
    cluster::{MetaCommand, MetaOutcome},
};
use tokio::time::Instant;
use tonic::Request;

use super::Node;

/// Between two rounds of questions.
const ROUND_PAUSE: Duration = Duration::from_millis(250);
/// How long one seed may take to answer.
const PROBE_TIMEOUT: Duration = Duration::from_millis(1500);
/// How long a cluster may take to give a node its id.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Rounds between two log lines that say what the node waits for.
const ROUNDS_PER_LINE: u32 = 20;
/// The founder's id, and that of its replica of the meta group.
const FOUNDER: (NodeId, ReplicaId) = (NodeId(1), ReplicaId(1));

/// Who answers at an address.
pub(super) struct Answering {
    /// The random number of its process's start.
    pub(super) start_nonce: u128,
    /// What it says of itself.
    pub(super) told: p::ProbeResponse,
}

/// What a seed said.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    /// It is this very process.
    Myself,
    /// It belongs to no cluster yet.
    Empty { seeds_hash: u64 },
    /// It belongs to this cluster.
    Member { cluster: ClusterId, node: NodeId },
    /// It can't be asked, or refuses.
    Silent(String),
}

/// What follows from the answers.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Decision {
    /// Join through the seed at this place in the list.
    Join(usize),
    /// Found a cluster.
    Found,
    /// Ask again.
    Wait(String),
}

/// Decides from what the seeds said; `seeds_hash` is this node's own.
fn decide(answers: &[Answer], seeds_hash: u64) -> Decision {
    if let Some(member) = answers.iter().position(|answer| matches!(answer, Answer::Member { .. })) {
        return Decision::Join(member);
    }
    for (place, answer) in answers.iter().enumerate() {
        match answer {
            Answer::Silent(why) => return Decision::Wait(format!("seed {}: {why}", place + 1)),
            Answer::Empty { seeds_hash: theirs } if *theirs != seeds_hash => {
                return Decision::Wait(format!(
                    "seed {} was started with other seeds than this node",
                    place + 1
                ));
            }
            Answer::Myself | Answer::Empty { .. } | Answer::Member { .. } => {}
        }
    }
    match answers.iter().position(|answer| *answer == Answer::Myself) {
        Some(0) => Decision::Found,
        Some(_) => Decision::Wait("for the first seed to found the cluster".to_owned()),
        None => Decision::Wait("for the seeds to found the cluster (this node is not among them)".to_owned()),
    }
}

/// A hash by which nodes see whether they were started with the same seeds, in whatever order.
pub(super) fn seeds_hash(seeds: &[String]) -> u64 {
    let mut sorted = seeds.to_vec();
    sorted.sort();
    // Only ever compared between nodes that form a cluster at this moment.
    xxhash_rust::xxh3::xxh3_64(sorted.join(",").as_bytes())
}

impl Node {
    /// Finds this node's cluster, or founds it. Ends only with success, or when the node is stopped.
    pub(super) async fn bootstrap(&self) -> Result<Joined> {
        let seeds = self.seeds();
        let seeds_hash = seeds_hash(&seeds);
        let mut rounds = 0;
        loop {
            let answers = self.ask_seeds(&seeds).await;
            let decision = decide(&answers, seeds_hash);
            let tried = match &decision {
                Decision::Join(place) => self.join(&seeds[*place], &answers[*place]).await,
                Decision::Found => Ok(self.found()),
                Decision::Wait(why) => Err(Error::unavailable(why.clone())),
            };
            match tried {
                Ok(joined) => return Ok(joined),
                Err(error)
                    if error.kind == ErrorKind::FailedPrecondition && rounds % ROUNDS_PER_LINE == 0 =>
                {
                    tracing::error!(why = %error, "the cluster does not let this node in");
                }
                Err(error) if rounds % ROUNDS_PER_LINE == 0 => {
                    tracing::info!(waiting = %error, "not yet in a cluster");
                }
                Err(error) => tracing::debug!(waiting = %error, "not yet in a cluster"),
            }
            rounds += 1;
            tokio::select! {
                () = self.stopping.cancelled() => return Err(Error::unavailable("stopped before it was in a cluster")),
                () = tokio::time::sleep(ROUND_PAUSE) => {}
            }
        }
    }

    /// The seeds in the order that decides who founds; a node without any is its own.
    fn seeds(&self) -> Vec<String> {
        if self.config.seeds.is_empty() {
            return vec![self.config.advertise_peer.clone()];
        }
        let mut seeds = self.config.seeds.clone();
        seeds.sort();
        seeds
    }

    async fn ask_seeds(&self, seeds: &[String]) -> Vec<Answer> {
        futures::future::join_all(seeds.iter().map(|seed| async move {
            let answered = self.probe(seed).await.and_then(|answering| self.judge_seed(&answering));
            answered.unwrap_or_else(|error| Answer::Silent(error.message))
        }))
        .await
    }

    fn judge_seed(&self, answering: &Answering) -> Result<Answer> {
        if answering.start_nonce == self.start_nonce {
            return Ok(Answer::Myself);
        }
        let told = &answering.told;
        if told.cluster_id.is_empty() {
            return Ok(Answer::Empty { seeds_hash: told.seeds_hash });
        }
        Ok(Answer::Member { cluster: parse_cluster(&told.cluster_id)?, node: NodeId(told.node) })
    }

    /// Asks whoever answers at a peer address who it is.
    pub(super) async fn probe(&self, address: &str) -> Result<Answering> {
        let asked = tokio::time::timeout(PROBE_TIMEOUT, async {
            let mut client = peer::connect(&self.platform.dialer(), address).await?;
            let mut request = Request::new(p::ProbeRequest {});
            self.handshake(NodeId(0)).write(request.metadata_mut())?;
            client.probe(request).await.map_err(|status| from_status(&status))
        });
        let silent = |_elapsed| Error::unavailable(format!("{address} does not answer"));
        let told = asked.await.map_err(silent)??.into_inner();
        let start_nonce = u128::from(told.start_nonce_high) << 64 | u128::from(told.start_nonce_low);
        Ok(Answering { start_nonce, told })
    }

    /// Fills the address book from what the seeds say, for a start after which no other node is where it was.
    pub(super) async fn learn_addresses(&self) {
        let Some(joined) = self.joined() else { return };
        let seeds = self.seeds();
        for (seed, answer) in seeds.iter().zip(self.ask_seeds(&seeds).await) {
            match answer {
                Answer::Member { cluster, node } if cluster == joined.cluster => {
                    self.addresses.set(node, seed.clone());
                }
                Answer::Member { cluster, .. } => {
                    tracing::warn!(seed, theirs = %cluster, ours = %joined.cluster,
                        "a seed belongs to another cluster than this node's data directory: mend the one or the other");
                }
                Answer::Myself | Answer::Empty { .. } | Answer::Silent(_) => {}
            }
        }
    }

    fn found(&self) -> Joined {
        let cluster = ClusterId(self.platform.random());
        let (node, meta_replica) = FOUNDER;
        tracing::info!(%cluster, "founding a cluster");
        Joined { cluster, node, meta_replica }
    }

    async fn join(&self, seed: &str, answer: &Answer) -> Result<Joined> {
        let command = MetaCommand::RegisterNode {
            join_nonce: self.disk()?.identity().join_nonce,
            profile: self.config.profile(),
            // Whether it comes in place of another one is for the others to find out.
            replaces: None,
        };
        let node = if let Answer::Member { node, .. } = answer { *node } else { NodeId(0) };
        let response = self.ask_meta(seed, node, command, Instant::now() + JOIN_TIMEOUT).await?;
        for record in response.nodes {
            let (node, profile) = node_from_wire(record);
            self.addresses.set(node, profile.addresses.peer);
        }
        let cluster = parse_cluster(&response.cluster_id)?;
        match meta_outcome_from_wire(response.outcome.unwrap_or_default())? {
            MetaOutcome::NodeRegistered { node, meta_replica } => {
                tracing::info!(%cluster, %node, "joined the cluster");
                Ok(Joined { cluster, node, meta_replica })
            }
            MetaOutcome::Refused(why) => Err(Error::new(ErrorKind::FailedPrecondition, why)),
            other => Err(Error::internal(format!("joining was answered with {other:?}"))),
        }
    }
}

/// Whether a node is its cluster's founder, which starts the meta group.
pub(super) fn is_founder(joined: Joined) -> bool {
    (joined.node, joined.meta_replica) == FOUNDER
}

fn parse_cluster(text: &str) -> Result<ClusterId> {
    u128::from_str_radix(text, 16)
        .map(ClusterId)
        .map_err(|_invalid| Error::internal(format!("{text:?} is no cluster id")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMBER: Answer = Answer::Member { cluster: ClusterId(7), node: NodeId(1) };

    fn empty() -> Answer {
        Answer::Empty { seeds_hash: 5 }
    }

    #[test]
    fn the_first_of_all_empty_seeds_founds() {
        assert_eq!(decide(&[Answer::Myself, empty(), empty()], 5), Decision::Found);
        assert_eq!(decide(&[Answer::Myself], 5), Decision::Found);
        assert!(matches!(decide(&[empty(), Answer::Myself, empty()], 5), Decision::Wait(_)));
        assert!(matches!(decide(&[empty(), empty()], 5), Decision::Wait(_)), "not among the seeds");
    }

    #[test]
    fn nobody_founds_while_a_seed_is_silent_or_differs() {
        let silent = Answer::Silent("connection refused".into());
        assert!(
            matches!(decide(&[Answer::Myself, silent, empty()], 5), Decision::Wait(why) if why.contains("refused"))
        );
        assert!(
            matches!(decide(&[Answer::Myself, empty(), empty()], 6), Decision::Wait(why) if why.contains("other seeds"))
        );
    }

    #[test]
    fn a_cluster_that_exists_is_joined_whoever_is_silent() {
        let silent = Answer::Silent("connection refused".into());
        assert_eq!(decide(&[Answer::Myself, silent, MEMBER], 5), Decision::Join(2));
        assert_eq!(decide(&[MEMBER, empty(), Answer::Myself], 6), Decision::Join(0));
    }

    #[test]
    fn the_order_of_seeds_does_not_matter() {
        let seeds = |seeds: &[&str]| seeds_hash(&seeds.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(seeds(&["a:1", "b:1"]), seeds(&["b:1", "a:1"]));
        assert_ne!(seeds(&["a:1", "b:1"]), seeds(&["a:1", "b:2"]));
    }
}
