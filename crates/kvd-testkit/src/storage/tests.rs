//! Some thousands of each; the binary does more.

use super::{Case, Progress, Summary, Wanted, replay, run};

struct Silent;

impl Progress for Silent {
    fn histories(&mut self, _: u64, _: &Summary) {}
}

#[test]
fn whatever_happens_to_the_disk_nothing_is_lost_in_silence() {
    const SEED: u64 = 1;
    let wanted = Wanted { seed: SEED, points: 3000, flips: 1500, time_limit: None };
    let (summary, result) = run(&wanted, &mut Silent);
    if let Err(failed) = result {
        panic!(
            "{}\nreplay: cargo run --profile sim -p kvd-testkit --bin kvd-crashes -- --seed {SEED} --replay {}",
            failed.what, failed.case
        );
    }
    // What was tried met what it was to meet.
    assert!(summary.crash_points >= 3000 && summary.nested_crashes > 1000, "{summary:?}");
    assert!(summary.failures > 50 && summary.stopped > 20 && summary.lies > 20, "{summary:?}");
    assert!(summary.bit_flips >= 1500 && summary.detected > 300, "{summary:?}");
    assert!(summary.repaired > 100 && summary.harmless > 100, "{summary:?}");
}

#[test]
fn a_case_is_named_by_what_it_is_read_from() {
    for name in ["cut/3/57/in/2", "cut/0/1/before/0", "fault/7/12/3", "rot/1/99"] {
        assert_eq!(name.parse::<Case>().unwrap().to_string(), name);
    }
    for name in ["", "cut/1/2/3", "cut/1/2/at/3", "rot/x/1", "fault/1/2"] {
        assert!(name.parse::<Case>().is_err(), "{name}");
    }
}

#[test]
fn a_case_comes_out_the_same_whenever_it_is_tried() {
    for name in ["cut/0/50/in/2", "cut/1/99/before/3", "fault/0/60/2", "rot/1/7"] {
        let once = || {
            let mut summary = Summary::default();
            replay(5, name.parse().unwrap(), &mut summary).map(|()| summary)
        };
        assert_eq!(once(), once(), "{name}");
    }
}
