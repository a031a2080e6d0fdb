//! What can go wrong, one file for each kind, and when it does.
//!
//! A [`Fault`] begins and ends; several are under way at once. What they are, when and for how long follows from the seed.
//! A new fault is an implementation in a file here and a line in [`draw`]. One comes when all others are over, and does not end: see
//! [`gone`].
//!
//! What destroys data for good (a lost disk, rot, a disk that lies) is done only to a cluster that is whole, one node at a time: two of
//! three copies lost are lost, and no store can be blamed for it.

use std::{collections::BTreeMap, time::Duration};

use rand::{RngExt as _, rngs::StdRng};

use super::cluster::Cluster;

mod clients;
mod clock;
mod disk;
mod failpoint;
pub(crate) mod gone;
mod joining;
mod late;
mod leaders;
mod lies;
mod network;
mod pause;
mod power;
mod process;
mod rot;

/// Faults under way at once.
const ACTIVE_MAX: usize = 4;

/// Something that goes wrong for a while.
pub(crate) trait Fault {
    /// What it is called.
    fn name(&self) -> &'static str;

    /// It begins. Says what it does, or nothing if it can't be done now.
    fn begin(&mut self, cluster: &mut Cluster) -> Option<String>;

    /// It ends.
    fn end(&mut self, cluster: &mut Cluster);
}

/// The faults of a run.
pub(crate) struct Faults {
    rng: StdRng,
    next_at: Duration,
    /// The mean of the pauses between two faults.
    pause: Duration,
    active: Vec<(Duration, Box<dyn Fault>)>,
    /// How many of each kind there have been.
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

impl Faults {
    pub(crate) fn new(mut rng: StdRng, from: Duration) -> Self {
        let pause = Duration::from_millis(rng.random_range(600..4000));
        Self { rng, next_at: from + pause, pause, active: Vec::new(), counts: BTreeMap::new() }
    }

    /// Ends what has lasted, and begins what is due.
    pub(crate) fn turn(&mut self, cluster: &mut Cluster) {
        let now = cluster.now();
        while let Some(place) = self.active.iter().position(|(until, _)| *until <= now) {
            let (_, mut fault) = self.active.remove(place);
            cluster.note(format_args!("ends: {}", fault.name()));
            fault.end(cluster);
        }
        if now < self.next_at {
            return;
        }
        self.next_at = now + self.pause.mul_f64(self.rng.random_range(0.1..2.0));
        if self.active.len() >= ACTIVE_MAX {
            return;
        }
        let mut fault = draw(&mut self.rng);
        if let Some(what) = fault.begin(cluster) {
            cluster.note(format_args!("begins: {}: {what}", fault.name()));
            *self.counts.entry(fault.name()).or_default() += 1;
            // Short ones are frequent, long ones there are.
            let lasts_ms = if self.rng.random_bool(0.7) {
                self.rng.random_range(100..2500)
            } else {
                self.rng.random_range(2500..9000)
            };
            self.active.push((now + Duration::from_millis(lasts_ms), fault));
        }
    }

    /// Ends everything.
    pub(crate) fn end_all(&mut self, cluster: &mut Cluster) {
        for (_, mut fault) in std::mem::take(&mut self.active) {
            cluster.note(format_args!("ends: {}", fault.name()));
            fault.end(cluster);
        }
    }
}

fn draw(rng: &mut StdRng) -> Box<dyn Fault> {
    match rng.random_range(0..110) {
        0..6 => Box::new(network::Isolated::draw(rng)),
        6..10 => Box::new(pause::Paused::draw(rng)),
        10..16 => Box::new(network::Parted::draw(rng)),
        16..20 => Box::new(late::Connections::draw(rng)),
        20..24 => Box::new(network::Bridge::draw(rng)),
        24..32 => Box::new(network::Slow::draw(rng)),
        32..38 => Box::new(network::Lossy::draw(rng)),
        38..44 => Box::new(process::Killed::draw(rng)),
        44..50 => Box::new(failpoint::CrashAt::draw(rng)),
        50..55 => Box::<process::Stopped>::default(),
        55..58 => Box::<process::RollingRestart>::default(),
        58..68 => Box::new(power::Cut::draw(rng)),
        68..73 => Box::<disk::SyncFails>::default(),
        73..79 => Box::new(disk::Slow::draw(rng)),
        79..83 => Box::new(disk::Full::draw(rng)),
        83..86 => Box::<disk::Lost>::default(),
        86..89 => Box::<rot::Rotten>::default(),
        89..93 => Box::new(clock::Jump::draw(rng)),
        93..97 => Box::<leaders::Moved>::default(),
        97..99 => Box::<clients::Restarted>::default(),
        99..100 => Box::<joining::Joined>::default(),
        100..104 => Box::new(network::LeaderApart::draw(rng)),
        104..107 => Box::new(lies::Lying::vanishing()),
        _ => Box::new(lies::Lying::misdirecting()),
    }
}
