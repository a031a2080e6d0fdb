//! Which of a caller's lanes counts: the latest of its kind.
//!
//! # The problem
//! A caller that has given a lane up opens another one, and asks again what was not answered. What it had sent before may lie in a
//! buffer for seconds and arrive after that: an append that overtakes a later one, which a group takes for a log that
//! has gone back. Within one lane calls keep their order; between two of them nothing does.
//!
//! # The approach
//! A caller numbers the lanes that it opens. The receiving side serves the one with the highest number of each kind: when that is opened
//! the earlier one ends, with whatever is still on its way in it, and an earlier one that is opened late is refused. A later start of the
//! caller comes after all lanes of an earlier one.

use std::collections::BTreeMap;

use kvd_types::{Error, Incarnation, NodeId, Result};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tonic::metadata::{MetadataMap, MetadataValue};

use crate::transport::Lane;

const KIND: &str = "kvd-lane";
const NUMBER: &str = "kvd-lane-number";

/// A lane's place among those of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LaneNumber {
    kind: u64,
    number: u64,
}

impl LaneNumber {
    pub(super) fn new(lane: Lane, number: u64) -> Self {
        let kind = match lane {
            Lane::Log => 1,
            Lane::Control => 2,
            Lane::Forward => 3,
        };
        Self { kind, number }
    }

    /// Puts it into a call's metadata.
    pub(super) fn write(self, metadata: &mut MetadataMap) {
        metadata.insert(KIND, MetadataValue::from(self.kind));
        metadata.insert(NUMBER, MetadataValue::from(self.number));
    }

    /// Reads it from a call's metadata; none if it isn't there or makes no sense.
    pub(super) fn read(metadata: &MetadataMap) -> Option<Self> {
        let number = |name: &str| metadata.get(name)?.to_str().ok()?.parse().ok();
        let kind = number(KIND).filter(|kind| (1..=Lane::ALL.len() as u64).contains(kind))?;
        Some(Self { kind, number: number(NUMBER)? })
    }
}

/// The lanes that are served: at most one of each kind for each caller.
#[derive(Debug, Default)]
pub(super) struct Fence(Mutex<BTreeMap<(NodeId, u64), Latest>>);

#[derive(Debug)]
struct Latest {
    number: (Incarnation, u64),
    ends: CancellationToken,
}

impl Fence {
    /// Lets a caller open a lane, and ends its earlier one of that kind. The lane must end when the token is cancelled.
    ///
    /// # Errors
    /// Unavailable: the caller has opened a later one.
    pub(super) fn open(
        &self,
        from: NodeId,
        start: Incarnation,
        lane: LaneNumber,
    ) -> Result<CancellationToken> {
        let number = (start, lane.number);
        let mut lanes = self.0.lock();
        let ends = CancellationToken::new();
        let latest = Latest { number, ends: ends.clone() };
        if let Some(earlier) = lanes.get(&(from, lane.kind)) {
            if earlier.number >= number {
                return Err(Error::unavailable(format!("node {from} has opened a later lane")));
            }
            earlier.ends.cancel();
        }
        lanes.insert((from, lane.kind), latest);
        Ok(ends)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_lane_of_each_kind_counts() {
        let fence = Fence::default();
        let open = |node, start, lane, number| {
            fence.open(NodeId(node), Incarnation(start), LaneNumber::new(lane, number))
        };
        let first = open(1, 1, Lane::Log, 4).unwrap();
        let others = [open(1, 1, Lane::Control, 5).unwrap(), open(2, 1, Lane::Log, 9).unwrap()];
        assert!(!first.is_cancelled());
        let second = open(1, 1, Lane::Log, 6).unwrap();
        assert!(first.is_cancelled() && !second.is_cancelled());
        for late in [4, 6] {
            assert!(open(1, 1, Lane::Log, late).unwrap_err().message.contains("later lane"));
        }
        let restarted = open(1, 2, Lane::Log, 0).unwrap();
        assert!(second.is_cancelled() && !restarted.is_cancelled());
        open(1, 1, Lane::Log, 7).unwrap_err();
        assert!(others.iter().all(|other| !other.is_cancelled()));
    }

    #[test]
    fn a_number_survives_the_metadata() {
        for (lane, number) in [(Lane::Log, 0), (Lane::Control, 7), (Lane::Forward, u64::MAX)] {
            let mut metadata = MetadataMap::new();
            assert_eq!(LaneNumber::read(&metadata), None);
            LaneNumber::new(lane, number).write(&mut metadata);
            assert_eq!(LaneNumber::read(&metadata), Some(LaneNumber::new(lane, number)));
            metadata.insert(KIND, MetadataValue::from_static("4"));
            assert_eq!(LaneNumber::read(&metadata), None);
        }
    }
}
