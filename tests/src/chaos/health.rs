//! Whether the cluster is as it should be: all nodes ready, all replicas there, and all of them following.
//!
//! Replicas follow if each has applied, at a second look, what any of its group had committed at the first. Whether they
//! hold the same can be asked only while nobody writes: see [`agreed`].

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use kvd_client::{Client, Replica, ReplicaStatus, ShardId, Topology};
use kvd_types::{GroupId, LogIndex};
use reqwest::Method;
use tokio::time::{Instant, sleep, timeout};

use super::{machine::Machine, world::World};
use crate::http;

/// A cluster that has not recovered so long after the last fault has ended doesn't recover.
const RECOVERY_DEADLINE: Duration = Duration::from_secs(60);
/// On a machine with more processes waiting for each of its processors than this it may take longer in proportion, up to
/// [`SLOWNESS_MAX`] times: a slow machine is no violation.
const PROCESSES_PER_CORE: f64 = 4.0;
const SLOWNESS_MAX: f64 = 5.0;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// What all nodes say of their replicas, by group.
type Replicas = BTreeMap<GroupId, Vec<ReplicaStatus>>;

/// Waits until the cluster is healthy; else says what is missing. If it was, gives what was missing last.
pub(crate) async fn healthy(world: &World, client: &Client) -> Result<String, String> {
    let mut committed = None;
    until_deadline(async || {
        let replicas = look(world, client).await?;
        let now = committed_in(&replicas);
        let Some(before) = committed.replace(now) else { return Err("one look is not enough".to_owned()) };
        for (group, all) in &replicas {
            let target = before.get(group).copied().unwrap_or_default();
            if let Some(behind) = all.iter().find(|replica| replica.applied_index < target) {
                return Err(format!("group {group} had committed {target}, and {behind:?} is behind"));
            }
        }
        Ok(())
    })
    .await
}

/// Waits until the cluster is healthy and each node leads some shard; else says what is missing.
pub(crate) async fn all_lead(world: &World, client: &Client) -> Result<String, String> {
    healthy(world, client).await?;
    until_deadline(async || {
        for machine in &world.machines {
            let address = BTreeSet::from([machine.client_address()]);
            if led_by(world, client, &address).await.is_empty() {
                return Err(format!("{} leads nothing", machine.name));
            }
        }
        Ok(())
    })
    .await
}

/// Waits until all replicas of each group have applied the same and hold the same, while nobody writes; else says what
/// differs.
pub(crate) async fn agreed(world: &World, client: &Client) -> Result<String, String> {
    until_deadline(async || {
        for (group, replicas) in look(world, client).await? {
            let held: BTreeSet<_> =
                replicas.iter().map(|replica| (replica.applied_index, replica.digest)).collect();
            if held.len() != 1 {
                return Err(format!("group {group}: {replicas:?}"));
            }
        }
        Ok(())
    })
    .await
}

async fn until_deadline(mut look: impl AsyncFnMut() -> Result<(), String>) -> Result<String, String> {
    let begun = Instant::now();
    let mut missing = "nothing was seen".to_owned();
    loop {
        // The load may come later.
        let patience = RECOVERY_DEADLINE.mul_f64(slowness());
        let deadline = begun + patience;
        if Instant::now() >= deadline {
            return Err(format!("after {patience:?}: {missing}"));
        }
        match tokio::time::timeout_at(deadline, look()).await {
            Ok(Ok(())) => return Ok(missing),
            Ok(Err(why)) => missing = why,
            Err(_elapsed) => {}
        }
        sleep(LOOK_INTERVAL).await;
    }
}

/// How many times longer than usual things may take on this machine now.
fn slowness() -> f64 {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: f64 = load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let cores = u32::try_from(cores).map_or(1.0, f64::from);
    (load / cores / PROCESSES_PER_CORE).clamp(1.0, SLOWNESS_MAX)
}

/// Whether more processes wait for the processors than nodes need to be served as usual.
pub(crate) fn is_overloaded() -> bool {
    slowness() > 1.0
}

