//! Every bound, in one place, checked against each other at compile time.
//!
//! A limit that a caller can hit is named in the error that it causes. Those that an operator may change are defaults
//! here and settings in the server's configuration; the others are part of the format or the protocol.

use std::time::Duration;

/// Longest key, in bytes. Part of the data format: keys of system rows are longer by a few bytes.
pub const KEY_BYTES_MAX: usize = 4096;
/// Largest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Largest request, in bytes, all its operations together.
pub const REQUEST_BYTES_MAX: usize = 4 << 20;
/// Most keys in one batch-get.
pub const BATCH_KEYS_MAX: usize = 1024;
/// Largest gRPC message that a server or client decodes: a request, a reply with a previous value, and framing.
pub const MESSAGE_BYTES_MAX: usize = 8 << 20;
/// Largest answer to a batch-get, in bytes of keys and values: it must fit a message with its framing.
pub const ANSWER_BYTES_MAX: usize = MESSAGE_BYTES_MAX - (512 << 10);
/// Most operations in one frame of a pipeline.
pub const FRAME_OPERATIONS_MAX: usize = 1024;
/// Most operations in flight on one pipeline; the server stops reading frames beyond it.
pub const PIPELINE_WINDOW_MAX: usize = 4096;
/// Largest page of a scan, in rows and in bytes, whichever comes first; a single larger row still fits a page.
pub const SCAN_ROWS_MAX: usize = 4096;
/// See [`SCAN_ROWS_MAX`].
pub const SCAN_BYTES_MAX: usize = 1 << 20;

/// Most compares and operations in one transaction, both branches together.
pub const TXN_OPERATIONS_MAX: usize = 128;
/// Most bytes of values that one transaction gives back.
pub const TXN_ANSWER_BYTES_MAX: usize = 4 << 20;
/// Most keys that one step of a range's deletion, or of a lease's end, removes.
pub const DELETE_STEP_KEYS_MAX: u32 = 512;
/// Most bytes of keys and values that such a step removes, but for the last one.
pub const DELETE_STEP_BYTES_MAX: usize = 4 << 20;

/// Most bytes of keys and values that one transaction replaces or deletes: they go to watchers together.
pub const TXN_REPLACED_BYTES_MAX: usize = 4 << 20;
/// Largest page of changes, in events; those at one revision stay together.
pub const CHANGES_MAX: usize = 1024;
/// Longest time that a look at changes waits for some.
pub const CHANGES_WAIT_MAX: Duration = Duration::from_secs(5);
/// Watchers of one node; one more is refused as overloaded.
pub const WATCHERS_MAX: usize = 20_000;
/// How far behind a bounded read may be at most.
pub const STALENESS_MAX: Duration = Duration::from_secs(3600);

/// Leases whose home is one shard.
pub const LEASES_MAX: usize = 1_000_000;
/// The shortest time to live of a lease: it must outlive a change of leader.
pub const LEASE_TTL_MIN: Duration = Duration::from_secs(2);
/// The longest time to live of a lease or key.
pub const TTL_MAX: Duration = Duration::from_secs(100 * 366 * 24 * 3600);
/// Keys, leases and ended leases that one log entry looks at because their time is over, if it has no commands.
pub const EXPIRED_PER_ENTRY_MAX: usize = 64;
/// One that has commands looks at as many as it has, so that what expires takes no more of the machine than what is written;
/// but at so many at least.
pub const EXPIRED_PER_ENTRY_MIN: usize = 4;
/// How long a shard remembers that a lease has ended, by its age.
pub const ENDED_LEASE_KEPT: Duration = Duration::from_secs(3600);

/// Most commands in one log entry. More would hardly be cheaper, and hold up everything else of a node for longer.
pub const ENTRY_COMMANDS_MAX: usize = 256;
/// Commands that are worth a log entry of their own while another one of the shard is under way.
pub const ENTRY_COMMANDS_MIN: usize = 64;
/// Target size of one log entry, in bytes; a single larger command still makes an entry.
pub const ENTRY_BYTES_TARGET: usize = 1 << 20;
/// Largest encoded log entry, in bytes; a longer one in the log or on the wire is corruption.
pub const ENTRY_BYTES_MAX: usize = 16 << 20;
/// Log entries that a shard's leader keeps in flight.
pub const ENTRIES_IN_FLIGHT_MAX: usize = 4;
/// Commands that may wait for a shard's leader; beyond it, writes are refused as overloaded.
pub const PROPOSAL_QUEUE_MAX: usize = 8192;
/// Bytes of commands that may wait for a shard's leader.
pub const PROPOSAL_QUEUE_BYTES_MAX: usize = 32 << 20;
/// So many may always wait. More may as long as what went into the log last had not waited longer than
/// [`PROPOSAL_WAIT_MAX`]; beyond that, writes are refused as overloaded.
pub const PROPOSAL_QUEUE_MIN: usize = 256;
/// See [`PROPOSAL_QUEUE_MIN`].
pub const PROPOSAL_WAIT_MAX: Duration = Duration::from_millis(100);
/// Reads that may wait for a shard's next quorum round.
pub const READ_QUEUE_MAX: usize = 16384;

