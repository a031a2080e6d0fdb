//! What does not last: keys with a time to live, leases and what is attached to them.

use kvd_types::{
    Command, LeaseCommand, LeaseId, LeaseOutcome, Lifetime, Outcome, Proposal, Revision, ShardId, WriteOp,
    limits::{ENDED_LEASE_KEPT, EXPIRED_PER_ENTRY_MAX, EXPIRED_PER_ENTRY_MIN},
    operation::ChangesPage,
    outcome::Refusal,
};

use super::{NOW_MS, Replica, SHARD, at, delete, history::known, in_session, key, lasting, once, put};

const LEASE: LeaseId = LeaseId(77);
const HERE: ShardId = ShardId(7);
const OTHER: ShardId = ShardId(3);

/// Applies commands at an age of the shard.
fn at_age(replica: &mut Replica, age_ms: u64, commands: Vec<Command>) -> Vec<Outcome> {
    let position = at(replica.next_index());
    let proposal =
        Proposal { clock: Revision::from_unix_ms(NOW_MS), age_ms, commands, ..Proposal::default() };
    replica.machine.apply(position, &proposal).unwrap()
}

fn one(replica: &mut Replica, age_ms: u64, command: Command) -> Outcome {
    at_age(replica, age_ms, vec![command]).remove(0)
}

fn lease(replica: &mut Replica, age_ms: u64, command: LeaseCommand) -> LeaseOutcome {
    match one(replica, age_ms, Command::Lease(command)) {
        Outcome::Lease(outcome) => outcome,
        other => panic!("{other:?}"),
    }
}

fn grant(ttl_ms: u64) -> Command {
    once(WriteOp::GrantLease { lease: LEASE, ttl_ms })
}

fn exists(replica: &Replica, name: &str) -> bool {
    replica.shard().reader().get(&key(name)).unwrap().is_some()
}

#[test]
fn a_key_lapses_when_its_time_is_over_and_not_before() {
    let mut replica = Replica::new(SHARD);
    let ttl = |name, ttl_ms| once(lasting(Lifetime::Ttl(ttl_ms), put(name, "v")));
    at_age(&mut replica, 1000, vec![ttl("a", 500), ttl("b", 700), ttl("c", 700), once(put("d", "v"))]);
    assert_eq!(replica.shard().reader().stats().next_due_ms, Some(1500));
    // What is written anew lasts as it says then.
    at_age(&mut replica, 1400, vec![once(put("b", "forever")), ttl("c", 700)]);
    at_age(&mut replica, 1499, vec![]);
    assert!(exists(&replica, "a"));
    replica.save();
    let mut replica = replica.crash();
    at_age(&mut replica, 1500, vec![]);
    assert!(!exists(&replica, "a"));
    // The age never goes back.
    at_age(&mut replica, 3, vec![ttl("e", 100)]);
    assert_eq!(replica.shard().reader().get(&key("e")).unwrap().unwrap().expires_at_age_ms, Some(1600));
    at_age(&mut replica, 2099, vec![once(delete("e"))]);
    assert!(exists(&replica, "c") && !exists(&replica, "e"));
    at_age(&mut replica, 2100, vec![]);
    assert!(exists(&replica, "b") && !exists(&replica, "c") && exists(&replica, "d"));
    assert_eq!(replica.shard().reader().stats().next_due_ms, None);

    let changes = known(replica.shard().reader().events(&ChangesPage::default()).unwrap());
    let gone: Vec<_> =
        changes.events.iter().filter(|event| event.record.is_none()).map(|event| &event.key).collect();
    assert_eq!(gone, [&key("a"), &key("e"), &key("c")], "watchers are told");
}

#[test]
fn many_keys_lapse_an_entrys_share_at_a_time() {
    let mut replica = Replica::new(SHARD);
    let count = 3 * EXPIRED_PER_ENTRY_MAX + 1;
    let puts = (0..count).map(|i| once(lasting(Lifetime::Ttl(10), put(&format!("k{i}"), "v")))).collect();
    at_age(&mut replica, 0, puts);
    let mut left = vec![];
    while replica.shard().reader().stats().next_due_ms.is_some() {
        at_age(&mut replica, 10, vec![]);
        left.push(replica.shard().reader().stats().keys);
    }
    let share = EXPIRED_PER_ENTRY_MAX as u64;
    assert_eq!(left, [2 * share + 1, share + 1, 1, 0]);
}

