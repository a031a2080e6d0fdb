//! What a node refuses whose disk is full.
//!
//! # The problem
//! A log that finds no room for its next segment is dead, and its node with it. So what grows is refused in time, and only
//! that: reads, deletes, votes and changes of members go on, for they need little, or make room.
//!
//! # The approach
//! Two marks, of which the log's reserve of whole segments lies between:
//! - no room for the reserve, or too little on the file system: **puts** are refused, to clients by the leader, and
//!   **leadership** is, for a group whose leader refuses puts would be without one that takes them;
//! - next to nothing left of the reserve: **entries** are, which a leader elsewhere sends. Its followers take them as long as
//!   they can, because they were acknowledged to nobody without a majority. The rest of the reserve is for votes, and for
//!   the next start. What a follower lacks it is sent once there is room.
//!
//! A **checkpoint** is refused unless there is room for it and for its rows: to install it takes a flush of the engine, and
//! one that finds no room is the engine's end, and its node's.
//!
//! A heartbeat is an append without entries, and passes: a follower that hears no leader would ask for an election.

use std::time::Duration;

use kvd_proto::peer::v1::envelope::Body;
use kvd_storage::space::Room;
use kvd_types::{Error, Result, Write, operation::Request};

use super::{Node, Ordering};

/// Followers take entries while so many more segments can be begun: the last one is for the next start.
const SPARE_SEGMENTS_MIN: usize = 2;
/// What is needed to install a checkpoint, in checkpoints: its file, and its rows in the engine, compressed as well.
const CHECKPOINT_ROOM: u64 = 2;
/// How long a put should wait that met a full disk.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// How full a node's disk is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fullness {
    /// There is no room, or none for the log's reserve.
    pub(super) refuses_puts: bool,
    /// The log's reserve is used up, but for what votes and the next start need.
    refuses_entries: bool,
}

impl Fullness {
    /// `no_next_segment`: no file could be made for the log's next segment. `spare_segments`: how many it can begin without
    /// one, asked only then.
    fn new(no_next_segment: bool, room: Room, spare_segments: impl FnOnce() -> usize) -> Self {
        Self {
            refuses_puts: no_next_segment || room != Room::Enough,
            refuses_entries: no_next_segment && spare_segments() < SPARE_SEGMENTS_MIN,
        }
    }

    /// Whether this node takes a request as the leader of its shard.
    ///
    /// # Errors
    /// Overloaded, for what grows.
    fn check_request(self, request: &Request) -> Result<()> {
        let grows = match request {
            Request::Write(Write { op, .. }, _) => op.grows(),
            _ => false,
        };
        if grows && self.refuses_puts {
            return Err(Error::overloaded(
                RETRY_PAUSE,
                "the disk of the shard's leader is full; make room, then retry",
            ));
        }
        Ok(())
    }

    /// Whether this node takes a message to a replica.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn check_message(self, body: &Body, to: u64) -> Result<(), &'static str> {
        match body {
            Body::Append(append) if !append.entries.is_empty() && self.refuses_entries => {
                Err("this node's disk is full")
            }
            // The others are told of a hand-over too, and take part in it.
            Body::TransferLeader(transfer) if transfer.to_replica == to && self.refuses_puts => {
                Err("this node's disk is full; another one must lead")
            }
            _ => Ok(()),
        }
    }
}

impl Node {
    /// How full the disk is, as far as that is known.
    pub(super) fn fullness(&self) -> Fullness {
        let disk = self.disk.get();
        Fullness::new(
            self.disk_full.load(Ordering::Relaxed),
            disk.map_or(Room::Enough, |disk| disk.space.room()),
            || disk.map_or(usize::MAX, |disk| disk.log.spare_segments()),
        )
    }

    /// Looks whether the disk has room for so many bytes and a flush of the engine.
    pub(super) async fn has_room_for(&self, bytes: u64) -> Result<bool> {
        let disk = self.disk()?;
        let looked = self.platform.blocking().run(move || Ok(disk.space.has_room_for(bytes)));
        let looked = looked.await.map_err(|error| Error::internal(error.to_string()))?;
        looked
            .map_err(|error| Error::unavailable(format!("it can't be told how much room there is: {error}")))
    }

