//! When a lease counts as held, and when its next keep-alive is due.

use super::*;

const TTL: Duration = Duration::from_secs(9);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_held_from_the_sending_of_its_last_answered_keep_alive() {
    let (keeper, start) = (Keeper::default(), Instant::now());
    let kept = keeper.keep(LeaseId(1), TTL, start);
    tokio::time::advance(seconds(8)).await;
    assert!(kept.is_held());
    let answered = Instant::now();
    assert!(kept.answered(start + seconds(3), answered, Ok(())));
    assert_eq!(kept.hold().until, start + seconds(12), "since it was sent, not since it was answered");
    assert!(kept.answered(answered, answered, Err(&Error::unavailable("no leader"))));
    assert_eq!(kept.hold().until, start + seconds(12));
    kept.lost().await;
    assert_eq!(Instant::now(), start + seconds(12));
    assert!(!kept.is_held());
    assert!(!kept.answered(Instant::now() - seconds(1), Instant::now(), Ok(())), "lost is lost");
    assert!(!kept.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_has_ended_is_lost_at_once() {
    let keeper = Keeper::default();
    let kept = keeper.keep(LeaseId(1), TTL, Instant::now());
    let gone = Error::new(kvd_types::ErrorKind::NotFound, "gone");
    assert!(!kept.answered(Instant::now(), Instant::now(), Err(&gone)));
    assert_eq!(kept.lost().await, gone);
}

#[tokio::test(start_paused = true)]
async fn what_is_due_soon_is_taken_together_and_what_was_dropped_is_not() {
    let (keeper, start) = (Keeper::default(), Instant::now());
    let kept: Vec<_> =
        (0..5).map(|id| keeper.keep(LeaseId(id), TTL, start + Duration::from_millis(100 * id))).collect();
    let again = keeper.keep(LeaseId(0), TTL, start);
    assert!(Arc::ptr_eq(&kept[0], &again), "it is kept already");
    let ids = |taken: &[Arc<Kept>]| taken.iter().map(|kept| kept.id().get()).collect::<Vec<_>>();
    assert_eq!(keeper.next_due(), Some(start + seconds(3)));
    let mut kept = kept;
    drop(kept.remove(1));
    let first = keeper.take_due(start + seconds(3) + Duration::from_millis(200), 10);
    assert_eq!(ids(&first), [0, 2]);
    assert_eq!(keeper.next_due(), Some(start + seconds(3) + Duration::from_millis(300)));
    keeper.put_back(&first[0], Some(start + seconds(6)));
    keeper.put_back(&first[1], None);
    assert_eq!(ids(&keeper.take_due(start + seconds(9), 2)), [3, 4]);
    assert_eq!(ids(&keeper.take_due(start + seconds(9), 2)), [0]);
    assert!(keeper.take_due(start + seconds(99), 9).is_empty());
}
