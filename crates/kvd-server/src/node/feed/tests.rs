use std::time::Duration;

use kvd_types::{Key, Record};

use super::*;

fn event(key: &str, revision: u64) -> Event {
    let record = Record { value: "v".into(), revision: Revision(revision), ..Record::default() };
    Event {
        key: Key::try_from(key).unwrap(),
        revision: Revision(revision),
        record: Some(record),
        previous: None,
    }
}

fn deleted(key: &str, revision: u64) -> Event {
    Event { record: None, ..event(key, revision) }
}

fn feed() -> Arc<Feed> {
    Arc::new(Feed::new(ShardId(1), Revision(100)))
}

fn watch(feed: &Arc<Feed>, after: u64, interest: Interest) -> Subscription {
    Arc::clone(feed).add(Revision(after), Arc::new(interest))
}

fn range(start: &str, end: &str) -> Interest {
    Interest { start: start.to_owned().into(), end: end.to_owned().into(), ..Interest::default() }
}

fn push(feed: &Feed, events: Vec<Event>, upto: u64) {
    let changes = Changes { events, upto: Revision(upto), more: false };
    feed.ring.lock().push(changes, false);
}

/// What is taken: revisions; or from where on it must be read from history.
fn take(place: &Subscription, limit: usize) -> Option<Result<Vec<u64>, u64>> {
    place.take(limit).map(|taken| match taken {
        Taken::Events(events) => Ok(events.iter().map(|event| event.revision.get()).collect()),
        Taken::Behind(revision) => Err(revision.get()),
    })
}

#[test]
fn what_concerns_a_watcher_waits_for_it_and_what_does_not_moves_its_cursor() {
    let feed = feed();
    let place = watch(&feed, 100, range("b", "c"));
    push(&feed, vec![event("a", 101), event("c", 102)], 102);
    assert_eq!((take(&place, 10), place.cursor()), (None, Revision(102)));
    push(&feed, vec![event("a", 103), event("b", 104), event("bb", 105), event("c", 106)], 106);
    assert_eq!(place.cursor(), Revision(102), "it has not been told yet");
    assert_eq!((take(&place, 10), place.cursor()), (Some(Ok(vec![104, 105])), Revision(106)));
    assert_eq!(take(&place, 10), None);
}

#[test]
fn kinds_of_changes_are_left_out_on_request() {
    let feed = feed();
    let puts = watch(&feed, 100, Interest { no_deletes: true, ..Interest::default() });
    let deletes = watch(&feed, 100, Interest { no_puts: true, ..Interest::default() });
    push(&feed, vec![event("a", 101), deleted("a", 102)], 102);
    assert_eq!((take(&puts, 10), take(&deletes, 10)), (Some(Ok(vec![101])), Some(Ok(vec![102]))));
}

#[test]
fn the_changes_of_one_revision_are_taken_together() {
    let feed = feed();
    let place = watch(&feed, 100, Interest::default());
    push(&feed, vec![event("a", 101), event("b", 102), event("c", 102), event("d", 103)], 103);
    assert_eq!((take(&place, 2), place.cursor()), (Some(Ok(vec![101, 102, 102])), Revision(102)));
    assert_eq!((take(&place, 2), place.cursor()), (Some(Ok(vec![103])), Revision(103)));
}

#[test]
fn whoever_is_behind_the_ring_reads_from_history_and_goes_on_in_the_ring() {
    let feed = feed();
    let slow = watch(&feed, 100, Interest::default());
    let elsewhere = watch(&feed, 100, range("x", "y"));
    let last = 100 + RING_EVENTS_MAX as u64 + 10;
    push(&feed, (101..=last).map(|revision| event("a", revision)).collect(), last);
    assert_eq!(take(&slow, 10), Some(Err(100)));
    assert_eq!(elsewhere.cursor(), Revision(last), "nothing of it concerns this one");
    slow.caught_up(Revision(last - 3));
    assert_eq!(take(&slow, 10), Some(Ok(vec![last - 2, last - 1, last])));
    // A watcher that begins in the past.
    let late = watch(&feed, 50, Interest::default());
    assert_eq!(take(&late, 10), Some(Err(50)));
}

#[test]
fn a_revision_is_dropped_from_the_ring_as_a_whole() {
    let feed = feed();
    let place = watch(&feed, 100, Interest::default());
    let mut events = vec![event("a", 101), event("b", 101)];
    events.extend((0..RING_EVENTS_MAX as u64 - 1).map(|number| event("c", 102 + number)));
    push(&feed, events, 102 + RING_EVENTS_MAX as u64);
    assert_eq!(feed.ring.lock().after, Revision(101));
    assert_eq!(feed.ring.lock().events.front().unwrap().event.revision, Revision(102));
    assert_eq!(take(&place, 10), Some(Err(100)));
}

#[test]
fn a_watch_that_begins_ahead_of_the_ring_is_told_nothing_from_before() {
    let feed = feed();
    let place = watch(&feed, 105, Interest::default());
    push(&feed, vec![event("a", 103), event("a", 105)], 105);
    assert_eq!((take(&place, 10), place.cursor()), (None, Revision(105)));
    push(&feed, vec![event("a", 106)], 106);
    assert_eq!(take(&place, 10), Some(Ok(vec![106])));
}

#[test]
fn versions_that_were_replaced_are_read_from_history_if_nobody_wanted_them_before() {
    let feed = feed();
    let place = watch(&feed, 100, Interest { want_previous: true, ..Interest::default() });
    push(&feed, vec![event("a", 101)], 101);
    assert_eq!(take(&place, 10), Some(Err(100)));
}

#[test]
fn what_has_been_compacted_away_is_found_out_by_asking_history() {
    let feed = feed();
    let place = watch(&feed, 100, range("x", "y"));
    feed.ring.lock().skip_to(Revision(500));
    assert_eq!(take(&place, 10), Some(Err(100)));
}

#[tokio::test(start_paused = true)]
async fn whoever_takes_nothing_is_cut_and_holds_back_no_history() {
    let feed = feed();
    let slow = watch(&feed, 100, Interest::default());
    let idle = watch(&feed, 100, range("x", "y"));
    push(&feed, vec![event("a", 101)], 101);
    assert_eq!(feed.ring.lock().cut_slow_and_find_slowest(), Some(Revision(100)));
    tokio::time::advance(SLOW_MAX + Duration::from_secs(1)).await;
    assert_eq!(feed.ring.lock().cut_slow_and_find_slowest(), None);
    assert!(slow.interest.is_cut.load(Ordering::Relaxed) && !idle.interest.is_cut.load(Ordering::Relaxed));
}

#[tokio::test(start_paused = true)]
async fn all_is_told_only_when_the_leader_says_so_and_nothing_waits() {
    let feed = feed();
    let place = watch(&feed, 100, Interest::default());
    let now = Instant::now();
    assert!(!place.is_complete_since(now));
    feed.ring.lock().confirmed_at = Some(now);
    assert!(place.is_complete_since(now) && !place.is_complete_since(now + Duration::from_millis(1)));
    push(&feed, vec![event("a", 101)], 101);
    assert!(!place.is_complete_since(now), "it has not been told of this");
    drop(take(&place, 10));
    assert!(place.is_complete_since(now));
}
