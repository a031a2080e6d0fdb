//! Calls to the engine that never come back.
//!
//! # The problem
//! Rot in sled's index can make it look for a leaf for ever: it finds that something does not fit, tries again, and finds
//! the same. There is no error and no end, and the thread can't be stopped.
//!
//! # The approach
//! A thread that is in a call counts so in a place of its own, which costs it two additions. Every now and then all places
//! are looked at. A call that was under way at one look, still is at a later one, and has had [`CPU_TIME_MAX`] of processor
//! time in between is taken for damage. Processor time, because a call may rightly wait for as long as a disk or a busy
//! machine makes it; none that does its work needs so much of the processor.
//!
//! # What it deliberately does not do
//! - It doesn't watch flushes and the clearing of trees, whose work grows with the data, nor the engine's own threads.
//! - Where the system doesn't tell a thread's processor time (it is Linux that does), nothing is found.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;

/// A call that has had so much processor time doesn't come back.
const CPU_TIME_MAX: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Of the processor times that Linux tells: 100 to the second on every machine.
const TICK: Duration = Duration::from_millis(10);

thread_local! {
    /// This thread's places, by the number of the engine.
    static PLACES: RefCell<Vec<(u64, Arc<Place>)>> = const { RefCell::new(Vec::new()) };
}

static ENGINES: AtomicU64 = AtomicU64::new(0);

/// Where a thread counts its calls.
#[derive(Debug)]
struct Place {
    /// Raised when a call begins and when it ends: odd while there is one.
    count: AtomicU64,
    /// Where the system tells of the thread.
    thread: PathBuf,
}

/// A call under way; it ends with this.
pub(super) struct Call(Arc<Place>);

/// The calls to one engine.
#[derive(Debug)]
pub(super) struct Calls {
    number: u64,
    places: Mutex<Vec<Weak<Place>>>,
}

/// Calls that were under way at an earlier look: how much processor time their threads had had, by thread and count.
type Seen = BTreeMap<(PathBuf, u64), Duration>;

impl Calls {
    pub(super) fn new() -> Arc<Self> {
        let number = ENGINES.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { number, places: Mutex::default() })
    }

    /// Begins a call.
    pub(super) fn begin(&self) -> Call {
        let place = PLACES.with_borrow_mut(|places| {
            if let Some((_, place)) = places.iter().find(|(number, _)| *number == self.number) {
                return Arc::clone(place);
            }
            let thread = Path::new("/proc").join(fs::read_link("/proc/thread-self").unwrap_or_default());
            let place = Arc::new(Place { count: AtomicU64::new(0), thread });
            let mut all = self.places.lock();
            all.retain(|place| place.strong_count() > 0);
            all.push(Arc::downgrade(&place));
            places.push((self.number, Arc::clone(&place)));
            place
        });
        place.count.fetch_add(1, Ordering::Relaxed);
        Call(place)
    }

    /// Watches from a thread of its own, as long as the engine is there. `stuck` is told of the first call that doesn't
    /// come back.
    pub(super) fn watch(self: &Arc<Self>, stuck: impl FnOnce(&str) + Send + 'static) -> std::io::Result<()> {
        let calls = Arc::downgrade(self);
        let watch = move || {
            let mut seen = Seen::new();
            loop {
                thread::sleep(LOOK_INTERVAL);
                let Some(calls) = calls.upgrade() else { return };
                if let Some(what) = calls.look(&mut seen, cpu_time) {
                    return stuck(&what);
                }
            }
        };
        thread::Builder::new().name("kvd-engine-watch".to_owned()).spawn(watch).map(drop)
    }

    /// Looks at all calls, and says which one doesn't come back, if there is one.
    fn look(&self, seen: &mut Seen, cpu_time: impl Fn(&Path) -> Option<Duration>) -> Option<String> {
        let places: Vec<_> = self.places.lock().iter().filter_map(Weak::upgrade).collect();
        let mut now = Seen::new();
        let mut stuck = None;
        for place in places {
            let count = place.count.load(Ordering::Relaxed);
            if count.is_multiple_of(2) {
                continue;
            }
            let Some(had) = cpu_time(&place.thread) else { continue };
            let call = (place.thread.clone(), count);
            let first = seen.get(&call).copied().unwrap_or(had);
            let used = had.saturating_sub(first);
            if used >= CPU_TIME_MAX {
                stuck = Some(format!("a call has had {used:.0?} of processor time and does not come back"));
            }
            now.insert(call, first);
        }
        *seen = now;
        stuck
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.count.fetch_add(1, Ordering::Relaxed);
    }
}

/// How much processor time a thread has had: proc(5).
fn cpu_time(thread: &Path) -> Option<Duration> {
    let stat = fs::read_to_string(thread.join("stat")).ok()?;
    // The thread's name, in parentheses, may hold anything. The state follows it, then ten more fields, then these two.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let (user, system): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(TICK.saturating_mul(user.saturating_add(system)))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    fn seconds(seconds: u64) -> impl Fn(&Path) -> Option<Duration> {
        move |_| Some(Duration::from_secs(seconds))
    }

    #[test]
    fn a_call_that_only_uses_the_processor_does_not_come_back() {
        let calls = Calls::new();
        let mut seen = Seen::new();
        let call = calls.begin();
        assert_eq!(calls.look(&mut seen, seconds(100)), None, "what it had before counts for nothing");
        assert_eq!(calls.look(&mut seen, seconds(109)), None);
        let stuck = calls.look(&mut seen, seconds(110)).unwrap();
        assert!(stuck.contains("10s of processor time"), "{stuck}");
        drop(call);
        assert_eq!(calls.look(&mut seen, seconds(200)), None, "there is no call");
    }

    #[test]
    fn calls_that_come_back_are_not_taken_for_one() {
        let calls = Calls::new();
        let mut seen = Seen::new();
        for second in 0..50 {
            let _call = calls.begin();
            assert_eq!(calls.look(&mut seen, seconds(second * 9)), None);
        }
        let _call = calls.begin();
        for _ in 0..50 {
            assert_eq!(calls.look(&mut seen, seconds(1)), None, "it waits, and uses nothing");
            assert_eq!(calls.look(&mut seen, |_: &Path| None), None);
        }
        assert_eq!(Calls::new().look(&mut seen, seconds(1000)), None, "another engine has none of these");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_processor_time_of_another_thread_can_be_told() {
        let calls = Calls::new();
        let ends = Arc::new(AtomicBool::new(false));
        let (other, told) = (Arc::clone(&calls), Arc::clone(&ends));
        let spins = thread::Builder::new().name("a) b (c".to_owned());
        let spins = spins.spawn(move || {
            let _call = other.begin();
            while !told.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
        let mut first = None;
        loop {
            let places = calls.places.lock();
            let thread = places.first().and_then(Weak::upgrade).map(|place| place.thread.clone());
            drop(places);
            let had = thread.and_then(|thread| cpu_time(&thread));
            first = first.or(had);
            if had > first {
                break;
            }
            thread::yield_now();
        }
        ends.store(true, Ordering::Relaxed);
        spins.unwrap().join().unwrap();
        assert!(calls.places.lock().iter().all(|place| place.strong_count() == 0), "its place goes with it");
    }
}
