//! One suite of behaviour for every engine, and what each of them does at a crash.

use std::{
    collections::BTreeMap,
    fs,
    ops::Bound,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;

use super::{
    Batch, Direction, Engine, FjallEngine, FjallOptions, MemoryEngine, SledEngine, SledOptions, Tree,
};
use crate::testing::copy_dir;

type Model = BTreeMap<Bytes, Bytes>;

/// An engine, and the directory that it needs.
struct Fixture {
    engine: Arc<dyn Engine>,
    _dir: Option<TempDir>,
}

fn sled_at(dir: &Path) -> SledEngine {
    SledEngine::open(dir, SledOptions::default()).unwrap()
}

fn fjall_at(dir: &Path) -> FjallEngine {
    FjallEngine::open(dir, FjallOptions::default()).unwrap()
}

fn fixtures() -> Vec<Fixture> {
    let (sled_dir, fjall_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (sled, fjall) = (sled_at(sled_dir.path()), fjall_at(fjall_dir.path()));
    vec![
        Fixture { engine: Arc::new(MemoryEngine::new()), _dir: None },
        Fixture { engine: Arc::new(sled), _dir: Some(sled_dir) },
        Fixture { engine: Arc::new(fjall), _dir: Some(fjall_dir) },
    ]
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn batch(changes: &[(&str, Option<&str>)]) -> Batch {
    let mut batch = Batch::default();
    for (key, value) in changes {
        match value {
            Some(value) => batch.put(bytes(key), bytes(value)),
            None => batch.delete(bytes(key)),
        }
    }
    batch
}

fn scan(tree: &dyn Tree, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Vec<(Bytes, Bytes)> {
    scan_in(tree, start, end, Direction::Ascending)
}

fn scan_in(
    tree: &dyn Tree,
    start: Bound<&[u8]>,
    end: Bound<&[u8]>,
    direction: Direction,
) -> Vec<(Bytes, Bytes)> {
    tree.scan(start, end, direction).collect::<Result<_, _>>().unwrap()
}

fn all(tree: &dyn Tree) -> Model {
    scan(tree, Bound::Unbounded, Bound::Unbounded).into_iter().collect()
}

fn keys(tree: &dyn Tree, start: Bound<&str>, end: Bound<&str>) -> String {
    let (start, end) = (start.map(str::as_bytes), end.map(str::as_bytes));
    let rows = scan(tree, start, end);
    let mut reversed = scan_in(tree, start, end, Direction::Descending);
    reversed.reverse();
    assert_eq!(reversed, rows, "backwards it is the same, in the other order");
    rows.iter().map(|(key, _)| String::from_utf8_lossy(key)).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_batch_puts_and_deletes() {
    for Fixture { engine, _dir } in fixtures() {
        let tree = engine.tree("t").unwrap();
        assert_eq!(tree.get(b"a").unwrap(), None);
        tree.apply(batch(&[("a", Some("1")), ("b", Some("")), ("c", Some("3"))])).unwrap();
        assert_eq!(tree.get(b"a").unwrap(), Some(bytes("1")));
        assert_eq!(tree.get(b"b").unwrap(), Some(bytes("")), "an empty value is a value: {engine:?}");
        tree.apply(batch(&[("a", None), ("b", Some("2")), ("x", None)])).unwrap();
        assert_eq!(tree.get(b"a").unwrap(), None);
        assert_eq!(keys(tree.as_ref(), Bound::Unbounded, Bound::Unbounded), "b c");
        tree.apply(Batch::default()).unwrap();
    }
}

#[test]
fn a_snapshot_shows_what_was_there_when_it_was_taken() {
    let mut shown = 0;
    for Fixture { engine, _dir } in fixtures() {
        let tree = engine.tree("t").unwrap();
        let before: Vec<_> = (0..1000).map(|number| (format!("{number:04}"), "old")).collect();
        let changes: Vec<_> = before.iter().map(|(key, value)| (key.as_str(), Some(*value))).collect();
        tree.apply(batch(&changes)).unwrap();
        let Some(mut snapshot) = tree.snapshot() else { continue };
        let first = snapshot.next().unwrap().unwrap();
        let overwritten: Vec<_> = before.iter().map(|(key, _)| (key.as_str(), Some("new"))).collect();
        tree.apply(batch(&overwritten)).unwrap();
        tree.apply(batch(&[("0500", None), ("0000a", Some("more"))])).unwrap();
        engine.flush().unwrap();
        tree.clear().unwrap();
        tree.apply(batch(&[("other", Some("other"))])).unwrap();
        let rows: Vec<_> = std::iter::once(Ok(first)).chain(snapshot).collect::<Result<_, _>>().unwrap();
        let expected: Vec<_> = before.iter().map(|(key, value)| (bytes(key), bytes(value))).collect();
        assert_eq!(rows, expected, "{engine:?}");
        shown += 1;
    }
    assert_eq!(shown, 2, "engines that can show a moment");
}

#[test]
fn the_last_change_of_a_key_counts() {
    for Fixture { engine, _dir } in fixtures() {
        let tree = engine.tree("t").unwrap();
        tree.apply(batch(&[("a", Some("1")), ("a", None), ("b", None), ("b", Some("2")), ("b", Some("3"))]))
            .unwrap();
        assert_eq!(all(tree.as_ref()), Model::from([(bytes("b"), bytes("3"))]), "{engine:?}");
        tree.apply(batch(&[("b", None), ("b", Some("4"))])).unwrap();
        assert_eq!(tree.get(b"b").unwrap(), Some(bytes("4")), "{engine:?}");
    }
}

#[test]
fn scans_keep_to_their_bounds() {
    use Bound::{Excluded, Included, Unbounded};
    for Fixture { engine, _dir } in fixtures() {
        let tree = engine.tree("t").unwrap();
        tree.apply(batch(&[
            ("", Some("0")),
            ("a", Some("1")),
            ("b", Some("2")),
            ("ba", Some("3")),
            ("c", Some("4")),
        ]))
        .unwrap();
        let tree = tree.as_ref();
        assert_eq!(keys(tree, Unbounded, Unbounded), " a b ba c");
        assert_eq!(keys(tree, Included("a"), Excluded("c")), "a b ba");
        assert_eq!(keys(tree, Excluded("a"), Included("c")), "b ba c");
        assert_eq!(keys(tree, Excluded(""), Included("a")), "a");
        assert_eq!(keys(tree, Included("aa"), Unbounded), "b ba c");
        assert_eq!(keys(tree, Included("b"), Included("b")), "b");
        assert_eq!(keys(tree, Excluded("b"), Excluded("b")), "");
        assert_eq!(keys(tree, Included("c"), Included("a")), "");
        assert_eq!(keys(tree, Included("d"), Unbounded), "");
        assert_eq!(keys(tree, Unbounded, Excluded("")), "");
        assert_eq!(keys(tree, Unbounded, Included("")), "");
        assert_eq!(keys(tree, Unbounded, Excluded("a")), "");
        assert_eq!(keys(tree, Unbounded, Included("bb")), " a b ba");
    }
}

#[test]
fn trees_are_apart_and_keep_their_names() {
    for Fixture { engine, _dir } in fixtures() {
        let (one, two) = (engine.tree("one").unwrap(), engine.tree("two").unwrap());
        one.apply(batch(&[("a", Some("1"))])).unwrap();
        two.apply(batch(&[("a", Some("2"))])).unwrap();
        one.clear().unwrap();
        assert_eq!(one.get(b"a").unwrap(), None);
        assert_eq!(two.get(b"a").unwrap(), Some(bytes("2")));
        assert_eq!(engine.tree("two").unwrap().get(b"a").unwrap(), Some(bytes("2")));
        assert_eq!(engine.tree_names().unwrap(), ["one", "two"]);
        engine.flush().unwrap();
    }
}

#[test]
fn a_large_tree_is_cleared_and_filled_again() {
    for Fixture { engine, _dir } in fixtures() {
        let tree = engine.tree("t").unwrap();
        for round in 0..3 {
            let mut batch = Batch::default();
            for number in 0..2000_u32 {
                batch.put(Bytes::from(format!("{number:08}")), Bytes::from(format!("{round}-{number}")));
            }
            tree.apply(batch).unwrap();
            engine.flush().unwrap();
            assert_eq!(all(tree.as_ref()).len(), 2000);
            for (start, end) in [(0, 2000), (700, 701), (63, 1999), (500, 1800)] {
                let range = [start, end].map(|number| format!("{number:08}"));
                let listed =
                    keys(tree.as_ref(), Bound::Included(range[0].as_str()), Bound::Excluded(&range[1]));
                assert_eq!(listed.split(' ').count(), end - start, "{engine:?}");
            }
            tree.clear().unwrap();
            assert_eq!(all(tree.as_ref()).len(), 0, "{engine:?}");
        }
    }
}

#[test]
fn readers_beside_batches_and_flushes_see_whole_rows_in_order() {
    for Fixture { engine, _dir } in fixtures() {
        let tree = engine.tree("t").unwrap();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                // A row that grows, with deletes and flushes all around. Whoever reads it again can't find it older.
                for round in 0..600_u64 {
                    let mut batch = Batch::default();
                    batch.put(bytes("grows"), Bytes::copy_from_slice(&round.to_be_bytes()));
                    for number in 0..40 {
                        let key = Bytes::from(format!("k{:05}", (round * 31 + number * 97) % 4000));
                        if round % 3 == 0 {
                            batch.delete(key);
                        } else {
                            batch.put(key, Bytes::from(vec![7; 100]));
                        }
                    }
                    tree.apply(batch).unwrap();
                    if round % 100 == 0 {
                        engine.flush().unwrap();
                    }
                }
                done.store(true, Ordering::SeqCst);
            });
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut last = Bytes::new();
                    while !done.load(Ordering::SeqCst) {
                        let Some(found) = tree.get(b"grows").unwrap() else { continue };
                        assert!(found >= last, "{engine:?}");
                        last = found;
                        let listed = scan(tree.as_ref(), Bound::Included(b"k"), Bound::Excluded(b"l"));
                        assert!(listed.is_sorted_by(|(a, _), (b, _)| a < b));
                        assert!(listed.iter().all(|(_, value)| value.len() == 100));
                        let bounds = (Bound::Included(&b"k"[..]), Bound::Excluded(&b"l"[..]));
                        let listed = scan_in(tree.as_ref(), bounds.0, bounds.1, Direction::Descending);
                        assert!(listed.is_sorted_by(|(a, _), (b, _)| a > b));
                        assert!(listed.iter().all(|(_, value)| value.len() == 100));
                    }
                });
            }
        });
    }
}

