//! Carries a plan out, round by round, and measures what came of it.
//!
//! # What is measured
//! The longest time between two acknowledged writes of a shard, from the first fault of a round until the cluster is
//! healthy again: for the shards that a victim led, and for the others. And the time from the last fault's end until the
//! cluster is healthy. Where several faults were at work at once nobody can tell whose doing it was: such rounds are
//! counted under a name of their own.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Result;
use kvd_client::Client;
use kvd_testkit::history::Recorder;
use tokio::time::sleep;

use super::{
    fault::Kind,
    health,
    load::Load,
    log::say,
    plan::{Plan, Strike},
    report::Figures,
    world::World,
};

/// The name under which rounds with several faults are reported.
pub(crate) const MIXED: &str = "several at once";
/// What faults, and nodes that are started again, are counted as.
pub(crate) const FAULTS: &str = "faults";
pub(crate) const RESTARTS: &str = "restarts";
/// A node that has ended by itself is started again so soon, as a supervisor does.
const SUPERVISOR_INTERVAL: Duration = Duration::from_millis(200);
/// What a panic of a node's looks like in its log.
const PANIC: &str = "panicked at";
/// A recovery that takes longer is of interest.
const SLOW_MS: u64 = 5000;
/// Lines of each log that are shown with a cluster that doesn't recover.
const LINES_SHOWN: usize = 15;

/// A run under way.
pub(crate) struct Drive {
    pub(crate) world: Arc<World>,
    pub(crate) client: Client,
    pub(crate) recorder: Recorder,
    pub(crate) plan: Plan,
    pub(crate) skip_missing: bool,
    /// By fault.
    pub(crate) figures: BTreeMap<String, Figures>,
    /// Kinds that turned out not to be possible here, and why.
    pub(crate) skipped: BTreeMap<&'static str, String>,
    /// Panics seen, by machine.
    pub(crate) panics: BTreeMap<String, usize>,
}

impl Drive {
    /// Does one round. Says whether the cluster recovered from it.
    pub(crate) async fn round(&mut self, number: u64, load: &Load) -> Result<bool> {
        let mut strikes = self.plan.round(number);
        strikes.retain(|strike| !self.skipped.contains_key(strike.kind.name));
        if strikes.is_empty() {
            return Ok(true);
        }
        let victims = strikes.iter().flat_map(|strike| &strike.victims);
        let addresses = victims.map(|&victim| self.world.machine(victim).client_address()).collect();
        let touched = health::led_by(&self.world, &self.client, &addresses).await;
        let begun_ms = self.world.now_ms();
        let ended = futures::future::join_all(strikes.iter().map(|strike| self.strike(strike))).await;
        for (strike, ended) in strikes.iter().zip(ended) {
            match ended {
                Err(error) if self.skip_missing => {
                    say(&format!("SKIPPED from now on: {}: {error:#}", strike.kind.name));
                    self.skipped.insert(strike.kind.name, format!("{error:#}"));
                }
                ended => ended?,
            }
        }
        let healed_ms = self.world.now_ms();
        let kinds: Vec<&Kind> = strikes.iter().map(|strike| strike.kind).collect();
        let recovered = tokio::select! {
            recovered = health::healthy(&self.world, &self.client) => recovered,
            never = self.supervise(&strikes) => never,
        };
        let healthy_ms = self.world.now_ms();
        self.look_for_panics();
        let name = if let [kind] = kinds.as_slice() { kind.name } else { MIXED };
        if let Ok(missing) = &recovered
            && healthy_ms.saturating_sub(healed_ms) > SLOW_MS
        {
            self.say(&format!("a slow recovery; missing at last: {missing}"));
        }
        if let Err(why) = &recovered {
            let names: Vec<&str> = kinds.iter().map(|kind| kind.name).collect();
            self.world.violation(format!(
                "the cluster did not recover from {}: {why}\n{}",
                names.join(", "),
                self.world.ends_of_logs(LINES_SHOWN)
            ));
        }
        let longest = |is_touched| {
            let shards =
                load.pulse.shards().into_iter().filter(|shard| touched.contains(shard) == is_touched);
            shards
                .map(|shard| load.pulse.longest_gap_ms(shard, begun_ms, healthy_ms))
                .max()
                .unwrap_or_default()
        };
        let (gap_ms, gap_elsewhere_ms) = (longest(true), longest(false));
        let recovery_ms = healthy_ms.saturating_sub(healed_ms);
        self.figures.entry(name.to_owned()).or_default().add(gap_ms, gap_elsewhere_ms, recovery_ms);
        self.say(&format!(
            "healthy {recovery_ms} ms after the end; longest gap {gap_ms} ms where a victim led, {gap_elsewhere_ms} ms elsewhere"
        ));
        Ok(recovered.is_ok())
    }

    /// One fault, from its beginning to its end.
    async fn strike(&self, strike: &Strike) -> Result<()> {
        sleep(Duration::from_millis(strike.begins_ms)).await;
        self.say(&format!("begins: {strike}"));
        self.world.count(FAULTS, 1);
        let mut fault = strike.fault();
        let injected = fault.inject(&self.world).await;
        if injected.is_ok() {
            sleep(Duration::from_millis(strike.lasts_ms)).await;
        }
        let healed = fault.heal(&self.world).await;
        self.say(&format!("ended:  {}", strike.kind.name));
        injected.and(healed)
    }

    fn say(&self, what: &str) {
        let seconds = Duration::from_millis(self.world.now_ms()).as_secs_f64();
        say(&format!("{seconds:8.1} s  {what}"));
        self.recorder.note(what);
    }

    /// Starts nodes again that have ended, and notes those that should not have.
    async fn supervise<T>(&self, strikes: &[Strike]) -> T {
        loop {
            for (index, machine) in self.world.machines.iter().enumerate() {
                if machine.runs().await {
                    continue;
                }
                let may_end = |strike: &Strike| strike.kind.may_end && strike.victims.contains(&index);
                if !strikes.iter().any(may_end) && !self.world.is_damaged(index) {
                    let log = machine.log();
                    let last = log.lines().rev().find(|line| line.contains("ERROR")).unwrap_or_default();
                    self.world.violation(format!("{} has ended by itself: {last}", machine.name));
                }
                self.say(&format!("{} has ended, and is started again", machine.name));
                self.world.count(RESTARTS, 1);
                machine.start().await;
            }
            sleep(SUPERVISOR_INTERVAL).await;
        }
    }

    /// Notes panics that were not in the logs before.
    pub(crate) fn look_for_panics(&mut self) {
        for machine in self.world.machines.iter().chain([&self.world.spare]) {
            let log = machine.log();
            let lines: Vec<&str> = log.lines().filter(|line| line.contains(PANIC)).collect();
            let known = self.panics.entry(machine.name.clone()).or_default();
            for line in lines.iter().skip(*known) {
                self.world.violation(format!("{} panicked: {line}", machine.name));
            }
            *known = lines.len();
        }
    }
}
