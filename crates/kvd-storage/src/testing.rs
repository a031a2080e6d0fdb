//! What several modules' tests need.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

/// How often a directory may change while it is copied.
const ATTEMPTS_MAX: usize = 1000;

/// Copies a directory as it lay there at one moment, as a kill would leave it. An engine may remove files meanwhile; then it
/// is copied again.
pub(crate) fn copy_dir(from: &Path, to: &Path) {
    for _ in 0..ATTEMPTS_MAX {
        match copy_still(from, to) {
            Ok(true) => return,
            Err(error) if error.kind() != io::ErrorKind::NotFound => panic!("{}: {error}", from.display()),
            Ok(false) | Err(_) => fs::remove_dir_all(to).unwrap(),
        }
    }
    panic!("{} always changes while it is copied", from.display());
}

/// Copies a directory and says whether it was the same all the while.
fn copy_still(from: &Path, to: &Path) -> io::Result<bool> {
    fs::create_dir_all(to)?;
    let before = sizes(from)?;
    for (path, size) in &before {
        let target = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap())?;
        if size.is_none() {
            fs::create_dir_all(target)?;
        } else {
            fs::copy(path, target)?;
        }
    }
    Ok(sizes(from)? == before)
}

/// All that is below a directory; the sizes of files.
fn sizes(dir: &Path) -> io::Result<BTreeMap<PathBuf, Option<u64>>> {
    let mut sizes = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let (path, metadata) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
        if metadata.is_dir() {
            sizes.extend(self::sizes(&path)?);
        }
        sizes.insert(path, metadata.is_file().then_some(metadata.len()));
    }
    Ok(sizes)
}