/// The shards that are led by nodes at these addresses; none if the cluster doesn't answer.
pub(crate) async fn led_by(
    world: &World,
    client: &Client,
    addresses: &BTreeSet<String>,
) -> BTreeSet<ShardId> {
    let mut led = BTreeSet::new();
    let Ok(replicas) = look(world, client).await else { return led };
    let topology = client.topology();
    for shard in &topology.shards {
        let on_them = |replica: &&Replica| {
            topology.node(replica.node).is_some_and(|node| addresses.contains(&node.client_address))
        };
        let there: BTreeSet<_> = shard.replicas.iter().filter(on_them).map(|replica| replica.id).collect();
        let group = replicas.iter().filter(|(group, _)| group.shard() == Some(shard.id));
        if group.flat_map(|(_, all)| all).any(|replica| is_leader(replica) && there.contains(&replica.id)) {
            led.insert(shard.id);
        }
    }
    led
}

fn committed_in(replicas: &Replicas) -> BTreeMap<GroupId, LogIndex> {
    let most = |all: &Vec<ReplicaStatus>| all.iter().map(|replica| replica.committed_index).max();
    replicas.iter().filter_map(|(&group, all)| Some((group, most(all)?))).collect()
}

/// Looks once.
async fn look(world: &World, client: &Client) -> Result<Replicas, String> {
    futures::future::try_join_all(world.machines.iter().map(is_ready)).await?;
    let topology = client.status().await.map_err(|error| error.to_string())?.topology;
    if topology.nodes.len() != world.machines.len() {
        return Err(format!("{} machines, and nodes {:?}", world.machines.len(), topology.nodes));
    }
    for shard in &topology.shards {
        let wanted = usize::try_from(topology.replication_factor).unwrap_or(usize::MAX);
        let voters = shard.replicas.iter().filter(|replica| replica.role == "voter").count();
        if voters != wanted || shard.replicas.len() != wanted {
            return Err(format!("not a shard with {wanted} voters: {shard:?}"));
        }
    }
    let replicas = replicas(&topology, client).await?;
    if let Some(changing) = replicas.values().flatten().find(|replica| replica.changes_voters) {
        return Err(format!("the voters of a group change: {changing:?}"));
    }
    match replicas.iter().find(|(_, all)| !all.iter().any(is_leader)) {
        Some((group, all)) => Err(format!("nobody leads group {group}: {all:?}")),
        None => Ok(replicas),
    }
}

fn is_leader(replica: &ReplicaStatus) -> bool {
    replica.role == "leader"
}

async fn is_ready(machine: &Machine) -> Result<(), String> {
    let name = &machine.name;
    let asked = http::request(Method::GET, machine.http_address(), "/readyz", "");
    match timeout(ANSWER_TIMEOUT, asked).await {
        Ok(Ok(answer)) if answer.status == 200 => Ok(()),
        Ok(Ok(answer)) => Err(format!("{name} is not ready: {}", answer.body)),
        Ok(Err(error)) => Err(format!("{name}: {error}")),
        Err(_elapsed) => Err(format!("{name} does not answer")),
    }
}

/// What each node says of the replicas that the cluster has placed on it.
async fn replicas(topology: &Topology, client: &Client) -> Result<Replicas, String> {
    let asked = topology.nodes.iter().map(async |node| {
        let status = timeout(ANSWER_TIMEOUT, client.status_of(node.id)).await;
        let status = status.map_err(|_elapsed| format!("node {} does not answer", node.id))?;
        status.map_err(|error| format!("node {}: {error}", node.id))
    });
    let mut found = Replicas::new();
    for status in futures::future::try_join_all(asked).await? {
        for replica in status.replicas {
            if !matches!(replica.role.as_str(), "leader" | "follower" | "learner") {
                return Err(format!("on node {}: {replica:?}", status.node));
            }
            found.entry(replica.group).or_default().push(replica);
        }
    }
    for shard in &topology.shards {
        let group = found.iter().find(|(group, _)| group.shard() == Some(shard.id));
        let there: BTreeSet<_> =
            group.into_iter().flat_map(|(_, all)| all).map(|replica| replica.id).collect();
        let placed: BTreeSet<_> = shard.replicas.iter().map(|replica| replica.id).collect();
        if there != placed {
            return Err(format!("shard {}: {placed:?} should be there, and {there:?} are", shard.id));
        }
    }
    Ok(found)
}

/// Waits until one node says that it is ready; else says what it says.
pub(crate) async fn ready(machine: &Machine) -> Result<String, String> {
    until_deadline(async || is_ready(machine).await).await
}
