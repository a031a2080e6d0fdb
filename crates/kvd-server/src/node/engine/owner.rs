//! Whose the engine's directory is.
//!
//! The note is written before the engine opens the directory, and durably, so that no engine ever meets another's files.
//! A directory without one is of a version that knew sled only, unless it is empty.

use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

use kvd_types::{Error, Result};

use crate::config;

/// The note: whose files these are, in a word.
const NOTE: &str = "ENGINE";
/// What a directory without the note is of.
const FIRST: &str = "sled";

/// The word for an engine's files. One more for each change of what is in them.
const fn word(kind: config::Engine) -> &'static str {
    match kind {
        config::Engine::Sled => "sled 2",
        config::Engine::Fjall => "fjall",
        config::Engine::Memory => "memory",
    }
}

/// Makes the directory an engine's own. What another one has left there is removed: log and checkpoints have it too.
pub(super) fn claim(dir: &Path, kind: config::Engine) -> Result<()> {
    claim_files(dir, kind).map_err(|error| {
        let (dir, word) = (dir.display(), word(kind));
        Error::corruption(format!("{dir} can't be made the directory of {word}: {error}"))
    })
}

fn claim_files(dir: &Path, kind: config::Engine) -> io::Result<()> {
    let replaced = dir.with_extension("replaced");
    remove_if_present(&replaced)?;
    let found = owner(dir)?;
    if found.as_deref() == Some(word(kind)) && dir.join(NOTE).exists() {
        return Ok(());
    }
    if let Some(found) = found.filter(|found| found != word(kind)) {
        tracing::warn!(
            dir = %dir.display(),
            before = found,
            now = word(kind),
            "these files are of another engine than the settings name, or of another version: they are removed, and the state is \
             rebuilt from checkpoints and log"
        );
        // At once, so that a crash leaves nothing that is half of one engine.
        fs::rename(dir, &replaced)?;
        remove_if_present(&replaced)?;
    }
    fs::create_dir_all(dir)?;
    let mut note = fs::File::create(dir.join(NOTE))?;
    note.write_all(word(kind).as_bytes())?;
    note.sync_all()?;
    for dir in [dir, dir.parent().unwrap_or(dir)] {
        fs::File::open(dir)?.sync_all()?;
    }
    Ok(())
}

/// The word of the engine whose files are there, if there are any.
fn owner(dir: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(dir.join(NOTE)) {
        Ok(word) if !word.is_empty() => return Ok(Some(word)),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let files: Vec<PathBuf> = match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // An empty note is of a crash while it was written, and nothing came after it.
    let is_empty = files.iter().all(|file| file.ends_with(NOTE));
    Ok((!is_empty).then(|| FIRST.to_owned()))
}

fn remove_if_present(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
