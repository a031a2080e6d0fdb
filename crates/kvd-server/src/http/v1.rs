//! The REST interface of everything: keys, transactions, ranges, watches and leases, under `/v1`.
//!
//! What holds of [`super::rest`] holds here: keys and values that aren't text are in base64, under the same name with
//! `_base64`; revisions, versions and ids of leases are text; a parameter or field that isn't known is refused; whatever goes
//! wrong is `{"status":"error","code":…,"message":…}`, of a write with `"outcome":"not_applied"` or `"unknown"`. Times and
//! counts are numbers. `?timeout_ms=…` says how long an answer is of use. All of it is described in `GET /openapi.json`.
//!
//! # Keys
//! - `PUT /v1/kv/{key}` with `{"value":"John Doe"}` answers
//!   `{"status":"success","key":…,"revision":"…","create_revision":"…","version":"1","session":"…"}`. More that the body may say:
//!   `"ttl_ms":60000` or `"lease":"7"`: the key goes after that time, or when that lease ends; `"if_absent":true` or
//!   `"if_revision":"123"`; `"prev":true`; `"ack":"all"`: answer once all replicas have it on disk, not only a majority.
//! - `GET /v1/kv/{key}` answers `{"key":…,"value":…,"revision":…,"create_revision":…,"version":…,"session":…}`, with `lease` and
//!   `ttl_ms` (what remains) where there is one. `?revision=` reads the past: 410 with `oldest_revision` if it is forgotten.
//!   `?consistency=` is `linearizable`, `lease`, `session`, `bounded` (with `&max_staleness_ms=`) or `local`; with
//!   `&any_replica` the node that is asked answers, if it has a replica.
//! - `DELETE /v1/kv/{key}`, with `?if_revision=`, `?prev` and `?ack=all`.
//! - `POST /v1/batch_get` with `{"keys":["a","b"]}` (or `keys_base64`) answers `{"results":[{"key":"a",…},null],"session":…}`. The
//!   body may also say `revision`, `consistency`, `max_staleness_ms` and `any_replica`.
//!
//! A `session` in an answer is what its client has seen. Sent along, as `?session=` or in the header `kvd-session`, it makes
//! `?consistency=session` see at least that: one's own writes, and never less than before.
//!
//! # Transactions
//! `POST /v1/txn`, all keys of one shard (which keys with the same `{tag}` are):
//! `{"compares":[{"key":"{a}1","version":"1","is":"="}],"then":[{"put":{"key":"{a}1","value":"2"}},{"get":{"key":"{a}2"}}],
//! "otherwise":[{"delete":{"key":"{a}1","prev":true}}]}`. Compared is one of `value`, `value_base64`, `revision`,
//! `create_revision`, `version`, `lease`; `is` is `=` (the default), `!=`, `<` or `>`. A put may have `ttl_ms`, `lease` and `prev`.
//! The answer has what came of each operation in order: `{"status":"success","succeeded":true,"revision":"…",
//! "results":[{"put":{…}},{"get":null}],"session":…}`.
//!
//! # Ranges
//! - `GET /v1/scan?prefix=user:` (or `start=` and `end=`, neither: all keys) answers lines of JSON
//!   (`application/x-ndjson`), in order and as of one revision: `{"key":…,"value":…,"revision":…,…}` and at last
//!   `{"end":true,"revision":"…","count":2}`. If `limit=` stopped it, the last line has `"resume":"…"`, to go on as of the same
//!   revision with the same parameters and `&resume=`. If it broke off, the last line is
//!   `{"status":"error",…,"resume":"…"}`: what has no such last line is not whole. More parameters: `descending`, `keys_only`,
//!   `count` (no rows, only how many), `revision=`, `min_revision=`, `max_revision=`, `min_create_revision=`,
//!   `max_create_revision=`, and `base64` if the bounds are.
//! - `DELETE /v1/range?prefix=…` answers lines `{"deleted":512,"done":false}` and at last `{"deleted":700,"done":true}`. To delete
//!   all keys takes `?all`.
//! - `GET /v1/watch?prefix=…` (or `key=`, or `start=` and `end=`) answers server-sent events (`text/event-stream`):
//!   `position` when it has begun, `put` (`{"event":"put","key":…,"value":…,"revision":…,…}`), `delete`
//!   (`{"event":"delete","key":…,"revision":…}`), `progress` when everything has been told that was finished before, and `error`
//!   at last. The `id` of an event, which is also its `resume`, is where to go on, with `&resume=` or the header
//!   `Last-Event-ID`: an `EventSource` does so by itself, and misses nothing. An event without one is told again then. More
//!   parameters: `after_revision=`, `no_puts`, `no_deletes`, `prev`, `progress_ms=`, `base64`.
//!
//! Each of these streams is the one or the other by `Accept`, and is read as fast as its client likes.
//!
//! # Leases
//! - `POST /v1/leases` with `{"ttl_ms":30000}`, or an `"id":"7"` of one's own, answers
//!   `{"status":"success","id":"7","ttl_ms":30000}`; 409 if there is one with that id.
//! - `POST /v1/leases/{id}/keep_alive` answers the same; 404 if it has ended.
//! - `GET /v1/leases/{id}` answers `{"id":"7","ttl_ms":30000,"remaining_ms":29000,"shards":[1]}`; with `?keys` also `keys`, and
//!   `next` if there may be more, for `&after=`.
//! - `GET /v1/leases` answers `{"leases":[…],"next":…}`, up to `?limit=`, and goes on with `?after=`.
//! - `DELETE /v1/leases/{id}` ends it; its keys go soon.
//!
//! # What is deliberately absent
//! No sessions in which retries happen once: see [`super::rest`].

mod bounds;
pub(super) mod kv;
pub(super) mod leases;
pub(super) mod ranges;
mod session;
mod stream;
pub(super) mod txn;
pub(super) mod watch;
