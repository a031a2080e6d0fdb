//! What a power cut leaves of the journal, how rows go from memory to files, and what damage does.

use std::{collections::BTreeMap, io::Write as _, os::unix::fs::FileExt as _};

use proptest::prelude::*;

use super::*;
use crate::testing::copy_dir;

type Model = BTreeMap<Bytes, Bytes>;

fn open(dir: &Path) -> FjallEngine {
    FjallEngine::open(dir, FjallOptions::default()).unwrap()
}

/// So small that nearly every batch has something sealed.
fn open_small(dir: &Path) -> FjallEngine {
    FjallEngine::open_with(dir, FjallOptions::default(), 4 << 10, 32 << 10).unwrap()
}

fn all(tree: &dyn Tree) -> Model {
    tree.scan(Bound::Unbounded, Bound::Unbounded, Direction::Ascending).map(Result::unwrap).collect()
}

/// The batch of a round changes a few rows of one of two trees, and says in a row of its own which it is.
fn round_batch(round: u32) -> Batch {
    let mut batch = Batch::default();
    batch.put(Bytes::from("round"), Bytes::copy_from_slice(&round.to_be_bytes()));
    for number in 0..8 {
        let key = Bytes::from(format!("key-{:02}", (round * 7 + number * 5) % 40));
        match (round + number) % 4 {
            0 => batch.delete(key),
            _ => batch.put(key, Bytes::from(vec![u8::try_from(round % 251).unwrap(); 50])),
        }
    }
    batch
}

fn tree_of(engine: &dyn Engine, round: u32) -> Arc<dyn Tree> {
    engine.tree(if round.is_multiple_of(3) { "rare" } else { "frequent" }).unwrap()
}

fn apply_rounds(engine: &dyn Engine, rounds: std::ops::Range<u32>) {
    for round in rounds {
        tree_of(engine, round).apply(round_batch(round)).unwrap();
    }
}

/// What both trees hold.
fn content(engine: &dyn Engine) -> [Model; 2] {
    ["rare", "frequent"].map(|name| all(engine.tree(name).unwrap().as_ref()))
}

/// What both trees hold after so many rounds.
fn content_after(rounds: u32) -> [Model; 2] {
    let engine = crate::engine::MemoryEngine::new();
    apply_rounds(&engine, 0..rounds);
    content(&engine)
}

fn journals(dir: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "jnl")).collect()
}

/// How much of the one journal has been written: the rest is zeros, laid out in advance.
fn written_bytes(dir: &Path) -> u64 {
    let journals = journals(dir);
    assert_eq!(journals.len(), 1, "so little fits into one");
    let content = fs::read(&journals[0]).unwrap();
    content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1)
}

/// Waits until the worker has written all that was sealed, so that nothing changes under a copy.
fn settle(engine: &FjallEngine) {
    if let Some(sealed) = &engine.shared.writer.lock().sealed {
        engine.shared.wait_until(|| sealed.sealed_memtable_count() == 0).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// What was not synced is lost from some byte on, or a page of it within, or is rubbish.
    #[test]
    fn a_power_cut_leaves_a_prefix_of_all_batches(
        flushed in 0..30_u32,
        unflushed in 0..30_u32,
        place in 0.0..1.0_f64,
        rot in prop_oneof![Just(None), any::<u8>().prop_map(Some)],
        hole in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (live, cut) = (dir.path().join("live"), dir.path().join("cut"));
        let engine = open(&live);
        apply_rounds(&engine, 0..flushed);
        content(&engine);
        engine.flush().unwrap();
        let synced = written_bytes(&live);
        apply_rounds(&engine, flushed..flushed + unflushed);
        copy_dir(&live, &cut);

        let end = written_bytes(&cut);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place between two others")]
        let from = synced + ((end - synced) as f64 * place) as u64;
        let to = if hole { end.min(from + 512) } else { end };
        let lost = vec![rot.unwrap_or(0); usize::try_from(to - from).unwrap()];
        let journal = fs::OpenOptions::new().write(true).open(&journals(&cut)[0]).unwrap();
        journal.write_all_at(&lost, from).unwrap();

        match FjallEngine::open(&cut, FjallOptions::default()) {
            Ok(survivor) => {
                let found = content(&survivor);
                let rounds = (flushed..=flushed + unflushed).find(|rounds| content_after(*rounds) == found);
                prop_assert!(rounds.is_some(), "no prefix: {found:?}");
                // And it goes on from there.
                let rounds = rounds.unwrap();
                apply_rounds(&survivor, rounds..rounds + 5);
                drop(survivor);
                prop_assert_eq!(content(&open(&cut)), content_after(rounds + 5));
            }
            // What was lost is within a batch whose end is there: it is rebuilt.
            Err(error) => prop_assert!(from < to && matches!(error, Error::Engine { .. }), "{error}"),
        }
    }
}

#[test]
fn rows_go_to_files_and_journals_with_them() {
    let dir = tempfile::tempdir().unwrap();
    let (live, killed) = (dir.path().join("live"), dir.path().join("killed"));
    let engine = open_small(&live);
    for rounds in [0..200, 200..201, 201..400] {
        let end = rounds.end;
        apply_rounds(&engine, rounds);
        assert_eq!(content(&engine), content_after(end));
        settle(&engine);
        let files = ["rare", "frequent"].map(|name| engine.shared.keyspace(name).unwrap().disk_space() > 0);
        assert_eq!(files, [true; 2], "both were sealed, the one for its size and the other for its age");
        fs::remove_dir_all(&killed).ok();
        copy_dir(&live, &killed);
        assert_eq!(content(&open_small(&killed)), content_after(end));
    }
    // Reopened, what is replayed counts again.
    drop(engine);
    let engine = open_small(&live);
    apply_rounds(&engine, 400..500);
    assert_eq!(content(&engine), content_after(500));
}

#[test]
fn a_cleared_tree_stays_so_and_takes_rows_again() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    let engine = open_small(&live);
    apply_rounds(&engine, 0..100);
    let tree = engine.tree("frequent").unwrap();
    let mut scan = tree.scan(Bound::Unbounded, Bound::Unbounded, Direction::Ascending);
    let first = scan.next().unwrap().unwrap();
    tree.clear().unwrap();
    tree.clear().unwrap();
    assert_eq!(all(tree.as_ref()), Model::new());
    let rest: Model = scan.map(Result::unwrap).chain([first]).collect();
    assert_eq!(rest, content_after(100)[1], "a scan that had begun ends as it began");
    settle(&engine);
    copy_dir(&live, &dir.path().join("killed"));
    let survivor = open_small(&dir.path().join("killed"));
    assert_eq!(content(&survivor), [content_after(100)[0].clone(), Model::new()]);
    assert_eq!(survivor.tree_names().unwrap(), ["frequent", "rare"]);

    tree.apply(round_batch(1)).unwrap();
    engine.flush().unwrap();
    drop((engine, tree));
    let reopened = all(open_small(&live).tree("frequent").unwrap().as_ref());
    assert_eq!(reopened.get(&Bytes::from("round")), Some(&Bytes::copy_from_slice(&1_u32.to_be_bytes())));
}

