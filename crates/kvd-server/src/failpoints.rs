//! Places at which a test can stop a node, as those of [`kvd_storage::failpoints`], which see.

/// The cluster has taken the node up; the node has not noted it.
pub const JOIN_BEFORE_NOTED: &str = "join.before_noted";
/// The node has noted that it belongs to a cluster; it has opened nothing.
pub const JOIN_AFTER_NOTED: &str = "join.after_noted";
/// The node is about to announce its start.
pub const ANNOUNCE_BEFORE: &str = "announce.before";
/// A retired replica's rows and checkpoints are gone; its log is about to go.
pub const DISCARD_BEFORE_LOG: &str = "discard.before_log";

/// All of them.
pub const ALL: &[&str] = &[JOIN_BEFORE_NOTED, JOIN_AFTER_NOTED, ANNOUNCE_BEFORE, DISCARD_BEFORE_LOG];
