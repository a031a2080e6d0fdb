//! What is asked when all faults are over and all clients are still.

use anyhow::{Context as _, Result};
use kvd_client::Client;
use kvd_testkit::{check::check, history::History};

use super::{features::Features, health, load::Load, log::say, world::World};

/// Whether all keys can be read, watchers are told all, and all replicas hold the same.
pub(crate) async fn of_the_end(
    world: &World,
    client: &Client,
    load: &Load,
    features: &mut Features,
) -> Result<()> {
    if !world.violations().is_empty() {
        // What is broken need not be able to answer any more; what was told until then is judged.
        return Ok(());
    }
    load.read_all().await.context("in the end not all keys can be read")?;
    features.finish().await?;
    if let Err(why) = health::agreed(world, client).await {
        world.violation(format!("replicas differ while nobody writes: {why}"));
    }
    Ok(())
}

/// Whether what clients were told can be true.
pub(crate) fn of_the_history(world: &World, history: &History) {
    let report = check(history);
    say(&format!("\n{report}"));
    for violation in &report.violations {
        world.violation(format!("{:?} of {}: {}", violation.anomaly, violation.key, violation.explanation));
    }
    if report.more_violations > 0 {
        world.violation(format!("and {} more", report.more_violations));
    }
    for undecided in &report.undecided {
        say(&format!("undecided: {undecided:?}"));
    }
}
