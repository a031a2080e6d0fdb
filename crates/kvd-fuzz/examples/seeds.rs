//! Writes the valid inputs of every target below a directory, one directory for each: where a corpus begins.

#![expect(clippy::expect_used, clippy::print_stdout, reason = "a tool for whoever works on the targets")]

use std::{env, fs, path::PathBuf};

use kvd_fuzz::TARGETS;

fn main() {
    let below = PathBuf::from(env::args_os().nth(1).expect("the directory to write to"));
    for target in TARGETS {
        let dir = below.join(target.name);
        fs::create_dir_all(&dir).expect("a directory can be made");
        let seeds = (target.seeds)();
        for (number, seed) in seeds.iter().enumerate() {
            fs::write(dir.join(format!("seed-{number:03}")), seed).expect("a file can be written");
        }
        println!("{}: {} seeds", target.name, seeds.len());
    }
}
