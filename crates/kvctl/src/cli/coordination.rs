//! The verbs of leases, locks and elections.

use std::{ffi::OsString, time::Duration};

use clap::{Args, Subcommand};
use kvd_client::LeaseId;

use super::value::{duration, lease_id, positive_duration};

/// `lease ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum LeaseVerb {
    /// Grant a lease
    Grant {
        /// How long it lasts after each keep-alive, at least 2s; a number alone is seconds
        #[arg(value_parser = positive_duration)]
        ttl: Duration,
        /// Its id, in hexadecimal; drawn by lot if absent
        #[arg(long, value_parser = lease_id)]
        id: Option<LeaseId>,
    },
    /// End a lease, and delete the keys that are attached to it
    Revoke {
        /// The lease
        #[arg(value_parser = lease_id)]
        id: LeaseId,
    },
    /// Keep a lease alive, until Ctrl-C or once
    KeepAlive {
        /// The lease
        #[arg(value_parser = lease_id)]
        id: LeaseId,
        /// Only once
        #[arg(long)]
        once: bool,
    },
    /// Show how long a lease lasts still
    #[command(name = "timetolive", visible_alias = "ttl")]
    TimeToLive {
        /// The lease
        #[arg(value_parser = lease_id)]
        id: LeaseId,
        /// Show the keys that are attached to it
        #[arg(long)]
        keys: bool,
    },
    /// List all leases
    List,
}

/// `ttl`.
#[derive(Args, Debug)]
pub(crate) struct Ttl {
    /// The key
    pub(crate) key: OsString,
}

/// `lock`.
#[derive(Args, Debug)]
pub(crate) struct Lock {
    /// The lock's name; without braces
    pub(crate) name: String,
    /// How long after its holder has fallen silent it is free again, at least 2s
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = positive_duration)]
    pub(crate) ttl: Duration,
    /// Give up after waiting for so long, at least 1s; absent: never
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) wait: Option<Duration>,
    /// Run this while the lock is held
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// `elect`.
#[derive(Args, Debug)]
pub(crate) struct Elect {
    /// The election's name; without braces
    pub(crate) name: String,
    /// What this candidate proclaims when it leads
    #[arg(required_unless_present = "listen", conflicts_with = "listen", allow_negative_numbers = true)]
    pub(crate) value: Option<OsString>,
    /// Tell who leads, now and after each change
    #[arg(short, long)]
    pub(crate) listen: bool,
    /// How long after the leader has fallen silent the next one leads, at least 2s
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = positive_duration)]
    pub(crate) ttl: Duration,
}
