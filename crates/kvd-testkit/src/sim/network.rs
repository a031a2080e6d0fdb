//! The simulated network: kvd's seam over turmoil's hosts, and what stands between any two of them.
//!
//! A pair of hosts may be cut for several reasons at once, in either direction or both, or have everything between them
//! held back. [`Links`] counts the reasons and tells turmoil what they come to, so that faults can overlap and end in any
//! order.
//!
//! Simulated TCP doesn't retransmit: a byte that is lost in a cut leaves its connection dumb for good, which is harsher than
//! the real thing; what is held back arrives late, which is the gentler half.
//!
//! Nodes use the network through a [`card`], where each connection can be late by itself, and so messages overtake each
//! other and come twice; clients are the network's hosts themselves.

use std::{collections::BTreeMap, io, sync::Arc};

use futures::{FutureExt as _, future::BoxFuture};
use kvd_proto::net::{BoxStream, Dial};
use turmoil::{Sim, net::TcpStream};

pub(crate) mod card;
pub(crate) mod carry;

/// Connects clients' hosts with others, by name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SimDial;

impl Dial for SimDial {
    fn dial(&self, address: String) -> BoxFuture<'static, io::Result<BoxStream>> {
        async move {
            let stream = TcpStream::connect(address.as_str()).await?;
            Ok(Box::new(stream) as BoxStream)
        }
        .boxed()
    }
}

/// Connects to one address, as if all others were behind a firewall: that node has to see to whatever its client asks for.
#[derive(Clone, Debug)]
pub(crate) struct OnlyTo(pub(crate) String);

impl Dial for OnlyTo {
    fn dial(&self, address: String) -> BoxFuture<'static, io::Result<BoxStream>> {
        if address == self.0 {
            return SimDial.dial(address);
        }
        async { Err(io::ErrorKind::ConnectionRefused.into()) }.boxed()
    }
}

/// Why nothing passes from one host to another, counted.
#[derive(Clone, Copy, Debug, Default)]
struct Reasons {
    cut: [u32; 2],
    held: u32,
}

/// What a link is set to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    Cut([bool; 2]),
    Held,
}

/// What stands between the hosts.
#[derive(Debug, Default)]
pub(crate) struct Links {
    reasons: BTreeMap<(Arc<str>, Arc<str>), (Reasons, State)>,
}

/// What is done to a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// What the first sends to the second is lost.
    OneWay,
    /// What either sends is lost.
    BothWays,
    /// What either sends is held back, and delivered when the last hold ends.
    Held,
}

impl Links {
    /// Cuts a link, once more.
    pub(crate) fn cut(&mut self, sim: &mut Sim<'_>, from: &Arc<str>, to: &Arc<str>, cut: Cut) {
        self.change(sim, from, to, cut, |count| *count += 1);
    }

    /// Takes one such cut back.
    pub(crate) fn mend(&mut self, sim: &mut Sim<'_>, from: &Arc<str>, to: &Arc<str>, cut: Cut) {
        self.change(sim, from, to, cut, |count| *count = count.saturating_sub(1));
    }

    fn change(
        &mut self,
        sim: &mut Sim<'_>,
        from: &Arc<str>,
        to: &Arc<str>,
        cut: Cut,
        change: impl Fn(&mut u32),
    ) {
        if from == to {
            return;
        }
        let (pair, forward) = if from < to { ((from, to), 0) } else { ((to, from), 1) };
        let (a, b) = (Arc::clone(pair.0), Arc::clone(pair.1));
        let (reasons, state) = self.reasons.entry((Arc::clone(&a), Arc::clone(&b))).or_default();
        match cut {
            Cut::OneWay => reasons.cut.get_mut(forward).into_iter().for_each(change),
            Cut::BothWays => reasons.cut.iter_mut().for_each(change),
            Cut::Held => change(&mut reasons.held),
        }
        let wanted = match (reasons.cut, reasons.held) {
            ([0, 0], 0) => State::Open,
            ([0, 0], _) => State::Held,
            (cut, _) => State::Cut(cut.map(|count| count > 0)),
        };
        if *state == wanted {
            return;
        }
        if *state == State::Held {
            sim.release(&*a, &*b);
        }
        sim.repair(&*a, &*b);
        match wanted {
            State::Open => {}
            State::Held => sim.hold(&*a, &*b),
            State::Cut([true, true]) => sim.partition(&*a, &*b),
            State::Cut([true, false]) => sim.partition_oneway(&*a, &*b),
            State::Cut(_) => sim.partition_oneway(&*b, &*a),
        }
        *state = wanted;
    }
}
