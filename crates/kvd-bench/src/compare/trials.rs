//! What kvd alone is tried with, on clusters of its own: a leader that moves, one that is killed, idle nodes, twice the load that
//! it serves ([`overload`]), many keys, more data than memory, and, if it is asked for, a load that lasts ([`soak`]).
//!
//! Many keys and more data than memory are of one node and of the engine for states larger than memory: as many copies as usual
//! would only share the same disk.

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use futures::future::try_join;
use kvd_client::{Client, Config};
use serde::Serialize;
use tokio::time::sleep;

use super::{Contender, Errors, TIMEOUT, add_failed, say};
use crate::{
    cli::{self, Workload},
    clusters::{Cluster, Setup, Size, Workplace, uninterrupted},
    cost::Figures,
    gap::{self, Writers},
    limit::MemoryLimit,
    load::{Load, Stop},
    target::Target,
    usage::Usage,
};

mod held;
mod overload;
mod soak;

use overload::Overload;
use soak::Soak;

/// What a trial came to.
#[derive(Debug, Serialize)]
pub(super) struct Trial {
    pub(super) name: String,
    pub(super) figures: Figures,
    /// Why it could not be made on this machine.
    pub(super) skipped: Option<String>,
}

/// How much of everything.
struct Scale {
    /// How long is written while leaders move, and while one is killed.
    gap: Duration,
    idle_shards: [u32; 2],
    /// How long a cluster is left alone before it is looked at, and then looked at.
    idle: Duration,
    overload: Overload,
    many_keys: u64,
    /// Keys of what is more than memory.
    large_keys: u64,
    /// How long each load on that many lasts.
    large: Duration,
    soak: Option<Soak>,
}

/// Of the engine for states larger than memory.
const ENGINE: &str = "fjall";
/// The memory that a node has for five times as much data, in bytes.
const LIMIT_BYTES: u64 = 1 << 30;
const LARGE_VALUE_BYTES: usize = 1024;
/// Leaders that are moved in a round.
const MOVES: u32 = 6;
const GAP_CLIENTS: u32 = 64;
const WRITERS: u32 = 256;
const COLD_READERS: u32 = 16;
/// With fewer no majority is left when one is killed.
const NODES_MIN: u16 = 3;

impl Scale {
    fn of(arguments: &cli::Compare) -> Self {
        if arguments.short {
            let second = Duration::from_secs(1);
            return Self {
                gap: 4 * second,
                idle_shards: [2, 4],
                idle: second,
                overload: Overload { peak: second, lasts: 2 * second },
                many_keys: 10 * arguments.keys,
                large_keys: 10 * arguments.keys,
                large: second,
                soak: arguments.soak_minutes.map(|_| Soak { rate: 100, lasts: 2 * second }),
            };
        }
        let soak = |minutes| Soak { rate: 1000, lasts: Duration::from_secs(60 * u64::from(minutes)) };
        Self {
            gap: Duration::from_secs(8),
            idle_shards: [12, 256],
            idle: Duration::from_secs(20),
            overload: Overload { peak: Duration::from_secs(30), lasts: Duration::from_secs(120) },
            many_keys: 100 * arguments.keys,
            large_keys: 5 * LIMIT_BYTES / LARGE_VALUE_BYTES as u64,
            large: Duration::from_secs(4 * arguments.duration),
            soak: arguments.soak_minutes.map(soak),
        }
    }
}

/// Makes all of them. If one fails, `trials` has those before it.
pub(super) async fn run(
    arguments: &cli::Compare,
    errors: &mut Errors,
    trials: &mut Vec<Trial>,
) -> anyhow::Result<()> {
    let scale = Scale::of(arguments);
    trials.extend(leaders(arguments, &scale).await?);
    for shards in scale.idle_shards {
        trials.push(idle(arguments, &scale, shards).await?);
    }
    trials.push(scale.overload.run(arguments, errors).await?);
    let many = Large {
        name: "many keys",
        keys: scale.many_keys,
        value_bytes: arguments.value_bytes,
        limit_bytes: None,
    };
    let beyond_memory = Large {
        name: "more than memory",
        keys: scale.large_keys,
        value_bytes: LARGE_VALUE_BYTES,
        limit_bytes: Some(LIMIT_BYTES),
    };
    for large in [many, beyond_memory] {
        trials.push(large.run(arguments, scale.large, errors).await.context(large.name)?);
    }
    if let Some(soak) = scale.soak {
        trials.push(soak.run(arguments, errors).await?);
    }
    Ok(())
}

