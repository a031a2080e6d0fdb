//! Which of a caller's lanes counts: the latest of its kind.
//!
//! # The problem
//! A caller that has given a lane up opens another one, and asks again what was not answered. What it had sent before may
//! lie in a buffer for seconds and arrive after that: an append that overtakes a later one, which a group takes for a log
//! that has gone back. Within one lane calls keep their order; between two of them nothing does.
//!
//! # The approach
//! A caller numbers the lanes that it opens. The receiving side serves the one with the highest number of each kind: when
//! that is opened the earlier one ends, with whatever is still on its way in it, and an earlier one that is opened late is
//! refused. A later start of the caller comes after all lanes of an earlier one.
//!
//! # Invariants
//! - Once a lane serves its first call, no earlier one of its kind hands over another.
//!
//! # What is bounded
//! One entry of each kind for each node that has called since this one started. Nodes are admitted before they open lanes.

use std::collections::BTreeMap;

use kvd_types::{Error, Incarnation, NodeId, Result};
use parking_lot::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard};
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
    /// The number that a caller gives to a lane of a kind.
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

    /// Reads it from a call's metadata; none: the caller doesn't number its lanes, and sees to their order itself.
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
    /// Tells the lane to end.
    ends: CancellationToken,
    /// The lane has.
    ended: CancellationToken,
}

/// A lane's turn to be served.
#[derive(Debug)]
pub(super) struct Turn {
    ends: CancellationToken,
    /// When the lane before this one has ended, if there was one.
    earlier: Option<CancellationToken>,
    _ended: DropGuard,
}

impl Fence {
    /// Lets a caller open a lane, and tells its earlier one of that kind to end.
    ///
    /// # Errors
    /// Unavailable: the caller has opened a later one.
    pub(super) fn open(&self, from: NodeId, start: Incarnation, lane: LaneNumber) -> Result<Turn> {
        let number = (start, lane.number);
        let mut lanes = self.0.lock();
        let mut earlier = None;
        if let Some(before) = lanes.get(&(from, lane.kind)) {
            if before.number >= number {
                return Err(Error::unavailable(format!("node {from} has opened a later lane")));
            }
            before.ends.cancel();
            earlier = Some(before.ended.clone());
        }
        let (ends, ended) = (CancellationToken::new(), CancellationToken::new());
        let turn = Turn { ends: ends.clone(), earlier, _ended: ended.clone().drop_guard() };
        lanes.insert((from, lane.kind), Latest { number, ends, ended });
        Ok(turn)
    }
}

impl Turn {
    /// Serves the lane once the earlier one has ended, until a later one is opened.
    pub(super) async fn serve(self, lane: impl Future<Output = ()>) {
        if let Some(earlier) = &self.earlier {
            earlier.cancelled().await;
        }
        tokio::select! {
            // The end first: what has arrived by now may be older than what the later lane brings.
            biased;
            () = self.ends.cancelled() => {}
            () = lane => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn open(fence: &Fence, node: u64, start: u64, lane: Lane, number: u64) -> Result<Turn> {
        fence.open(NodeId(node), Incarnation(start), LaneNumber::new(lane, number))
    }

    #[test]
    fn the_latest_lane_of_each_kind_counts() {
        let fence = Fence::default();
        let has_ended = |turn: &Turn| turn.ends.is_cancelled();
        let first = open(&fence, 1, 1, Lane::Log, 4).unwrap();
        let others =
            [open(&fence, 1, 1, Lane::Control, 5).unwrap(), open(&fence, 2, 1, Lane::Log, 9).unwrap()];
        assert!(!has_ended(&first));
        let second = open(&fence, 1, 1, Lane::Log, 6).unwrap();
        assert!(has_ended(&first) && !has_ended(&second));
        for late in [4, 6] {
            let error = open(&fence, 1, 1, Lane::Log, late).unwrap_err();
            assert!(error.message.contains("later lane"), "{error}");
        }
        let restarted = open(&fence, 1, 2, Lane::Log, 0).unwrap();
        assert!(has_ended(&second) && !has_ended(&restarted));
        open(&fence, 1, 1, Lane::Log, 7).unwrap_err();
        assert!(!others.iter().any(has_ended));
    }

    #[test]
    fn nothing_is_taken_from_a_lane_once_a_later_one_is_served() {
        let fence = Fence::default();
        let calls = &Mutex::new(Vec::new());
        // Each time it is polled there is another call.
        let lane = |name: &'static str| {
            std::future::poll_fn(move |_| {
                calls.lock().push(name);
                std::task::Poll::<()>::Pending
            })
        };
        let serve = |number, name| open(&fence, 1, 1, Lane::Log, number).unwrap().serve(lane(name)).boxed();
        let mut first = serve(0, "first");
        assert!(first.as_mut().now_or_never().is_none());
        let mut second = serve(1, "second");
        let mut third = serve(2, "third");
        assert!(third.as_mut().now_or_never().is_none());
        assert!(second.as_mut().now_or_never().is_none(), "it must end, but not before the first one has");
        assert_eq!(*calls.lock(), ["first"]);
        assert!(first.as_mut().now_or_never().is_some());
        assert!(third.as_mut().now_or_never().is_none(), "the second one has not ended");
        assert!(second.as_mut().now_or_never().is_some());
        assert!(third.as_mut().now_or_never().is_none());
        assert_eq!(*calls.lock(), ["first", "third"], "the second one has ended without having begun");
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
