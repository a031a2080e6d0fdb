//! What has changed, in order.

use bytes::Bytes;
use kvd_types::{
    Lifetime, Proposal, Revision, Term, Txn, TxnOp, WriteOp,
    limits::{CHANGES_MAX, SCAN_BYTES_MAX},
    operation::{Changes, ChangesPage},
};

use super::{NOW_MS, Replica, SHARD, at, delete, history::known, key, once, put, revision_of};
use crate::Position;

fn events(replica: &Replica, asked: &ChangesPage) -> Changes {
    known(replica.shard().reader().events(asked).unwrap())
}

fn after(after: Revision) -> ChangesPage {
    ChangesPage { after, ..ChangesPage::default() }
}

/// The keys, each with its value, or a dash if it is gone.
fn told(changes: &Changes) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let one = |event: &kvd_types::Event| {
        let value = event.record.as_ref().map_or_else(|| "-".to_owned(), |record| text(&record.value));
        format!("{}={value}", text(event.key.as_bytes()))
    };
    changes.events.iter().map(one).collect()
}

#[test]
fn changes_come_in_order_and_whole() {
    let mut replica = Replica::new(SHARD);
    let outcomes =
        replica.apply_at(NOW_MS, vec![once(put("b", "1")), once(put("a", "2")), once(delete("b"))]);
    let more = replica.apply_at(NOW_MS, vec![once(put("a", "3"))]);
    let revisions: Vec<Revision> = outcomes.iter().chain(&more).map(revision_of).collect();
    let all = events(&replica, &after(Revision::ZERO));
    assert_eq!(told(&all), ["b=1", "a=2", "b=-", "a=3"]);
    assert_eq!((all.upto, all.more), (revisions[3], false));
    assert_eq!(all.events.iter().map(|event| event.revision).collect::<Vec<_>>(), revisions);
    assert!(all.events.iter().all(|event| event.previous.is_none()), "nobody asked");
    let all = events(&replica, &ChangesPage { want_previous: true, ..after(Revision::ZERO) });
    let previous: Vec<_> =
        all.events.iter().map(|event| event.previous.as_ref().map(|old| &old.value[..])).collect();
    assert_eq!(previous, [None, None, Some(&b"1"[..]), Some(b"2")]);

    // From the middle of an entry's row.
    assert_eq!(told(&events(&replica, &after(revisions[1]))), ["b=-", "a=3"]);
    let first = events(&replica, &ChangesPage { limit: 1, ..after(Revision::ZERO) });
    assert_eq!((told(&first), first.upto, first.more), (vec!["b=1".to_owned()], revisions[0], true));
    let last = events(&replica, &ChangesPage { limit: 1, ..after(revisions[2]) });
    assert_eq!((told(&last), last.upto, last.more), (vec!["a=3".to_owned()], revisions[3], false));
    let none = events(&replica, &after(revisions[3].next()));
    assert_eq!((told(&none), none.upto, none.more), (vec![], revisions[3].next(), false));
}

#[test]
fn a_change_of_term_tells_that_nothing_came_before_it() {
    let mut replica = Replica::new(SHARD);
    let ceiling = Revision::from_unix_ms(NOW_MS + 3000);
    let commands = vec![once(put("k", "v"))];
    let proposal =
        Proposal { clock: Revision::from_unix_ms(NOW_MS), ceiling, commands, ..Proposal::default() };
    let written = revision_of(&replica.machine.apply(at(0), &proposal).unwrap()[0]);
    assert_eq!(events(&replica, &after(Revision::ZERO)).upto, written);
    replica.machine.skip(Position { term: Term(2), ..at(1) }).unwrap();
    let found = events(&replica, &after(Revision::ZERO));
    assert_eq!((told(&found), found.upto, found.more), (vec!["k=v".to_owned()], ceiling, false));
}

#[test]
fn what_is_not_watched_is_passed_over_and_said_to_be() {
    let mut replica = Replica::new(SHARD);
    let watched = |after, limit| ChangesPage {
        start: Bytes::from_static(b"m"),
        end: Bytes::from_static(b"n"),
        limit,
        ..self::after(after)
    };
    let first = revision_of(&replica.apply(once(put("m", "1"))));
    let beyond = revision_of(&replica.apply(once(put("n", "1"))));
    let found = events(&replica, &watched(Revision::ZERO, 1));
    // That there is no more of interest would have to be looked for.
    assert_eq!((told(&found), found.upto, found.more), (vec!["m=1".to_owned()], first, true));
    let found = events(&replica, &watched(first, 1));
    assert_eq!((told(&found), found.upto, found.more), (vec![], beyond, false));

    // So much that one answer does not look at all of it.
    for _ in 0..20 {
        replica.apply_at(NOW_MS, (0..1024).map(|_| once(put("a", "1"))).collect());
    }
    let last = revision_of(&replica.apply(once(put("m", "2"))));
    let skipped = events(&replica, &watched(first, 0));
    assert!(skipped.events.is_empty() && skipped.more && skipped.upto > beyond && skipped.upto < last);
    let found = events(&replica, &watched(skipped.upto, 0));
    assert_eq!((told(&found), found.upto, found.more), (vec!["m=2".to_owned()], last, false));
}

#[test]
fn an_answer_is_bounded_but_one_revision_stays_together() {
    let mut replica = Replica::new(SHARD);
    let value = vec![0; SCAN_BYTES_MAX / 4];
    let set = |name: &str| TxnOp::Put {
        key: key(name),
        value: value.clone().into(),
        lifetime: Lifetime::Forever,
        want_previous: false,
    };
    for i in 0..3 {
        replica.apply(once(put(&format!("{i}"), value.clone())));
    }
    let txn = Txn { then: ["a", "b", "c", "d", "e"].map(set).to_vec(), ..Txn::default() };
    replica.apply(once(WriteOp::Txn(txn)));
    let first = events(&replica, &after(Revision::ZERO));
    assert_eq!((first.events.len(), first.more), (3, true), "the transaction would make it too large");
    let second = events(&replica, &after(first.upto));
    assert_eq!((second.events.len(), second.more), (5, false));
    assert!(second.events.iter().all(|event| event.revision == second.upto));
    let few = events(&replica, &ChangesPage { limit: 4, ..after(first.events[1].revision) });
    assert_eq!((few.events.len(), few.more), (1, true));

    for _ in 0..3 {
        replica.apply_at(NOW_MS, (0..1000).map(|_| once(put("k", "v"))).collect());
    }
    let most = events(&replica, &ChangesPage { limit: usize::MAX, ..after(second.upto) });
    assert_eq!((most.events.len(), most.more), (CHANGES_MAX, true));
}
