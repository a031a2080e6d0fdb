//! Causes come before their effects: a write has a later revision than what its client had written before, on any shard.
//!
//! It is what lets a reader of several shards as of one revision never see an effect without its cause.

use std::collections::BTreeMap;

use super::{Account, End, Found, Write};

/// Something that happened to a client: it was told that a write was made, or it began one.
enum Happened<'a> {
    Told(&'a Write),
    Began(&'a Write),
}

pub(super) fn check(account: &Account, found: &mut Found) {
    let mut by_client: BTreeMap<u64, Vec<(u64, Happened<'_>)>> = BTreeMap::new();
    for write in &account.writes {
        let events = by_client.entry(write.client).or_default();
        events.push((write.invoked.sequence, Happened::Began(write)));
        if let (End::Done(_), Some(completed)) = (write.end, write.completed) {
            events.push((completed.sequence, Happened::Told(write)));
        }
    }
    for mut events in by_client.into_values() {
        events.sort_by_key(|(sequence, _)| *sequence);
        let mut latest: Option<(&Write, _)> = None;
        for (_, event) in events {
            match event {
                Happened::Told(write) => {
                    if let End::Done(revision) = write.end
                        && latest.is_none_or(|(_, known)| revision > known)
                    {
                        latest = Some((write, revision));
                    }
                }
                Happened::Began(write) => {
                    if let (End::Done(revision), Some((cause, known))) = (write.end, latest)
                        && revision <= known
                    {
                        found.add(|| format!("{write} is not later than {cause}, which its client knew of"));
                    }
                }
            }
        }
    }
}