#[test]
fn what_lapses_takes_no_more_of_an_entry_than_its_commands_do() {
    let mut replica = Replica::new(SHARD);
    let count = 2 * EXPIRED_PER_ENTRY_MAX;
    let puts = (0..count).map(|i| once(lasting(Lifetime::Ttl(10), put(&format!("k{i}"), "v")))).collect();
    at_age(&mut replica, 0, puts);
    for commands in [1, EXPIRED_PER_ENTRY_MIN, EXPIRED_PER_ENTRY_MIN + 3, EXPIRED_PER_ENTRY_MAX + 9] {
        let before = replica.shard().reader().stats().keys;
        at_age(&mut replica, 10, vec![once(delete("nothing")); commands]);
        let lapsed = before - replica.shard().reader().stats().keys;
        assert_eq!(lapsed, commands.clamp(EXPIRED_PER_ENTRY_MIN, EXPIRED_PER_ENTRY_MAX) as u64);
    }
}

#[test]
fn a_lease_lasts_as_long_as_it_is_kept_alive() {
    let mut replica = Replica::new(SHARD);
    assert_eq!(one(&mut replica, 0, grant(5000)), Outcome::Lease(LeaseOutcome::Granted { ttl_ms: 5000 }));
    assert_eq!(one(&mut replica, 0, grant(9000)), Outcome::Lease(LeaseOutcome::Exists));
    let alive = LeaseOutcome::Alive { ttl_ms: 5000 };
    for age_ms in [3000, 6000, 9000, 13_999] {
        assert_eq!(lease(&mut replica, age_ms, LeaseCommand::KeepAlive(LEASE)), alive);
        replica.save();
        replica = replica.crash();
    }
    let view = replica.shard().reader().lease(LEASE).unwrap().unwrap();
    assert_eq!((view.ttl_ms, view.remaining_ms), (5000, 5000));
    // It is over at once, even for whoever comes in the same entry.
    let outcomes = at_age(&mut replica, 18_999, vec![Command::Lease(LeaseCommand::KeepAlive(LEASE))]);
    assert_eq!(outcomes, [Outcome::Lease(LeaseOutcome::Gone)]);
    assert_eq!(replica.shard().reader().lease(LEASE).unwrap(), None);
    assert_eq!(replica.shard().reader().stats().leases, 0);
    assert_eq!(
        one(&mut replica, 19_000, once(WriteOp::RevokeLease(LEASE))),
        Outcome::Lease(LeaseOutcome::Gone)
    );
}

#[test]
fn keys_are_attached_only_to_a_lease_that_the_shard_was_told_of() {
    let mut replica = Replica::new(SHARD);
    let attached = |name| once(lasting(Lifetime::Lease(LEASE), put(name, "v")));
    let not_attached = Outcome::Refused(Refusal::LeaseNotAttached(LEASE));
    let session = replica.open_session();
    let in_a_session = in_session(session, 1, 1, lasting(Lifetime::Lease(LEASE), put("k", "v")));
    assert_eq!(one(&mut replica, 10, in_a_session.clone()), not_attached);
    let late = LeaseCommand::Attach { lease: LEASE, not_after_ms: 9 };
    assert_eq!(one(&mut replica, 10, Command::Lease(late)), not_attached, "it was told too long ago");
    let attach = LeaseCommand::Attach { lease: LEASE, not_after_ms: 100 };
    assert_eq!(lease(&mut replica, 10, attach), LeaseOutcome::Attached);
    assert!(
        matches!(one(&mut replica, 10, in_a_session), Outcome::Put { .. }),
        "a refusal is not remembered"
    );
    at_age(&mut replica, 10, vec![attached("a"), attached("b"), attached("c"), once(put("c", "let go"))]);
    let reader = replica.shard().reader();
    assert_eq!(reader.lease_keys(LEASE, None, 9).unwrap(), [key("a"), key("b"), key("k")]);
    assert_eq!(reader.lease_keys(LEASE, Some(&key("a")), 1).unwrap(), [key("b")]);

    let detach = LeaseCommand::Detach { lease: LEASE, limit: 2 };
    assert_eq!(lease(&mut replica, 20, detach), LeaseOutcome::Detached { keys: 2, more: true });
    assert_eq!(one(&mut replica, 20, attached("d")), Outcome::Refused(Refusal::LeaseEnded(LEASE)));
    assert_eq!(lease(&mut replica, 20, attach), LeaseOutcome::Gone);
    replica.save();
    let mut replica = replica.crash();
    assert_eq!(lease(&mut replica, 20, detach), LeaseOutcome::Detached { keys: 1, more: false });
    assert!(
        !exists(&replica, "a") && !exists(&replica, "b") && !exists(&replica, "k") && exists(&replica, "c")
    );

    // That it has ended is forgotten one day; what was told before doesn't count then.
    let forgotten_ms = 20 + u64::try_from(ENDED_LEASE_KEPT.as_millis()).unwrap();
    at_age(&mut replica, forgotten_ms - 1, vec![]);
    assert_eq!(one(&mut replica, 0, attached("d")), Outcome::Refused(Refusal::LeaseEnded(LEASE)));
    at_age(&mut replica, forgotten_ms, vec![]);
    assert_eq!(one(&mut replica, 0, attached("d")), not_attached);
    assert_eq!(replica.shard().reader().stats().next_due_ms, None);
}