    /// Refuses a checkpoint of so many bytes for which there is no room. It is offered again and again, and logged once.
    ///
    /// # Errors
    /// Overloaded.
    pub(super) async fn check_checkpoint_room(&self, size_bytes: u64) -> Result<()> {
        let has_room = self.has_room_for(size_bytes.saturating_mul(CHECKPOINT_ROOM)).await?;
        let was_refused = self.checkpoint_refused.swap(!has_room, Ordering::Relaxed);
        if has_room {
            return Ok(());
        }
        let why = format!("the disk has no room for a checkpoint of {size_bytes} bytes and its rows");
        if !was_refused {
            tracing::error!(why, "a checkpoint is refused; its replica stays behind until there is room");
        }
        Err(Error::overloaded(RETRY_PAUSE, format!("{why}; make room")))
    }

    /// Refuses puts while the disk has no room, or none for the log's reserve. Deletes go on: they make room.
    pub(super) fn check_room(&self, request: &Request) -> Result<()> {
        self.fullness().check_request(request)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kvd_proto::peer::v1 as p;
    use kvd_types::{Condition, ErrorKind, Key, Lifetime, Read, SessionId, ShardId, WriteOp};

    use super::*;

    const FINE: Fullness = Fullness { refuses_puts: false, refuses_entries: false };
    const NO_PUTS: Fullness = Fullness { refuses_puts: true, refuses_entries: false };
    const NO_ENTRIES: Fullness = Fullness { refuses_puts: true, refuses_entries: true };

    #[test]
    fn puts_are_refused_before_entries_are() {
        for (no_next_segment, room, spare_segments, expected) in [
            (false, Room::Enough, 4, FINE),
            (false, Room::Low, 4, NO_PUTS),
            (false, Room::None, 4, NO_PUTS),
            (true, Room::Enough, 4, NO_PUTS),
            (true, Room::None, 2, NO_PUTS),
            (true, Room::None, 1, NO_ENTRIES),
            (true, Room::Enough, 0, NO_ENTRIES),
            // A reserve that is about to be made anew.
            (false, Room::Enough, 0, FINE),
        ] {
            let found = Fullness::new(no_next_segment, room, || spare_segments);
            assert_eq!(found, expected, "{no_next_segment} {room:?} {spare_segments}");
        }
    }

    #[test]
    fn a_leader_without_room_refuses_puts_and_nothing_else() {
        let key = || Key::try_from("key").unwrap();
        let write = |op| Request::write(Write { session: None, op });
        let put = write(WriteOp::Put {
            key: key(),
            value: Bytes::from_static(b"value"),
            lifetime: Lifetime::Forever,
            condition: Condition::Always,
            want_previous: false,
        });
        let delete = write(WriteOp::Delete { key: key(), condition: Condition::Always, want_previous: true });
        FINE.check_request(&put).unwrap();
        for full in [NO_PUTS, NO_ENTRIES] {
            let refused = full.check_request(&put).unwrap_err();
            let ErrorKind::Overloaded { retry_after } = refused.kind else { panic!("{refused}") };
            assert_eq!(retry_after, RETRY_PAUSE);
            assert!(!refused.outcome_unknown() && refused.message.contains("make room"), "{refused}");
            for other in [
                delete.clone(),
                Request::get(key()),
                Request::BatchGet(vec![key()], Read::LINEARIZABLE),
                Request::OpenSession(ShardId(0)),
                Request::CloseSession(ShardId(0), SessionId(1)),
            ] {
                full.check_request(&other).unwrap();
            }
        }
    }

    #[test]
    fn a_full_node_takes_heartbeats_and_votes_but_neither_leadership_nor_in_the_end_entries() {
        let entries = Body::Append(p::AppendRequest {
            entries: vec![p::Entry::default()],
            ..p::AppendRequest::default()
        });
        let heartbeat = Body::Append(p::AppendRequest::default());
        let vote = Body::Vote(p::VoteRequest::default());
        let transfer = |to_replica| {
            Body::TransferLeader(p::TransferLeaderRequest {
                to_replica,
                ..p::TransferLeaderRequest::default()
            })
        };
        let (to_it, to_another) = (transfer(7), transfer(8));
        let refused = |full: Fullness| {
            [&entries, &to_it, &to_another, &heartbeat, &vote]
                .map(|body| full.check_message(body, 7).is_err())
        };
        assert_eq!(refused(FINE), [false, false, false, false, false]);
        assert_eq!(refused(NO_PUTS), [false, true, false, false, false]);
        assert_eq!(refused(NO_ENTRIES), [true, true, false, false, false]);
    }
}
