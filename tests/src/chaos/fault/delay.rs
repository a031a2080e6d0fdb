//! A network that takes its time: what comes to a node waits, each packet for a time of its own, so that packets
//! overtake each other.
//!
//! The kernel's own delays need a module that not every machine has; its packet queue needs a program that answers
//! for each packet, which is [`crate::chaos::delay_queue`], run on the victim's machine.

use anyhow::{Context as _, Result, ensure};
use futures::{FutureExt as _, future::LocalBoxFuture};
use rand::RngExt as _;
use tokio::{
    task::block_in_place,
    time::{Duration, Instant, sleep},
};

use super::{Fault, Kind, Part, USUAL};
use crate::{
    chaos::{delay_queue, network::NETWORK, world::World},
    process::Process,
};

const READY_DEADLINE: Duration = Duration::from_secs(10);

pub(super) const DELAY: Kind = Kind {
    name: "delay",
    right: "slow but correct; a leader that is far away stays leader while its heartbeats come in time",
    claims: &[Part::Network],
    lasts_ms: 3000..=6000,
    make: |victims, random| {
        Box::new(Delay {
            victims: victims.to_vec(),
            delay_ms: random.random_range(5..=200),
            jitter_ms: random.random_range(0..=100),
            daemons: Vec::new(),
        })
    },
    ..USUAL
};

struct Delay {
    victims: Vec<usize>,
    delay_ms: u64,
    jitter_ms: u64,
    daemons: Vec<Process>,
}

fn rule() -> String {
    format!("INPUT -s {NETWORK} -j NFQUEUE --queue-num {}", delay_queue::NUMBER)
}

impl Delay {
    async fn begin(&mut self, world: &World) -> Result<()> {
        for &victim in &self.victims {
            let machine = world.machine(victim);
            let entrance = machine.host.entrance();
            let mut words = entrance.split(' ');
            let mut command = std::process::Command::new(words.next().context("an empty command")?);
            command.args(words).arg(std::env::current_exe()?);
            command.args(["delay", &self.delay_ms.to_string(), &self.jitter_ms.to_string()]);
            let log = world.dir.join(format!("{}-delay.log", machine.name));
            let before = std::fs::read_to_string(&log).unwrap_or_default().lines().count();
            let daemon = Process::start("delay", command, &log);
            let deadline = Instant::now() + READY_DEADLINE;
            while daemon.log().lines().count() == before {
                ensure!(Instant::now() < deadline, "the delaying daemon is not ready");
                sleep(Duration::from_millis(5)).await;
            }
            ensure!(daemon.log().ends_with(delay_queue::READY), "the delaying daemon: {}", daemon.log());
            self.daemons.push(daemon);
            machine.host.add_rule(&rule()).await?;
        }
        Ok(())
    }

    async fn end(&mut self, world: &World) -> Result<()> {
        for &victim in &self.victims {
            world.machine(victim).host.remove_rule(&rule()).await?;
        }
        block_in_place(|| self.daemons.drain(..).for_each(|mut daemon| daemon.kill()));
        Ok(())
    }
}

impl Fault for Delay {
    fn inject<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.begin(world).boxed_local()
    }

    fn heal<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.end(world).boxed_local()
    }
}