#[test]
fn a_home_remembers_a_lease_that_ends_until_every_shard_has_let_go() {
    let mut replica = Replica::new(SHARD);
    one(&mut replica, 0, grant(5000));
    for shard in [HERE, OTHER, HERE] {
        let expected = lease(&mut replica, 100, LeaseCommand::Expect { lease: LEASE, shard });
        assert_eq!(expected, LeaseOutcome::Expected);
    }
    at_age(&mut replica, 5000, vec![]);
    let ending = |replica: &Replica| replica.shard().reader().ending_leases(9).unwrap();
    replica.save();
    let mut replica = replica.crash();
    let view = ending(&replica).remove(0);
    assert_eq!((view.id, view.remaining_ms, view.shards), (LEASE, 0, vec![OTHER, HERE]));
    for command in [LeaseCommand::KeepAlive(LEASE), LeaseCommand::Expect { lease: LEASE, shard: OTHER }] {
        assert_eq!(lease(&mut replica, 5000, command), LeaseOutcome::Gone);
    }
    assert_eq!(
        one(&mut replica, 5000, grant(5000)),
        Outcome::Lease(LeaseOutcome::Exists),
        "its id is taken still"
    );
    let detached = |shard| LeaseCommand::Detached { lease: LEASE, shard };
    for shard in [OTHER, OTHER] {
        assert_eq!(lease(&mut replica, 5000, detached(shard)), LeaseOutcome::Noted);
    }
    assert_eq!(ending(&replica)[0].shards, [HERE]);
    let stats = replica.shard().reader().stats();
    assert_eq!((stats.leases, stats.leases_ending), (1, 1));
    lease(&mut replica, 5000, detached(HERE));
    assert_eq!(ending(&replica), []);
    let stats = replica.shard().reader().stats();
    assert_eq!((stats.leases, stats.leases_ending, stats.digest), (0, 0, 0));
}

#[test]
fn a_lease_that_is_revoked_ends_like_one_whose_time_is_over() {
    let mut replica = Replica::new(SHARD);
    one(&mut replica, 0, grant(5000));
    lease(&mut replica, 0, LeaseCommand::Expect { lease: LEASE, shard: OTHER });
    lease(&mut replica, 4000, LeaseCommand::KeepAlive(LEASE));
    let revoke = once(WriteOp::RevokeLease(LEASE));
    assert_eq!(one(&mut replica, 4500, revoke.clone()), Outcome::Lease(LeaseOutcome::Revoked));
    assert_eq!(one(&mut replica, 4500, revoke), Outcome::Lease(LeaseOutcome::Gone));
    assert_eq!(replica.shard().reader().stats().leases_ending, 1);
    at_age(&mut replica, 20_000, vec![]);
    lease(&mut replica, 20_000, LeaseCommand::Detached { lease: LEASE, shard: OTHER });
    let stats = replica.shard().reader().stats();
    assert_eq!((stats.leases, stats.next_due_ms, stats.digest), (0, None, 0));
}