/// Sessions that a shard remembers; opening one more is refused as overloaded until one has expired.
pub const SESSIONS_MAX: usize = 100_000;
/// Outcomes that a shard remembers for one session, unacknowledged by its client.
pub const SESSION_OUTCOMES_MAX: usize = 8192;
/// Bytes of previous values in the outcomes that a shard remembers for one session.
pub const SESSION_OUTCOME_BYTES_MAX: usize = 16 << 20;
/// Bytes of memory that a shard spends on remembered outcomes, all sessions together, with [`OUTCOME_BYTES`] for each.
/// At the bound, writes in sessions are refused as session full until clients acknowledge or sessions expire.
pub const SHARD_OUTCOME_BYTES_MAX: usize = 128 << 20;
/// What a remembered outcome counts for beside its previous value, in bytes.
pub const OUTCOME_BYTES: usize = 256;
/// A session without a write for this long, by the leader's clock, is forgotten.
pub const SESSION_IDLE_MAX: Duration = Duration::from_secs(30 * 60);
/// The longest time that one log entry may let pass for sessions, so that a clock that jumps ahead (or a shard that
/// was idle) doesn't expire the sessions in use.
pub const SESSION_CLOCK_STEP_MAX: Duration = Duration::from_secs(15 * 60);
/// Sessions that one log entry may expire, so that expiry never stalls a shard.
pub const SESSIONS_EXPIRED_PER_ENTRY_MAX: usize = 64;

/// How long what was replaced or deleted can be read, in milliseconds, unless the cluster is told otherwise.
pub const HISTORY_RETENTION_DEFAULT_MS: u64 = 600_000;
/// How long that may be, in milliseconds.
pub const HISTORY_RETENTION_RANGE_MS: std::ops::RangeInclusive<u64> = 1000..=2_592_000_000;
/// Bytes of what was replaced or deleted that a shard keeps, unless the cluster is told otherwise.
pub const HISTORY_BYTES_MAX_DEFAULT: u64 = 64 << 20;
/// How many that may be.
pub const HISTORY_BYTES_MAX_RANGE: std::ops::RangeInclusive<u64> = (1 << 20)..=(1 << 40);

/// Shards of a cluster.
pub const SHARDS_MAX: u32 = 1024;
/// Shards of a new cluster, unless it is told otherwise.
pub const SHARDS_DEFAULT: u32 = 12;
/// Replicas of each shard, unless the cluster is told otherwise.
pub const REPLICATION_FACTOR_DEFAULT: u32 = 3;
/// The allowed replication factors: odd, so that a majority is worth its cost.
pub const REPLICATION_FACTORS: [u32; 3] = [1, 3, 5];
/// Nodes that vote in the meta group; all others learn from it.
pub const META_VOTERS_MAX: usize = 5;
/// Replicas of one group that may be waiting for their removal; replacing another one is refused until then.
pub const RETIRING_REPLICAS_MAX: usize = 16;
/// Nodes of a cluster.
pub const NODES_MAX: usize = 1000;
/// Replaced nodes that a cluster remembers by their join nonce, the ones with the lowest ids forgotten first. A forgotten one
/// stays out all the same: by its id, which is never given again.
pub const REPLACED_NODES_MAX: usize = 1000;
/// Longest zone name, address or other label, in bytes.
pub const LABEL_BYTES_MAX: usize = 255;
/// The lowest and highest weight of a node or shard. 100 is the usual one.
pub const WEIGHT_RANGE: std::ops::RangeInclusive<u32> = 1..=10_000;
/// The usual weight of a node or shard.
pub const WEIGHT_DEFAULT: u32 = 100;

/// Deadline of a request that names none.
pub const REQUEST_DEADLINE_DEFAULT: Duration = Duration::from_secs(5);
/// Longest deadline that a request may name.
pub const REQUEST_DEADLINE_MAX: Duration = Duration::from_secs(60);

const _: () = {
    assert!(KEY_BYTES_MAX + VALUE_BYTES_MAX < REQUEST_BYTES_MAX);
    assert!(REQUEST_BYTES_MAX + VALUE_BYTES_MAX < MESSAGE_BYTES_MAX);
    assert!(KEY_BYTES_MAX + VALUE_BYTES_MAX <= ANSWER_BYTES_MAX);
    assert!(SCAN_BYTES_MAX + VALUE_BYTES_MAX + KEY_BYTES_MAX < MESSAGE_BYTES_MAX);
    assert!(ENTRY_BYTES_TARGET + REQUEST_BYTES_MAX < ENTRY_BYTES_MAX);
    assert!(REQUEST_BYTES_MAX <= PROPOSAL_QUEUE_BYTES_MAX);
    assert!(PIPELINE_WINDOW_MAX <= SESSION_OUTCOMES_MAX);
    assert!(FRAME_OPERATIONS_MAX <= PIPELINE_WINDOW_MAX);
    assert!(ENTRY_COMMANDS_MIN <= ENTRY_COMMANDS_MAX);
    assert!(ENTRY_COMMANDS_MAX <= PROPOSAL_QUEUE_MAX);
    assert!(VALUE_BYTES_MAX <= SESSION_OUTCOME_BYTES_MAX);
    assert!(SESSION_OUTCOME_BYTES_MAX + SESSION_OUTCOMES_MAX * OUTCOME_BYTES <= SHARD_OUTCOME_BYTES_MAX);
    assert!(SESSION_CLOCK_STEP_MAX.as_secs() < SESSION_IDLE_MAX.as_secs());
    assert!(REQUEST_DEADLINE_MAX.as_secs() * 2 < SESSION_IDLE_MAX.as_secs());
    // The counter of a revision must not overflow into the clock within one log entry.
    assert!(ENTRY_COMMANDS_MAX < 1 << crate::id::Revision::COUNTER_BITS);
};
