//! Groups that have nothing to do, and what wakes them.

use std::time::Duration;

use kvd_types::{ReplicaId, Term};

use super::harness::{Network, Node, PATIENCE, leader, put, three_with, until, value};
use crate::{Group, Role};

const AFTER: Duration = Duration::from_millis(100);

/// Three nodes with a group between them that sleeps.
async fn three_asleep() -> (Network, Vec<Node>, Vec<Group>) {
    let (network, nodes, groups) = three_with(|node| node.sleeps_after(AFTER)).await;
    let (_, led) = leader(&groups).await;
    led.propose(put("before", "it sleeps")).await.unwrap();
    all_sleep(&groups).await;
    (network, nodes, groups)
}

async fn all_sleep(groups: &[Group]) {
    until("all sleep", || groups.iter().all(Group::sleeps)).await;
}

fn led(groups: &[Group]) -> (usize, Group) {
    let place = groups.iter().position(|group| group.leadership().is_self).expect("a leader");
    (place, groups[place].clone())
}

fn term(group: &Group) -> Term {
    group.status().term
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_with_nothing_to_do_sleeps_and_a_write_wakes_it() {
    let (_network, _nodes, groups) = three_asleep().await;
    let (_, leads) = led(&groups);
    let before = term(&leads);
    // Long after its lease is over.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(groups.iter().all(Group::sleeps), "nothing has woken it");
    for round in 0..3 {
        let key = format!("key {round}");
        leads.propose(put(&key, "value")).await.unwrap();
        until("all have it", || groups.iter().all(|group| value(group, &key).is_some())).await;
        all_sleep(&groups).await;
    }
    assert!(groups.iter().all(|group| term(group) == before), "nobody was elected");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_sleeps_is_read_and_its_members_count_as_alive() {
    let (_network, _nodes, groups) = three_asleep().await;
    let (_, leads) = led(&groups);
    tokio::time::sleep(Duration::from_secs(1)).await;
    leads.read_barrier().await.unwrap();
    assert!(leads.sleeps(), "followers are asked for their votes, which doesn't wake them");
    let members = leads.members();
    assert!((1..=3).all(|id| members.is_caught_up(ReplicaId(id))), "{members:?}");
    leads.lease_barrier().await.unwrap();
    all_sleep(&groups).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_of_a_group_that_sleeps_is_handed_over() {
    let (_network, _nodes, groups) = three_asleep().await;
    let (place, leads) = led(&groups);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let to = &groups[(place + 1) % 3];
    leads.transfer_leader(to.replica(), PATIENCE).await.unwrap();
    until("it leads", || to.leadership().is_self).await;
    all_sleep(&groups).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_wake_when_their_leader_s_node_is_silent() {
    let (network, _nodes, mut groups) = three_asleep().await;
    let (place, leads) = led(&groups);
    let before = term(&leads);
    network.cut_off(leads.replica().get());
    let lost = groups.remove(place);
    until("another leads", || groups.iter().any(|group| group.leadership().is_self)).await;
    let (_, next) = leader(&groups).await;
    assert!(term(&next) > before);
    next.propose(put("without", "it")).await.unwrap();
    network.mend(lost.replica().get());
    until("the old one follows", || lost.status().role == Role::Follower).await;
    groups.push(lost);
    all_sleep(&groups).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_wake_when_the_leader_is_closed_though_its_node_goes_on() {
    let (_network, nodes, mut groups) = three_asleep().await;
    let (place, _) = led(&groups);
    let closed = groups.remove(place);
    nodes[place].stop(&closed).await;
    let (_, next) = leader(&groups).await;
    next.propose(put("without", "it")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_opened_again_while_the_others_sleep_hears_their_leader() {
    let (_network, nodes, mut groups) = three_asleep().await;
    let (place, leads) = led(&groups);
    let before = term(&leads);
    let other = (place + 1) % 3;
    nodes[other].stop(&groups[other]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(leads.sleeps(), "it has missed nobody");
    groups[other] = nodes[other].open().await;
    until("it hears of it", || groups[other].leadership().leader.is_some()).await;
    all_sleep(&groups).await;
    assert_eq!(term(&leads), before, "nobody was elected");
}