/// A checkpoint takes minutes, and as much may be written meanwhile as the node has memory.
#[test]
fn what_is_written_while_a_scan_is_under_way_does_not_stay_in_memory_until_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open_small(dir.path());
    apply_rounds(&engine, 0..100);
    let tree = engine.tree("frequent").unwrap();
    let mut scan = tree.snapshot().unwrap();
    let first = scan.next().unwrap().unwrap();
    apply_rounds(&engine, 100..1000);
    settle(&engine);
    for name in ["frequent", "rare"] {
        let bytes = engine.shared.keyspace(name).unwrap().tree.version_memtable_size_sum();
        assert!(bytes < 64 << 10, "{bytes} bytes of the rows of {name} are in memory");
    }
    let rest: Model = scan.map(Result::unwrap).chain([first]).collect();
    assert_eq!(rest, content_after(100)[1], "it shows what was there when it began");
    assert_eq!(content(&engine), content_after(1000));
}

#[test]
fn after_a_failure_nothing_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let tree = engine.tree("t").unwrap();
    let error = engine.shared.fail("flush", fjall::Error::Poisoned);
    assert!(error.is_fatal() && error.to_string().contains("its worker failed"), "{error}");
    assert!(tree.apply(Batch::default()).is_err_and(|error| error.is_fatal()));
    assert!(tree.clear().is_err_and(|error| error.is_fatal()));
    assert!(engine.flush().is_err_and(|error| error.is_fatal()));
}

#[test]
fn what_it_can_t_take_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    assert!(matches!(engine.tree(""), Err(Error::Misuse(_))));
    assert!(matches!(engine.tree(&"n".repeat(256)), Err(Error::Misuse(_))));
    let tree = engine.tree("t").unwrap();
    for (bytes, fits) in [(KEY_BYTES_MAX, true), (KEY_BYTES_MAX + 1, false)] {
        let mut batch = Batch::default();
        batch.put(Bytes::from(vec![7; bytes]), Bytes::from("value"));
        assert_eq!(tree.apply(batch).is_ok(), fits, "a key of {bytes} bytes");
    }
    assert_eq!(all(tree.as_ref()).len(), 1);
}

/// Every file of a database, each of them damaged in turn.
#[test]
fn damage_is_an_error_and_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    let engine = open_small(&live);
    apply_rounds(&engine, 0..100);
    engine.flush().unwrap();
    settle(&engine);
    drop(engine);
    let mut files = Vec::new();
    let mut dirs = vec![live.clone()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { dirs.push(path) } else { files.push(path) }
        }
    }
    let expected = content_after(100);
    let mut noticed = 0;
    for file in files {
        let copy = dir.path().join("copy");
        copy_dir(&live, &copy);
        let damaged = copy.join(file.strip_prefix(&live).unwrap());
        let rotten: Vec<u8> = fs::read(&file).unwrap().iter().map(|byte| byte ^ 0x10).collect();
        fs::File::create(damaged).unwrap().write_all(&rotten).unwrap();
        match FjallEngine::open(&copy, FjallOptions::default()) {
            Err(error) => {
                assert!(matches!(error, Error::Engine { .. }), "{error}");
                noticed += 1;
            }
            Ok(engine) => {
                for (name, model) in ["rare", "frequent"].into_iter().zip(&expected) {
                    let tree = engine.tree(name).unwrap();
                    let rows = tree.scan(Bound::Unbounded, Bound::Unbounded, Direction::Ascending);
                    let rows = rows.collect::<Result<Model>>();
                    // A journal that is damaged ends there.
                    let is_journal = file.extension().is_some_and(|extension| extension == "jnl");
                    assert!(rows.is_err() || is_journal || rows.unwrap() == *model, "{}", file.display());
                }
            }
        }
        fs::remove_dir_all(copy).unwrap();
    }
    assert!(noticed > 1, "{noticed}");
}
