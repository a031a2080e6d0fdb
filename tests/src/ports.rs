//! Ports that are free, and stay so while a node is down.
//!
//! The system gives ports above [`LAST`] to outgoing connections, so that one of those could take a node's port between
//! its end and its next start. Below, only other listeners are to be feared, and those are asked for.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::Mutex,
};

use rand::RngExt as _;

const FIRST: u16 = 10_000;
const LAST: u16 = 32_000;

static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// So many ports in a row on loopback, none of them in use or given before by this process.
///
/// # Panics
/// There are none.
#[must_use]
pub fn free_ports(count: u16) -> Vec<SocketAddr> {
    let mut given = GIVEN.lock().unwrap();
    for _ in 0..1000 {
        let first = rand::rng().random_range(FIRST..LAST);
        let row: Vec<SocketAddr> =
            (first..first + count).map(|port| (Ipv4Addr::LOCALHOST, port).into()).collect();
        let is_free = |address: &SocketAddr| TcpListener::bind(address).is_ok();
        if row.iter().all(|address| !given.contains(&address.port()) && is_free(address)) {
            given.extend(row.iter().map(SocketAddr::port));
            return row;
        }
    }
    panic!("no {count} free ports in a row");
}
