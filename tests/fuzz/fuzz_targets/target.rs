//! The source of every binary here: each runs the target of its own name.

#![no_main]

use std::sync::LazyLock;

use kvd_fuzz::{Target, target};
use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<Target> = LazyLock::new(|| target(env!("CARGO_BIN_NAME")));

fuzz_target!(|input: &[u8]| (TARGET.run)(input));
