//! Six machines and a switch, each a network namespace, and the host as the clients' machine.
//!
//! The switch has a namespace of its own, so that the host's packet filter, which may be strict, has no say in what
//! passes between the nodes. All names begin with [`PREFIX`]: what an earlier run has left is found by it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Result;

use super::command::{attempt, line};

/// All namespaces and links of these runs begin so.
const PREFIX: &str = "kvc-";
/// The switch's namespace.
const SWITCH: &str = "kvc-switch";
/// The host's link to the switch.
const HOST_LINK: &str = "kvc-host";
/// The network; unlikely to be one of the machine's.
pub(crate) const NETWORK: &str = "10.79.0.0/24";
const HOST: &str = "10.79.0.254/24";
const CLIENT_PORT: u16 = 7400;
const PEER_PORT: u16 = 7401;
const HTTP_PORT: u16 = 7402;

/// A machine's place in the network: by its number, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Host(pub(crate) u8);

impl Host {
    /// Its namespace.
    pub(crate) fn namespace(self) -> String {
        format!("{PREFIX}{}", self.0)
    }

    /// Its address.
    pub(crate) const fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 79, 0, self.0)
    }

    /// Where its node listens to clients, to peers, and to HTTP.
    pub(crate) fn endpoints(self) -> [SocketAddr; 3] {
        [CLIENT_PORT, PEER_PORT, HTTP_PORT].map(|port| SocketAddr::new(IpAddr::V4(self.address()), port))
    }

    /// What a command is to be preceded by to run on this machine. Only the network is entered: a namespace of mounts
    /// that came with it would keep the other machines' disks busy.
    pub(crate) fn entrance(self) -> String {
        format!("nsenter --net=/run/netns/{}", self.namespace())
    }

    /// Runs a line of words on this machine.
    pub(crate) async fn run(self, words: &str) -> Result<String> {
        line(&format!("{} {words}", self.entrance())).await
    }

    /// Adds a rule to its packet filter, after the chain's name.
    pub(crate) async fn add_rule(self, rule: &str) -> Result<()> {
        self.run(&format!("iptables -w -A {rule}")).await.map(drop)
    }

    /// Removes a rule that was added.
    pub(crate) async fn remove_rule(self, rule: &str) -> Result<()> {
        self.run(&format!("iptables -w -D {rule}")).await.map(drop)
    }

    /// Pulls its cable, or puts it back.
    pub(crate) async fn set_cable(self, plugged: bool) -> Result<()> {
        let state = if plugged { "up" } else { "down" };
        line(&format!("ip -n {SWITCH} link set v{} {state}", self.0)).await.map(drop)
    }

    /// The switch's side of its cable, preceded by what `tc` needs to name it.
    pub(crate) fn shaper(self, action: &str) -> String {
        format!("tc -n {SWITCH} qdisc {action} dev v{} root", self.0)
    }
}

/// Makes the switch and so many machines.
pub(crate) async fn make(machines: u8) -> Result<()> {
    line(&format!("ip netns add {SWITCH}")).await?;
    line(&format!("ip -n {SWITCH} link add switch type bridge")).await?;
    line(&format!("ip -n {SWITCH} link set switch up")).await?;
    line(&format!("ip link add {HOST_LINK} type veth peer name host netns {SWITCH}")).await?;
    line(&format!("ip -n {SWITCH} link set host master switch up")).await?;
    line(&format!("ip addr add {HOST} dev {HOST_LINK}")).await?;
    line(&format!("ip link set {HOST_LINK} up")).await?;
    for host in (1..=machines).map(Host) {
        let (number, namespace, address) = (host.0, host.namespace(), host.address());
        line(&format!("ip netns add {namespace}")).await?;
        line(&format!("ip -n {SWITCH} link add v{number} type veth peer name eth0 netns {namespace}"))
            .await?;
        line(&format!("ip -n {SWITCH} link set v{number} master switch up")).await?;
        line(&format!("ip -n {namespace} addr add {address}/24 dev eth0")).await?;
        line(&format!("ip -n {namespace} link set eth0 up")).await?;
        line(&format!("ip -n {namespace} link set lo up")).await?;
    }
    Ok(())
}

/// Kills whatever runs in the namespaces of these runs, and removes them.
pub(crate) async fn remove() -> Result<()> {
    attempt(&format!("ip link del {HOST_LINK}")).await;
    let namespaces = line("ip netns list").await?;
    for namespace in namespaces.lines().filter_map(|line| line.split_whitespace().next()) {
        if !namespace.starts_with(PREFIX) {
            continue;
        }
        let processes = line(&format!("ip netns pids {namespace}")).await?;
        for process in processes.split_whitespace() {
            attempt(&format!("kill -KILL {process}")).await;
        }
        line(&format!("ip netns del {namespace}")).await?;
    }
    Ok(())
}
