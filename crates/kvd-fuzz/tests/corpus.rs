//! Every target stands what the fuzzer has gathered, its own seeds, and mutations of both.
//!
//! The corpora are in `tests/fuzz/corpus`, a directory for each target, files named by the fuzzer.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails where it stands, and says how to replay it"
)]

use std::{
    collections::BTreeSet,
    env, fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use kvd_fuzz::{TARGETS, Target, mutate::Mutator, target};

/// Mutations of each target's inputs.
const MUTATIONS: u64 = 300;
/// Most files in a corpus, and most bytes of them together: they are kept with the sources.
const CORPUS_FILES_MAX: usize = 120;
const CORPUS_BYTES_MAX: usize = 300 << 10;

fn corpora() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus")
}

/// The files of a target's corpus, by name.
fn corpus(target: &Target) -> Vec<(String, Vec<u8>)> {
    let dir = corpora().join(target.name);
    let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut files: Vec<_> = entries
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap())
        })
        .collect();
    files.sort();
    files
}

/// Runs a target, and says what it was given if it fails.
fn run(target: &Target, what: &str, input: &[u8]) {
    if let Err(panicked) = catch_unwind(AssertUnwindSafe(|| (target.run)(input))) {
        eprintln!("{} fails on {what}: {}", target.name, input.escape_ascii());
        std::panic::resume_unwind(panicked);
    }
}

#[test]
fn every_target_has_a_corpus_and_every_corpus_a_target() {
    let named: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    let entries = fs::read_dir(corpora()).expect("there are corpora");
    let found: BTreeSet<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    assert_eq!(named, found);
    let manifest = fs::read_to_string(corpora().join("../Cargo.toml")).unwrap();
    for target in TARGETS {
        let files = corpus(target);
        let bytes: usize = files.iter().map(|(_, content)| content.len()).sum();
        assert!((1..=CORPUS_FILES_MAX).contains(&files.len()), "{}: {} files", target.name, files.len());
        assert!(bytes <= CORPUS_BYTES_MAX, "{}: {bytes} bytes", target.name);
        let binary = format!("name = \"{}\"\n", target.name);
        assert!(manifest.contains(&binary), "{} is not in tests/fuzz/Cargo.toml", target.name);
    }
}

#[test]
fn every_target_stands_its_corpus_and_its_seeds() {
    for target in TARGETS {
        run(target, "nothing", &[]);
        for (name, content) in corpus(target) {
            run(target, &name, &content);
        }
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        for (number, seed) in seeds.iter().enumerate() {
            run(target, &format!("seed {number}"), seed);
        }
    }
}

/// With `KVD_FUZZ_SEED`, from another seed; with `KVD_FUZZ_TARGET`, of one target alone.
#[test]
fn every_target_stands_mutations() {
    let seed = env::var("KVD_FUZZ_SEED").map_or(1, |seed| seed.parse().expect("a number"));
    let chosen = env::var("KVD_FUZZ_TARGET").map_or(TARGETS.to_vec(), |name| vec![target(&name)]);
    for target in chosen {
        let files = corpus(&target).into_iter().map(|(_, content)| content);
        let inputs: Vec<Vec<u8>> = files.chain((target.seeds)()).collect();
        let mut mutator = Mutator::new(seed);
        for number in 0..MUTATIONS {
            let replay = format!(
                "mutation {number}; replay with KVD_FUZZ_SEED={seed} KVD_FUZZ_TARGET={} cargo test -p kvd-fuzz",
                target.name
            );
            run(&target, &replay, &mutator.next(&inputs));
        }
    }
}
