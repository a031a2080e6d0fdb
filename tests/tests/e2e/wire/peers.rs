//! The peer port: it is for nodes of the cluster, and for nobody else.

use kvd_client::Client;
use kvd_proto::{
    log::nonce_to_wire,
    peer::v1::{
        self as p, CheckpointChunk, Envelope, Frame, ProposeMetaRequest, envelope::Body, meta_command::Kind,
        meta_outcome, peer_client::PeerClient, refusal::Reason,
    },
};
use tonic::metadata::MetadataMap;

use super::*;

const TOKEN: &str = "right";

/// What a caller shows of itself.
#[derive(Clone)]
struct Shown {
    token: &'static str,
    cluster: Option<String>,
    from: u64,
    to: u64,
    incarnation: u64,
}

impl Shown {
    fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        let mut set = |name: &'static str, value: &str| {
            request.metadata_mut().insert(name, value.parse().unwrap());
        };
        if let Some(cluster) = &self.cluster {
            set("kvd-cluster", cluster);
        }
        set("kvd-cluster-token", self.token);
        set("kvd-from-node", &self.from.to_string());
        set("kvd-to-node", &self.to.to_string());
        set("kvd-incarnation", &self.incarnation.to_string());
        set("kvd-start-nonce", &format!("{:032x}", 7));
        request
    }

    /// What each of a peer's calls that change or reach anything is refused with, by the call's name.
    async fn refusals(&self, peer: &mut PeerClient<Channel>) -> [(&'static str, Status); 3] {
        let metadata = self.request(()).metadata().clone();
        refusals(peer, &metadata).await
    }
}

