use super::*;

fn package(name: &str, uses: &[&str]) -> Package {
    Package { name: name.to_owned(), uses: uses.iter().copied().map(str::to_owned).collect() }
}

fn file(path: &str, lines: usize) -> File {
    File { path: path.to_owned(), lines: Some(lines) }
}

/// Whether these packages, beside the others of the table, break a rule: none, or exactly one with these words.
fn check_packages(packages: &[Package], expected: Option<&str>) {
    let mut all: Vec<_> = MAY_USE.iter().map(|(name, may_use)| package(name, may_use)).collect();
    all.retain(|package| packages.iter().all(|planted| planted.name != package.name));
    all.extend(
        packages.iter().map(|planted| Package { name: planted.name.clone(), uses: planted.uses.clone() }),
    );
    check(&violations(&all, &[]), expected);
}

fn check_file(file: File, expected: Option<&str>) {
    check(&violations(&[], &[file]), expected);
}

fn check(found: &[String], expected: Option<&str>) {
    match (found, expected) {
        ([], None) => {}
        ([one], Some(words)) => assert!(one.contains(words), "{one:?} does not say {words:?}"),
        _ => panic!("expected {expected:?}, found {found:#?}"),
    }
}

#[test]
fn arrows_point_one_way() {
    check_packages(&[], None);
    check_packages(&[package("kvd-machine", &["kvd-types", "bytes"])], None);
    check_packages(&[package("kvd-types", &["kvd-storage"])], Some("kvd-types uses kvd-storage"));
    check_packages(&[package("kvd-client", &["kvd-server"])], Some("kvd-client uses kvd-server"));
    check_packages(&[package("kvd-server", &["kvd-testkit"])], Some("kvd-server uses kvd-testkit"));
    check_packages(&[package("xtask", &["kvd-types"])], Some("xtask uses kvd-types"));
    check_packages(&[package("kvd-new", &[])], Some("kvd-new is not in the table"));
}

#[test]
fn the_table_has_no_circles() {
    for (place, (name, may_use)) in MAY_USE.iter().enumerate() {
        for used in *may_use {
            let known = MAY_USE[..place].iter().any(|(earlier, _)| earlier == used);
            assert!(known, "{name} may use {used}, which does not stand above it");
        }
    }
}

#[test]
fn one_crate_names_the_consensus_library_and_one_the_engines() {
    check_packages(&[package("kvd-raft", &["openraft", "openraft-rt-tokio"])], None);
    check_packages(&[package("kvd-server", &["openraft"])], Some("only kvd-raft may name openraft"));
    check_packages(&[package("kvd-storage", &["openraft-rt"])], Some("only kvd-raft may name openraft"));
    check_packages(&[package("kvd-storage", &["sled", "fjall"])], None);
    check_packages(&[package("kvd-machine", &["sled"])], Some("only kvd-storage may name sled"));
    check_packages(&[package("kvd-server", &["fjall"])], Some("only kvd-storage may name fjall"));
}

#[test]
fn pure_crates_stay_pure() {
    check_packages(&[package("kvd-placement", &["random-but-not-rand", "tokios"])], None);
    check_packages(&[package("kvd-storage", &["rand", "tokio"])], None);
    for impure in ["tokio", "tokio-util", "rand", "rand_core", "tonic", "tonic-prost"] {
        for name in PURE {
            check_packages(&[package(name, &[impure])], Some("it is a pure crate"));
        }
    }
}

#[test]
fn the_top_level_stays_tidy() {
    for path in
        ["Cargo.toml", "Cargo.lock", "proto/kvd/v1/kv.proto", "tests/src/lib.rs", ".ci/run", ".deny.toml"]
    {
        check_file(file(path, 1), None);
    }
    for path in ["NOTES.md", "docs/a.md", "crates.txt"] {
        check_file(file(path, 1), Some(path));
    }
}

#[test]
fn files_stay_short() {
    check_file(file("crates/kvd-types/src/lib.rs", 800), None);
    check_file(file("crates/kvd-types/src/lib.rs", 801), Some("crates/kvd-types/src/lib.rs has 801 lines"));
    check_file(File { path: "Cargo.lock".to_owned(), lines: None }, None);
}

#[test]
fn git_and_the_directory_agree_on_what_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut walked = Vec::new();
    walk(&root, "", &mut walked).unwrap();
    assert!(walked.contains(&"crates/xtask/src/main.rs".to_owned()));
    assert!(walked.iter().all(|path| !path.starts_with("target/") && !path.starts_with('.')));
    let files = files(&root).unwrap();
    let main = files.iter().find(|file| file.path == "crates/xtask/src/main.rs").unwrap();
    assert_eq!(main.lines, Some(include_str!("../main.rs").lines().count()));
    let manifest = files.iter().find(|file| file.path == "Cargo.toml").unwrap();
    assert_eq!(manifest.lines, None);
}