#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<(u8, Option<u8>)>),
    Flush,
    Clear,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let change = (0..40_u8, proptest::option::weighted(0.6, any::<u8>()));
    let step = prop_oneof![
        20 => proptest::collection::vec(change, 0..40).prop_map(Step::Apply),
        2 => Just(Step::Flush),
        1 => Just(Step::Clear),
    ];
    proptest::collection::vec(step, 1..30)
}

fn key(number: u8) -> Bytes {
    Bytes::from(format!("key-{number}"))
}

fn run(engine: &dyn Engine, steps: &[Step]) -> (Model, Model) {
    let tree = engine.tree("t").unwrap();
    let mut model = Model::new();
    let mut flushed = Model::new();
    for step in steps {
        match step {
            Step::Apply(changes) => {
                let mut batch = Batch::default();
                for (number, value) in changes {
                    match value {
                        Some(value) => {
                            batch.put(key(*number), Bytes::from(vec![*value; 3]));
                            model.insert(key(*number), Bytes::from(vec![*value; 3]));
                        }
                        None => {
                            batch.delete(key(*number));
                            model.remove(&key(*number));
                        }
                    }
                }
                tree.apply(batch).unwrap();
            }
            Step::Flush => {
                engine.flush().unwrap();
                flushed = model.clone();
            }
            Step::Clear => {
                tree.clear().unwrap();
                model.clear();
            }
        }
        assert_eq!(all(tree.as_ref()), model);
        let (start, end) = (key(13), key(31));
        let found =
            scan_in(tree.as_ref(), Bound::Included(&start), Bound::Excluded(&end), Direction::Descending);
        let expected: Vec<_> =
            model.range(start..end).rev().map(|(key, value)| (key.clone(), value.clone())).collect();
        assert_eq!(found, expected);
    }
    (model, flushed)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn memory_behaves_as_a_map_and_a_crash_leaves_what_was_flushed(steps in steps()) {
        let engine = MemoryEngine::new();
        let (_, flushed) = run(&engine, &steps);
        let survivor = engine.after_crash();
        prop_assert_eq!(all(survivor.tree("t").unwrap().as_ref()), flushed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn sled_behaves_as_a_map_and_a_crash_leaves_what_was_flushed(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let engine = sled_at(&dir.path().join("live"));
        let (model, flushed) = run(&engine, &steps);
        copy_dir(&dir.path().join("live"), &dir.path().join("killed"));
        let survivor = sled_at(&dir.path().join("killed"));
        prop_assert_eq!(all(survivor.tree("t").unwrap().as_ref()), flushed);
        drop(engine);
        let reopened = sled_at(&dir.path().join("live"));
        prop_assert_eq!(all(reopened.tree("t").unwrap().as_ref()), model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn fjall_behaves_as_a_map_and_a_killed_process_leaves_what_was_applied(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let engine = fjall_at(&dir.path().join("live"));
        let (model, _) = run(&engine, &steps);
        copy_dir(&dir.path().join("live"), &dir.path().join("killed"));
        // The system has all of the journal. What a power cut leaves of it is tested where fjall is named.
        let survivor = fjall_at(&dir.path().join("killed"));
        prop_assert_eq!(all(survivor.tree("t").unwrap().as_ref()), model.clone());
        drop(engine);
        let reopened = fjall_at(&dir.path().join("live"));
        prop_assert_eq!(all(reopened.tree("t").unwrap().as_ref()), model);
    }
}

#[test]
fn an_engine_on_disk_is_one_process_s_own() {
    let dir = tempfile::tempdir().unwrap();
    let (sled, fjall) = (dir.path().join("sled"), dir.path().join("fjall"));
    let _engines = (sled_at(&sled), fjall_at(&fjall));
    for error in [
        SledEngine::open(&sled, SledOptions::default()).unwrap_err(),
        FjallEngine::open(&fjall, FjallOptions::default()).unwrap_err(),
    ] {
        assert!(error.to_string().starts_with("the engine can't open its database"), "{error}");
    }
}

#[test]
fn a_damaged_database_is_an_error_and_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    let engine = sled_at(&live);
    run(&engine, &[Step::Apply((0..40).map(|number| (number, Some(number))).collect()), Step::Flush]);
    drop(engine);
    let copy = dir.path().join("copy");
    copy_dir(&live, &copy);
    // Its own settings, overwritten: one of the places whose damage it does notice.
    let settings = copy.join("durability_cookie");
    fs::write(settings, [0xff; 64]).unwrap();
    assert!(matches!(SledEngine::open(&copy, SledOptions::default()), Err(crate::Error::Engine { .. })));
}

#[test]
fn damaged_rows_are_an_error_where_sled_would_wait_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    let engine = sled_at(&live);
    run(&engine, &[Step::Apply((0..40).map(|number| (number, Some(number))).collect()), Step::Flush]);
    drop(engine);
    // Whatever holds rows, the names of the trees among them: read while it opens, where an error is a panic.
    for slab in fs::read_dir(live.join("slabs")).unwrap() {
        let path = slab.unwrap().path();
        let rotten: Vec<u8> = fs::read(&path).unwrap().iter().map(|byte| byte ^ 0x10).collect();
        fs::write(&path, rotten).unwrap();
    }
    let error = SledEngine::open(&live, SledOptions::default()).unwrap_err();
    assert!(error.to_string().contains("panicked"), "{error}");
    // It is put aside then, and another one opened in its place.
    fs::rename(&live, dir.path().join("aside")).unwrap();
    sled_at(&live);
}