/// Does something with a cluster that lasts for so long.
async fn on_cluster<T>(
    arguments: &cli::Compare,
    setup: Setup<'_>,
    work: impl AsyncFnOnce(&Cluster, &Path) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let workplace = Workplace::make(&arguments.data_dir)?;
    let cluster = Cluster::kvd(setup, workplace.path()).await?;
    let done = uninterrupted(work(&cluster, workplace.path())).await;
    cluster.stop().await.and(done)
}

fn setup(arguments: &cli::Compare, nodes: u16, shards: Option<u32>) -> Setup<'_> {
    Setup { binary: arguments.kvd.as_deref(), size: Size { nodes, shards }, engine: None, limit: None }
}

/// Leaders that move, and one that is killed, under writes.
async fn leaders(arguments: &cli::Compare, scale: &Scale) -> anyhow::Result<Vec<Trial>> {
    let names = ["leaders moved", "a leader killed"];
    if arguments.nodes < NODES_MIN {
        let why = format!("it takes {NODES_MIN} nodes");
        return Ok(names.map(|name| Trial::skipped(name, why.clone())).into());
    }
    let mut felt = [(Duration::ZERO, 0); 2];
    for round in 0..arguments.rounds {
        say(format_args!("leaders moved and killed, round {} of {}", round + 1, arguments.rounds));
        let setup = setup(arguments, arguments.nodes, Some(arguments.nodes.into()));
        let [moved, killed] = on_cluster(arguments, setup, async |cluster, _| {
            let client = Client::connect(Config::from(cluster.endpoints.as_str()).deadline(TIMEOUT)).await?;
            let moved = gap_while(&client, arguments, scale, move_leaders(&client, scale)).await?;
            let killed = gap_while(&client, arguments, scale, kill_a_leader(&client, cluster, scale)).await?;
            client.close().await;
            Ok([moved, killed])
        })
        .await?;
        for ((longest, failed), report) in felt.iter_mut().zip([moved, killed]) {
            *longest = report.shards.values().map(|track| track.longest).fold(*longest, Duration::max);
            *failed += report.errors.values().sum::<u64>();
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "figures for people: 53 bits are enough")]
    let trial = |(name, (longest, failed)): (&str, (Duration, u64))| {
        let longest_ms = longest.as_secs_f64() * 1000.0;
        Trial::of(name, Figures::from([("longest_gap_ms", longest_ms), ("failed_writes", failed as f64)]))
    };
    Ok(names.into_iter().zip(felt).map(trial).collect())
}

