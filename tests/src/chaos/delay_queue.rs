//! The program behind delayed packets: it answers the kernel's packet queue, each packet after a time of its own.
//!
//! It runs on a victim's machine, as a hidden command of the same program. Without it, the rule that sends packets to the
//! queue lets none through.

use std::{
    collections::BTreeMap,
    io,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nfq::{Message, Queue, Verdict};
use rand::RngExt as _;

/// The queue's number.
pub(crate) const NUMBER: u16 = 5;
/// What it says last before it begins.
pub(crate) const READY: &str = "ready\n";
/// More packets than this in waiting are dropped, as by any queue in a network.
const PACKETS_MAX: u32 = 10_000;
/// How precisely packets are let go.
const LOOK_INTERVAL: Duration = Duration::from_micros(500);

/// Delays every packet by so long, and by up to `jitter` more, until it is killed.
///
/// # Errors
/// There is no such queue here, or it failed.
pub(crate) fn run(delay: Duration, jitter: Duration) -> Result<()> {
    let mut queue = Queue::open().context("the kernel has no packet queue")?;
    queue.bind(NUMBER).context("the queue is taken")?;
    queue.set_queue_max_len(NUMBER, PACKETS_MAX)?;
    queue.set_nonblocking(true);
    eprint!("{READY}");
    let mut random = rand::rng();
    let mut waiting: BTreeMap<(Instant, u64), Message> = BTreeMap::new();
    for number in 0.. {
        match queue.recv() {
            Ok(message) => {
                let due = Instant::now() + delay + jitter.mul_f64(random.random_range(0.0..=1.0));
                waiting.insert((due, number), message);
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("the queue can't be read"),
        }
        let now = Instant::now();
        while let Some(entry) = waiting.first_entry().filter(|entry| entry.key().0 <= now) {
            let mut message = entry.remove();
            message.set_verdict(Verdict::Accept);
            queue.verdict(message).context("the queue can't be answered")?;
        }
        sleep(LOOK_INTERVAL);
    }
    Ok(())
}
