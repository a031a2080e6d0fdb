//! Places at which a test can stop a replica, as those of [`kvd_storage::failpoints`], which see.

/// A committed entry was read and is about to be applied.
pub const APPLY_BEFORE: &str = "apply.before";
/// An entry was applied in memory; nobody has been answered.
pub const APPLY_AFTER: &str = "apply.after";
/// A tail of the log that a new leader contradicts is about to be dropped.
pub const TRUNCATE_BEFORE: &str = "truncate.before";
/// A checkpoint is written and durable; openraft has not been told, and nothing is purged.
pub const CHECKPOINT_BEFORE_NOTED: &str = "checkpoint.before_noted";
/// A checkpoint from a peer was received and verified; it is about to be installed.
pub const CHECKPOINT_BEFORE_INSTALL: &str = "checkpoint.before_install";
/// A checkpoint was installed; the log still holds what was before it.
pub const CHECKPOINT_AFTER_INSTALL: &str = "checkpoint.after_install";
/// A change of a group's members is about to be proposed, or has just been.
pub const MEMBERS_BEFORE_CHANGE: &str = "members.before_change";
/// A change of a group's members has ended, one way or the other.
pub const MEMBERS_AFTER_CHANGE: &str = "members.after_change";
/// A leader is about to hand over.
pub const TRANSFER_BEFORE: &str = "transfer.before";

/// All of them.
pub const ALL: &[&str] = &[
    APPLY_BEFORE,
    APPLY_AFTER,
    TRUNCATE_BEFORE,
    CHECKPOINT_BEFORE_NOTED,
    CHECKPOINT_BEFORE_INSTALL,
    CHECKPOINT_AFTER_INSTALL,
    MEMBERS_BEFORE_CHANGE,
    MEMBERS_AFTER_CHANGE,
    TRANSFER_BEFORE,
];
