//! Places at which a test can stop the storage, count, or look.
//!
//! # The problem
//! What a crash leaves depends on where it comes: between a sync and the answers that wait for it, between a rename and the
//! sync of its directory. Crashing at each operation of the disk finds most such places; those between which no operation
//! lies, and those of the engine, have to be named.
//!
//! # The approach
//! Each place calls [`fail::fail_point!`] with a name from here. Without the crate's feature `failpoints`, which nothing
//! that ships turns on, that is nothing at all. With it a test may register a callback or a panic for a name; the registry
//! is the whole process's, so such tests run one at a time.
//!
//! # What is deliberately absent
//! Places that return errors of their own: [`crate::disk::SimDisk`] makes the operations themselves fail.

/// A batch of records is about to be written.
pub const LOG_BEFORE_WRITE: &str = "log.before_write";
/// Records were written and are about to be synced.
pub const LOG_BEFORE_SYNC: &str = "log.before_sync";
/// Records were synced; nobody has been answered.
pub const LOG_AFTER_SYNC: &str = "log.after_sync";
/// Everything is done for a batch but its answers.
pub const LOG_BEFORE_CALLBACKS: &str = "log.before_callbacks";
/// A batch was answered.
pub const LOG_AFTER_CALLBACKS: &str = "log.after_callbacks";
/// A vote is about to be taken up.
pub const VOTE_BEFORE: &str = "vote.before";
/// A vote was handed to the writer, or written if callers write.
pub const VOTE_AFTER: &str = "vote.after";
/// A segment is full and synced; the next one is about to be taken.
pub const SEGMENT_BEFORE_ROLL: &str = "segment.before_roll";
/// The next segment was taken; its head is not written.
pub const SEGMENT_AFTER_ROLL: &str = "segment.after_roll";
/// A file that is not needed is about to get its next name.
pub const SEGMENT_BEFORE_RECYCLE: &str = "segment.before_recycle";
/// A file has its next name; the directory is not synced.
pub const SEGMENT_AFTER_RECYCLE: &str = "segment.after_recycle";
/// A new file is full of zeros and about to get its name.
pub const SEGMENT_BEFORE_PUBLISH: &str = "segment.before_publish";
/// A synced head says that older segments are not needed; they are about to be given up.
pub const SEGMENT_BEFORE_FREE: &str = "segment.before_free";
/// A purge is about to be taken up.
pub const PURGE_BEFORE: &str = "purge.before";
/// A purge was handed to the writer, or written if callers write.
pub const PURGE_AFTER: &str = "purge.after";
/// A piece of a checkpoint is about to be written.
pub const CHECKPOINT_BEFORE_WRITE: &str = "checkpoint.before_write";
/// A checkpoint was written and is about to be synced.
pub const CHECKPOINT_BEFORE_SYNC: &str = "checkpoint.before_sync";
/// A checkpoint was synced and verified and is about to get its name.
pub const CHECKPOINT_BEFORE_RENAME: &str = "checkpoint.before_rename";
/// A checkpoint has its name, which is not durable.
pub const CHECKPOINT_AFTER_RENAME: &str = "checkpoint.after_rename";
/// A checkpoint's name is durable; older ones are about to go.
pub const CHECKPOINT_AFTER_DIR_SYNC: &str = "checkpoint.after_dir_sync";
/// A new identity was synced and is about to take the old one's place.
pub const IDENTITY_BEFORE_RENAME: &str = "identity.before_rename";
/// A new identity has taken the old one's place, which is not durable.
pub const IDENTITY_AFTER_RENAME: &str = "identity.after_rename";
/// A frozen generation is about to go to the engine.
pub const DRAIN_BEFORE_BATCH: &str = "drain.before_batch";
/// A generation is in the engine and in memory.
pub const DRAIN_AFTER_BATCH: &str = "drain.after_batch";
/// The engine is about to be flushed.
pub const FLUSH_BEFORE: &str = "flush.before";
/// The engine was flushed.
pub const FLUSH_AFTER: &str = "flush.after";
/// The new rows are durable in the other tree; nothing points to them.
pub const INSTALL_BEFORE_FLIP: &str = "install.before_flip";
/// The pointer to the new rows is durable; readers don't know of it.
pub const INSTALL_AFTER_FLIP: &str = "install.after_flip";

/// All of them.
pub const ALL: &[&str] = &[
    LOG_BEFORE_WRITE,
    LOG_BEFORE_SYNC,
    LOG_AFTER_SYNC,
    LOG_BEFORE_CALLBACKS,
    LOG_AFTER_CALLBACKS,
    VOTE_BEFORE,
    VOTE_AFTER,
    SEGMENT_BEFORE_ROLL,
    SEGMENT_AFTER_ROLL,
    SEGMENT_BEFORE_RECYCLE,
    SEGMENT_AFTER_RECYCLE,
    SEGMENT_BEFORE_PUBLISH,
    SEGMENT_BEFORE_FREE,
    PURGE_BEFORE,
    PURGE_AFTER,
    CHECKPOINT_BEFORE_WRITE,
    CHECKPOINT_BEFORE_SYNC,
    CHECKPOINT_BEFORE_RENAME,
    CHECKPOINT_AFTER_RENAME,
    CHECKPOINT_AFTER_DIR_SYNC,
    IDENTITY_BEFORE_RENAME,
    IDENTITY_AFTER_RENAME,
    DRAIN_BEFORE_BATCH,
    DRAIN_AFTER_BATCH,
    FLUSH_BEFORE,
    FLUSH_AFTER,
    INSTALL_BEFORE_FLIP,
    INSTALL_AFTER_FLIP,
];