/// What writers felt while something happened.
async fn gap_while(
    client: &Client,
    arguments: &cli::Compare,
    scale: &Scale,
    happening: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<gap::Report> {
    let writers = Writers { clients: GAP_CLIENTS, value_bytes: arguments.value_bytes, duration: scale.gap };
    let connections = [client.clone()];
    let (report, ()) = try_join(gap::measure(&connections, writers), happening).await?;
    Ok(report)
}

/// Moves leaders, one after the other.
async fn move_leaders(client: &Client, scale: &Scale) -> anyhow::Result<()> {
    for number in 0..MOVES {
        sleep(scale.gap / (MOVES + 1)).await;
        let shards = client.status().await?.topology.shards;
        let shard = shards.iter().cycle().nth(number.try_into()?).context("there are no shards")?;
        let other = shard.replicas.iter().find(|replica| Some(replica.node) != shard.leader);
        let other = other.context("a shard has one replica only")?.node;
        client.move_leader(shard.id, other).await?;
    }
    Ok(())
}

async fn kill_a_leader(client: &Client, cluster: &Cluster, scale: &Scale) -> anyhow::Result<()> {
    sleep(scale.gap / 4).await;
    let topology = client.status().await?.topology;
    let leader = topology.shards.iter().find_map(|shard| shard.leader).context("no shard has a leader")?;
    let node = topology.node(leader).context("the leader is no node of the cluster")?;
    cluster.kill(&node.client_address)
}

/// Nodes that nobody asks for anything.
async fn idle(arguments: &cli::Compare, scale: &Scale, shards: u32) -> anyhow::Result<Trial> {
    let name = format!("idle, {shards} shards");
    say(format_args!("{name}"));
    let setup = setup(arguments, arguments.nodes, Some(shards));
    let used = on_cluster(arguments, setup, async |cluster, _| {
        sleep(scale.idle).await;
        let before = Usage::of(&cluster.nodes)?;
        sleep(scale.idle).await;
        Ok(Usage::of(&cluster.nodes)?.since(before))
    })
    .await?;
    let nodes = f64::from(arguments.nodes);
    #[expect(clippy::cast_precision_loss, reason = "figures for people: 53 bits are enough")]
    let resident_mib = used.resident_bytes as f64 / f64::from(1 << 20);
    let figures = Figures::from([
        ("core_percent_per_node", used.cpu_seconds / scale.idle.as_secs_f64() / nodes * 100.0),
        ("resident_mib_per_node", resident_mib / nodes),
    ]);
    Ok(Trial::of(&name, figures))
}

/// Many keys in one node.
struct Large {
    name: &'static str,
    keys: u64,
    value_bytes: usize,
    limit_bytes: Option<u64>,
}

impl Large {
    async fn run(
        &self,
        arguments: &cli::Compare,
        duration: Duration,
        errors: &mut Errors,
    ) -> anyhow::Result<Trial> {
        let limit = match self.limit_bytes.map(MemoryLimit::new).transpose() {
            Ok(limit) => limit,
            Err(error) => return Ok(Trial::skipped(self.name, format!("{error:#}"))),
        };
        let setup = Setup { engine: Some(ENGINE), limit: limit.as_ref(), ..setup(arguments, 1, None) };
        let figures = on_cluster(arguments, setup, async |cluster, dir| {
            let contender = Contender::of(Target::Kvd, Some(cluster), arguments, dir).await?;
            let load = |workload, clients, keys| {
                let load = load(arguments, workload, clients, duration);
                Load { keys, value_bytes: self.value_bytes, ..load }
            };
            let mut measured = async |workload, clients, keys| {
                let load = load(workload, clients, keys);
                let (figures, failed) = contender.measure(&load).await?;
                add_failed(errors, Target::Kvd, failed);
                anyhow::Ok(figures)
            };
            contender.fill(&load(Workload::Put, WRITERS, arguments.keys)).await?;
            let few = measured(Workload::Put, WRITERS, arguments.keys).await?;
            say(format_args!("{}: {} of {} bytes", self.name, self.keys, self.value_bytes));
            contender.fill(&load(Workload::Put, WRITERS, self.keys)).await?;
            let gets = measured(Workload::Get, COLD_READERS, self.keys).await?;
            let puts = measured(Workload::Put, WRITERS, self.keys).await?;
            contender.close().await;
            figures(&few, &gets, &puts)
        })
        .await?;
        Ok(Trial::of(self.name, figures))
    }
}

/// The load of a trial for some time, in a closed loop.
fn load(arguments: &cli::Compare, workload: Workload, clients: u32, lasts: Duration) -> Load {
    let cli::Compare { keys, value_bytes, .. } = *arguments;
    Load { clients, keys, value_bytes, stop: Stop::After(lasts), ..Load::of(workload) }
}

fn figures(few: &Figures, gets: &Figures, puts: &Figures) -> anyhow::Result<Figures> {
    let of = |figures: &Figures, name| figures.get(name).copied().context("a figure is missing");
    let rate = "operations_per_second";
    Ok(Figures::from([
        ("puts_per_second_before", of(few, rate)?),
        ("puts_per_second", of(puts, rate)?),
        ("puts_of_those_before", of(puts, rate)? / of(few, rate)?),
        ("put_p99_ms", of(puts, "p99_ms")?),
        ("gets_per_second", of(gets, rate)?),
        ("get_p99_ms", of(gets, "p99_ms")?),
        ("resident_mib", of(puts, "resident_mib_per_node")?),
    ]))
}

impl Trial {
    fn of(name: &str, figures: Figures) -> Self {
        Self { name: name.to_owned(), figures, skipped: None }
    }

    fn skipped(name: &str, why: String) -> Self {
        Self { name: name.to_owned(), figures: Figures::new(), skipped: Some(why) }
    }
}
