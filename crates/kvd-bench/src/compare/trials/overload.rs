//! Twice the load that is served, for long enough to see what grows.
//!
//! First as many clients as make the most of it ask one after the other's answer: the peak. Then puts are due at twice that rate,
//! whatever becomes of those before. What is served must not be much less than the peak, and soon; the rest must be refused, by
//! nodes or by the client library, which holds back what nodes would refuse. What isn't even made, because too many are under
//! way, is told apart. Meanwhile leases are kept alive, and no leader may change: who is busy must not be taken for dead.
//!
//! The load has cores of its own ([`Apart`]), where there is more than one: what it takes to ask for more than can be served would
//! else be missing to serve.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use kvd_client::{Client, Config, KeptLease};

use super::{TIMEOUT, Trial, WRITERS, held, load, on_cluster, setup};
use crate::{
    cli::{self, Workload},
    compare::{Contender, Errors, NOT_MADE, add_failed, cores::Apart, say},
    cost::Figures,
    load::{Load, Open, Stop},
    target::{OVERLOADED, Target},
};

/// Requests under way, at most.
const OUTSTANDING_MAX: u32 = 10_000;
const LEASES: usize = 10;
const LEASE_TTL: Duration = Duration::from_secs(10);

/// Each group's term.
type Terms = BTreeMap<u32, u64>;

/// How long everything lasts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Overload {
    pub(super) peak: Duration,
    pub(super) lasts: Duration,
}

impl Overload {
    /// Finds the peak, and makes twice that load.
    pub(super) async fn run(self, arguments: &cli::Compare, errors: &mut Errors) -> anyhow::Result<Trial> {
        let Self { peak, lasts } = self;
        let name = format!("twice the puts that it serves, for {} s", lasts.as_secs());
        say(format_args!("{name}"));
        let load = load(arguments, Workload::Put, WRITERS, peak);
        let setup = setup(arguments, arguments.nodes, arguments.shards);
        let figures = on_cluster(arguments, setup, async |cluster, dir| {
            let contender = Contender::of(Target::Kvd, Some(cluster), arguments, dir).await?;
            contender.fill(&load).await?;
            let _apart = Apart::from(&cluster.nodes)?;
            let (at_peak, failed) = contender.measure(&load).await?;
            add_failed(errors, Target::Kvd, failed);
            let rate = due(&at_peak)?;
            let open = Some(Open { rate, outstanding_max: OUTSTANDING_MAX });
            let load = Load { open, stop: Stop::After(lasts), ..load };

            let client = Client::connect(Config::from(cluster.endpoints.as_str()).deadline(TIMEOUT)).await?;
            let leases = keep_leases(&client).await?;
            let before = terms(&client).await?;
            let ((figures, mut failed), mut told) =
                held::during(&contender, &load, lasts, cluster, dir).await?;
            let after = terms(&client).await?;
            told.extend(served(&at_peak, &figures, rate)?);
            told.extend([
                ("refused_per_second", per_second(failed.remove(OVERLOADED), lasts)),
                ("not_made_per_second", per_second(failed.remove(NOT_MADE), lasts)),
                ("groups_with_another_term", figure(changed(&before, &after))),
                ("leases_lost", figure(leases.iter().filter(|lease| !lease.is_held()).count())),
            ]);
            add_failed(errors, Target::Kvd, failed);
            drop(leases);
            client.close().await;
            contender.close().await;
            Ok(told)
        })
        .await?;
        Ok(Trial::of(&name, figures))
    }
}

/// Twice the rate of a peak.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rates are small and no less than zero"
)]
fn due(at_peak: &Figures) -> anyhow::Result<u32> {
    let peak = at_peak.get("operations_per_second").context("a figure is missing")?;
    Ok((2.0 * peak).max(1.0) as u32)
}

fn served(at_peak: &Figures, figures: &Figures, rate: u32) -> anyhow::Result<Figures> {
    let of = |figures: &Figures, name| figures.get(name).copied().context("a figure is missing");
    let (peak, goodput) = (of(at_peak, "operations_per_second")?, of(figures, "operations_per_second")?);
    Ok(Figures::from([
        ("peak_per_second", peak),
        ("due_per_second", f64::from(rate)),
        ("operations_per_second", goodput),
        ("goodput_of_the_peak", goodput / peak),
        ("p99_ms", of(figures, "p99_ms")?),
        ("max_ms", of(figures, "max_ms")?),
    ]))
}

#[expect(clippy::cast_precision_loss, reason = "figures for people: 53 bits are enough")]
fn per_second(requests: Option<u64>, time: Duration) -> f64 {
    requests.unwrap_or_default() as f64 / time.as_secs_f64()
}

async fn keep_leases(client: &Client) -> anyhow::Result<Vec<KeptLease>> {
    let mut kept = Vec::new();
    for _ in 0..LEASES {
        kept.push(client.grant_lease(LEASE_TTL).await?.keep_alive_forever());
    }
    Ok(kept)
}

/// The latest term of each group that any node knows.
async fn terms(client: &Client) -> anyhow::Result<Terms> {
    let mut terms = Terms::new();
    for node in client.status().await?.topology.nodes {
        for replica in client.status_of(node.id).await?.replicas {
            let term = terms.entry(replica.group.0).or_default();
            *term = replica.term.0.max(*term);
        }
    }
    Ok(terms)
}

/// How many groups have had an election.
fn changed(before: &Terms, after: &Terms) -> usize {
    after.iter().filter(|(group, term)| before.get(group) != Some(term)).count()
}

#[expect(clippy::cast_precision_loss, reason = "figures for people: 53 bits are enough")]
const fn figure(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_the_peak_is_due_and_what_is_served_is_told_as_a_part_of_it() {
        let figures = |rate| {
            Figures::from([("operations_per_second", rate), ("p99_ms", rate / 10.0), ("max_ms", rate)])
        };
        assert_eq!(due(&figures(1000.4)).unwrap(), 2000);
        let told = served(&figures(1000.0), &figures(950.0), 2000).unwrap();
        assert_eq!((told["goodput_of_the_peak"], told["p99_ms"]), (0.95, 95.0));
        assert_eq!((told["peak_per_second"], told["due_per_second"]), (1000.0, 2000.0));
    }

    #[test]
    fn a_group_has_had_an_election_if_its_term_has_changed() {
        let terms = |of: [u64; 3]| (1..).zip(of).collect::<Terms>();
        assert_eq!(changed(&terms([1, 2, 3]), &terms([1, 2, 3])), 0);
        assert_eq!(changed(&terms([1, 2, 3]), &terms([1, 3, 4])), 2);
    }
}