async fn refusals(peer: &mut PeerClient<Channel>, metadata: &MetadataMap) -> [(&'static str, Status); 3] {
    let proposed = peer.propose_meta(with(metadata, propose(set_voters()))).await;
    let lane = peer.lane(with(metadata, stream::pending::<Frame>()));
    let lane = within("a lane's answer", lane).await;
    let sent = peer.send_checkpoint(with(metadata, stream::iter([CheckpointChunk::default()]))).await;
    [
        ("ProposeMeta", proposed.expect_err("a change was taken")),
        ("Lane", lane.expect_err("a lane was opened")),
        ("SendCheckpoint", sent.expect_err("a checkpoint was taken")),
    ]
}

fn with<M>(metadata: &MetadataMap, message: M) -> Request<M> {
    let mut request = Request::new(message);
    *request.metadata_mut() = metadata.clone();
    request
}

fn propose(kind: Kind) -> ProposeMetaRequest {
    ProposeMetaRequest { command: Some(p::MetaCommand { kind: Some(kind) }) }
}

/// A change that would do harm.
fn set_voters() -> Kind {
    Kind::SetMetaVoters(p::SetMetaVoters { nodes: vec![1] })
}

fn create_cluster() -> Kind {
    let settings = p::Settings { replication_factor: 1, shards: 1, initial_nodes: 1, ..Default::default() };
    Kind::CreateCluster(p::CreateCluster {
        cluster: Some(nonce_to_wire(9)),
        settings: Some(settings),
        join_nonce: Some(nonce_to_wire(9)),
        profile: Some(profile("127.0.0.1:1")),
    })
}

fn profile(peer_address: &str) -> p::NodeProfile {
    p::NodeProfile {
        client_address: "127.0.0.1:2".to_owned(),
        peer_address: peer_address.to_owned(),
        http_address: "127.0.0.1:3".to_owned(),
        zone: String::new(),
        weight: 100,
    }
}

/// A cluster with a token, and what a node would show of itself that the others have not met yet.
async fn start() -> (Cluster, Client, Shown) {
    let cluster = Cluster::of(3).variable("KVD_CLUSTER_TOKEN", TOKEN).start().await;
    let client = cluster.client().await;
    let id = client.status().await.unwrap().topology.cluster_id;
    (cluster, client, Shown { token: TOKEN, cluster: Some(id), from: 77, to: 0, incarnation: 1 })
}

async fn peer(cluster: &Cluster, index: usize) -> PeerClient<Channel> {
    PeerClient::new(channel(cluster.node(index).peer_address()).await)
}

/// Checks that the cluster has come to no harm.
async fn check_unharmed(cluster: &Cluster, client: &Client, id: &str) {
    let topology = client.status().await.unwrap().topology;
    assert_eq!((topology.cluster_id.as_str(), topology.nodes.len()), (id, 3), "{topology:?}");
    for index in 0..3 {
        check_serves(&mut kv(cluster, index).await, "peers").await;
        // On a busy machine a leader may just be being elected.
        cluster.node(index).ready().await;
        let log = cluster.node(index).log();
        assert!(!log.contains("panicked"), "{log}");
    }
    cluster.agreed(client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_are_no_nodes_of_the_cluster_are_refused_and_told_why() {
    let (cluster, client, member) = start().await;
    let id = member.cluster.clone().unwrap();
    for index in 0..3 {
        let mut peer = peer(&cluster, index).await;
        let this = cluster.id(&client, index).await.get();
        let other = cluster.id(&client, (index + 1) % 3).await.get();
        let member = Shown { to: this, ..member.clone() };

        // Nothing at all, and half of it.
        let mut half = member.request(()).metadata().clone();
        half.remove("kvd-start-nonce");
        for (metadata, part) in [(MetadataMap::new(), "kvd-from-node"), (half, "kvd-start-nonce")] {
            let probe = peer.probe(with(&metadata, p::ProbeRequest {})).await.unwrap_err();
            for (call, status) in refusals(&mut peer, &metadata).await.into_iter().chain([("Probe", probe)]) {
                assert_eq!(status.code(), Code::InvalidArgument, "{call}: {status:?}");
                let told = [part, "not a kvd node?"].iter().all(|part| status.message().contains(part));
                assert!(told, "{call} without {part}: {status:?}");
            }
        }
        for token in ["wrong", ""] {
            let guessing = Shown { token, ..member.clone() };
            let probe = peer.probe(guessing.request(p::ProbeRequest {})).await.unwrap_err();
            for (call, status) in guessing.refusals(&mut peer).await.into_iter().chain([("Probe", probe)]) {
                assert_eq!(status.code(), Code::PermissionDenied, "{call}: {status:?}");
                assert!(status.message().contains("token is not this cluster's"), "{call}: {status:?}");
                assert!(!status.message().contains(TOKEN), "{call}: {status:?}");
            }
        }

        let elsewhere = Some(format!("{:032x}", 1));
        let not_here = format!("this is node {this}, not node 9");
        for (shown, part) in [
            (Shown { cluster: elsewhere, ..member.clone() }, id.as_str()),
            (Shown { cluster: None, ..member.clone() }, "in no cluster"),
            (Shown { cluster: None, from: 0, ..member.clone() }, "in no cluster"),
            (Shown { from: 0, ..member.clone() }, "in no cluster"),
            (Shown { to: 9, ..member.clone() }, not_here.as_str()),
            (Shown { to: 0, ..member.clone() }, "not node 0"),
            // As a node that is there: an earlier start of it, and a second one.
            (Shown { from: other, incarnation: 0, ..member.clone() }, "is an old copy"),
            (Shown { from: other, ..member.clone() }, "copies of one data directory"),
        ] {
            for (call, status) in shown.refusals(&mut peer).await {
                assert_eq!(status.code(), Code::FailedPrecondition, "{call} for {part:?}: {status:?}");
                assert!(status.message().contains(part), "{call} for {part:?}: {status:?}");
            }
        }

        // Whoever has the token may ask who this is, wherever it comes from.
        let stranger = Shown { cluster: None, from: 0, to: 0, ..member.clone() };
        let told = peer.probe(stranger.request(p::ProbeRequest {})).await.unwrap().into_inner();
        assert_eq!((told.cluster_id.as_str(), told.node), (id.as_str(), this), "{told:?}");
        // And what was refused was refused for what was wrong with it alone.
        let lane = within("a lane", peer.lane(member.request(stream::pending::<Frame>()))).await;
        lane.expect("a node of the cluster is let in");
    }
    check_unharmed(&cluster, &client, &id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_not_created_over_the_network_and_nobody_joins_in_anothers_place() {
    let (cluster, client, member) = start().await;
    let id = member.cluster.clone().unwrap();
    for index in 0..3 {
        let mut peer = peer(&cluster, index).await;
        let this = cluster.id(&client, index).await.get();
        let member = Shown { to: this, ..member.clone() };
        let joining = Shown { cluster: None, from: 0, ..member.clone() };
        for caller in [&member, &joining] {
            let status = peer.propose_meta(caller.request(propose(create_cluster()))).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
            assert!(status.message().contains("created by its founder"), "{status:?}");
            for request in [
                ProposeMetaRequest::default(),
                ProposeMetaRequest { command: Some(p::MetaCommand::default()) },
            ] {
                let status = peer.propose_meta(caller.request(request)).await.unwrap_err();
                assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
                assert!(status.message().contains("a meta command of an unknown kind"), "{status:?}");
            }
        }

        // At the address of a node that is there, and with addresses that can't be.
        let register = |profile| {
            let join_nonce = Some(nonce_to_wire(99));
            propose(Kind::RegisterNode(p::RegisterNode { join_nonce, profile: Some(profile), replaces: 2 }))
        };
        let taken = profile(&cluster.node(1).peer_address().to_string());
        for (profile, part) in [(taken, "answers there"), (profile(""), "address"), (profile("x"), "address")]
        {
            let answer = peer.propose_meta(joining.request(register(profile))).await.unwrap().into_inner();
            let Some(meta_outcome::Kind::Refused(why)) = answer.outcome.clone().unwrap().kind else {
                panic!("{part:?}: {answer:?}")
            };
            assert!(why.contains(part), "{part:?} in {why}");
        }
    }
    check_unharmed(&cluster, &client, &id).await;
}

/// Sends messages on a lane and gives the answers, by their calls.
async fn ask(peer: &mut PeerClient<Channel>, shown: &Shown, envelopes: Vec<Envelope>) -> Vec<Body> {
    let wanted = envelopes.len();
    let envelopes = (0..).zip(envelopes).map(|(call, envelope)| Envelope { call, ..envelope }).collect();
    let frames = stream::iter([Frame { envelopes }]).chain(stream::pending());
    let mut answers = within("a lane", peer.lane(shown.request(frames))).await.unwrap().into_inner();
    let mut found = Vec::new();
    while found.len() < wanted {
        let frame = within("a lane's answers", answers.message()).await.unwrap();
        found.extend(frame.expect("the lane goes on").envelopes);
    }
    found.sort_by_key(|envelope| envelope.call);
    found.into_iter().map(|envelope| envelope.body.unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_for_replicas_that_are_not_there_or_without_sense_are_refused_one_by_one() {
    let (cluster, client, member) = start().await;
    let id = member.cluster.clone().unwrap();
    let topology = client.status().await.unwrap().topology;
    for index in 0..3 {
        let mut peer = peer(&cluster, index).await;
        let this = cluster.id(&client, index).await;
        let member = Shown { to: this.get(), ..member.clone() };
        let shard = &topology.shards[0];
        let here = shard.replicas.iter().find(|replica| replica.node == this).unwrap().id.get();
        let elsewhere = shard.replicas.iter().find(|replica| replica.node != this).unwrap().id.get();
        let group = shard.id.get();
        let vote = |term| Some(p::Vote { term, voted_for: elsewhere, committed: true });
        let entries = |payload: &'static [u8]| {
            let id = Some(p::LogId { term: 1, index: 1 });
            let entries = vec![p::Entry { id, payload: Bytes::from_static(payload) }];
            Body::Append(p::AppendRequest { vote: vote(0), entries, ..Default::default() })
        };
        let ask_vote = || Body::Vote(p::VoteRequest::default());
        let to =
            |group, to_replica, body| Envelope { call: 0, group, from_replica: elsewhere, to_replica, body };
        let nowhere = |replica: u64, group: u32| {
            (Reason::NoSuchReplica, format!("replica {replica} of group {group} is not on this node"))
        };
        let malformed = |part: &str| (Reason::Malformed, part.to_owned());
        let no_message = "not a message from one replica to another";
        let (envelopes, expected): (Vec<_>, Vec<_>) = [
            (to(group, 999, Some(ask_vote())), nowhere(999, group)),
            (to(group, elsewhere, Some(ask_vote())), nowhere(elsewhere, group)),
            (to(999, here, Some(ask_vote())), nowhere(here, 999)),
            (to(group, here, None), malformed("a message without a body")),
            (to(group, here, Some(ask_vote())), malformed("vote")),
            (to(group, here, Some(Body::PreVote(p::VoteRequest::default()))), malformed("vote")),
            (to(group, here, Some(Body::Append(p::AppendRequest::default()))), malformed("vote")),
            (to(group, here, Some(entries(b"\x09?"))), malformed("unknown tag")),
            (to(group, here, Some(entries(b""))), malformed("unknown tag")),
            (to(group, here, Some(entries(b"\x02\xff"))), malformed("membership")),
            (to(group, here, Some(Body::Refusal(p::Refusal::default()))), malformed(no_message)),
            (to(group, here, Some(Body::VoteResponse(p::VoteResponse::default()))), malformed(no_message)),
        ]
        .into_iter()
        .unzip();
        let answers = ask(&mut peer, &member, envelopes).await;
        for (answer, (reason, part)) in answers.into_iter().zip(expected) {
            let Body::Refusal(refusal) = answer else { panic!("{part:?}: {answer:?}") };
            assert!(refusal.reason() == reason && refusal.message.contains(&part), "{part:?}: {refusal:?}");
        }

        // Operations that another node passes on, without sense.
        let forwarded =
            |request| to(0, 0, Some(Body::Operation(Operation { id: 5, deadline_ms: 0, request })));
        let operations = vec![
            forwarded(None),
            forwarded(Some(Wire::Get(get("")))),
            forwarded(Some(Wire::Put(put("", "")))),
        ];
        for answer in ask(&mut peer, &member, operations).await {
            let Body::OperationResult(OperationResult { id: 5, response: Some(Reply::Error(error)) }) =
                answer
            else {
                panic!("{answer:?}")
            };
            assert_eq!(error.kind(), v1::error::Kind::InvalidArgument, "{error:?}");
        }

        check_checkpoints(&mut peer, &member, group, here).await;
    }
    check_unharmed(&cluster, &client, &id).await;
}

/// Checkpoints that can't be installed at a replica that is there.
async fn check_checkpoints(peer: &mut PeerClient<Channel>, member: &Shown, group: u32, here: u64) {
    let header = p::CheckpointHeader {
        group,
        from_replica: 999,
        to_replica: here,
        vote: Some(p::Vote { term: 0, voted_for: 999, committed: true }),
        size_bytes: 4096,
        meta: Some(p::SnapshotMeta::default()),
    };
    let announced = |header| CheckpointChunk { header: Some(header), data: Bytes::new() };
    let data = |bytes: usize| CheckpointChunk { header: None, data: vec![0x5a; bytes].into() };
    for (chunks, part) in [
        (vec![], "has no header"),
        (vec![data(10)], "has no header"),
        (vec![announced(p::CheckpointHeader { to_replica: 999, ..header.clone() })], "is not on this node"),
        (vec![announced(p::CheckpointHeader { group: 999, ..header.clone() })], "is not on this node"),
        (vec![announced(p::CheckpointHeader { vote: None, ..header.clone() })], "vote"),
        (vec![announced(header.clone())], "checkpoint"),
        (vec![announced(header.clone()), data(100)], "checkpoint"),
        (vec![announced(header.clone()), data(4096)], "checkpoint"),
        (vec![announced(header.clone()), data(1 << 20)], "checkpoint"),
        (
            vec![announced(p::CheckpointHeader { size_bytes: u64::MAX, ..header.clone() }), data(10)],
            "checkpoint",
        ),
    ] {
        let sent = peer.send_checkpoint(member.request(stream::iter(chunks)));
        let status = within("a checkpoint's answer", sent).await.expect_err(part);
        assert!(status.message().contains(part), "{part:?} in {status:?}");
    }
}
