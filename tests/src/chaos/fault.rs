//! What can be done to a cluster, each kind in a file of its own.
//!
//! A [`Kind`] says what a fault is called, what a store must do about it, what it needs, and which parts of which
//! machines it claims while it lasts, so that two faults don't get into each other's way (a paused process on a disk
//! that is being replaced says nothing about the store). Faults that destroy what was stored come one at a time, with a healthy cluster
//! before and after: a store that keeps three copies may lose two.

mod clock;
mod clone;
mod cpu;
mod damage;
mod delay;
mod empty_disk;
mod files;
mod full_disk;
mod isolate;
mod kill;
mod link;
mod loss;
mod old_copy;
mod partition;
mod pause;
mod power_cut;
mod rolling;
mod stall;
mod sync;

use std::ops::RangeInclusive;

use anyhow::Result;
use futures::future::LocalBoxFuture;
use rand::rngs::StdRng;

use super::world::World;

/// What power cuts are counted as, per machine, and flipped bits.
pub(crate) use self::{damage::COUNTED as BIT_FLIPS, power_cut::COUNTED as POWER_CUTS};

/// A fault in the making.
pub(crate) trait Fault {
    /// Begins it.
    fn inject<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>>;

    /// Ends it, as far as it doesn't end by itself: afterwards everything that was taken away is there again, and the
    /// store must recover without help.
    fn heal<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>>;
}

/// Parts of a machine that faults claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// The node's process.
    Process,
    /// The disk.
    Disk,
    /// The network.
    Network,
    /// The wall clock.
    Clock,
    /// The machine beside the others, of which there is one, whoever the victims are.
    Spare,
}

/// How many machines a fault is done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victims {
    /// So many, chosen at random.
    Some(usize),
    /// All of them.
    All,
}

/// A program or file that a fault needs, and Debian's package that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Need {
    /// A program's name, or the path of a file.
    pub(crate) what: &'static str,
    /// The package.
    pub(crate) package: &'static str,
}

/// A kind of fault.
#[derive(Debug)]
pub(crate) struct Kind {
    /// Its name, for the command line and reports.
    pub(crate) name: &'static str,
    /// What a store must do about it.
    pub(crate) right: &'static str,
    /// To how many machines it is done.
    pub(crate) victims: Victims,
    /// What it claims of each of them.
    pub(crate) claims: &'static [Part],
    /// What it needs, beyond what all runs need.
    pub(crate) needs: &'static [Need],
    /// How long it lasts before it is healed, in milliseconds.
    pub(crate) lasts_ms: RangeInclusive<u64>,
    /// Whether it destroys what a node has stored.
    pub(crate) destroys: bool,
    /// Whether the victims' nodes may end by themselves.
    pub(crate) may_end: bool,
    /// Makes one for these machines, counted from zero.
    pub(crate) make: fn(&[usize], &mut StdRng) -> Box<dyn Fault>,
}

/// What most kinds are like.
const USUAL: Kind = Kind {
    name: "",
    right: "",
    victims: Victims::Some(1),
    claims: &[Part::Process],
    needs: &[],
    lasts_ms: 2000..=4000,
    destroys: false,
    may_end: false,
    make: |_, _| unreachable!("each kind makes its own"),
};

const STRACE: Need = Need { what: "strace", package: "strace" };
/// Cuts the power of disks.
const XFS_IO: Need = Need { what: "xfs_io", package: "xfsprogs" };

/// All kinds.
pub(crate) const KINDS: &[&Kind] = &[
    &kill::ONE,
    &kill::ALL,
    &pause::PAUSE,
    &isolate::ISOLATE,
    &isolate::CUT_OFF,
    &partition::PAIR,
    &partition::ONE_WAY,
    &partition::HALVES,
    &partition::BRIDGE,
    &loss::LOSS,
    &delay::DELAY,
    &link::SLOW_LINK,
    &clock::CLOCK,
    &full_disk::FULL_DISK,
    &stall::STALL,
    &sync::SLOW_SYNC,
    &sync::FAILED_SYNC,
    &power_cut::ONE,
    &power_cut::ALL,
    &rolling::ROLLING,
    &empty_disk::EMPTY_DISK,
    &old_copy::OLD_COPY,
    &clone::CLONE,
    &damage::BIT_FLIPS,
    &cpu::FEW_CPU,
    &files::FEW_FILES,
];

/// Kinds that the store doesn't claim to withstand: only done when asked for by name.
pub(crate) const UNCLAIMED: &[&Kind] = &[&old_copy::SNAPSHOT];

/// A kind by its name.
pub(crate) fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().chain(UNCLAIMED).copied().find(|kind| kind.name == name)
}
