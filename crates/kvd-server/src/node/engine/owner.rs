//! Whose the engine's directory is.
//!
//! The note is written before the engine opens the directory, and durably, so that no engine ever meets another's files.
//! A directory without one is of a version that knew sled only, unless it is empty. A note that nobody has written, as its
//! bits have flipped or can't be read any more, is one of another engine: the files beside it are as likely to be damaged.

use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

use kvd_types::{Error, Result};
use rustix::io::Errno;

use crate::config;

/// The note: whose files these are, in a word.
const NOTE: &str = "ENGINE";
/// What a directory without the note is of.
const FIRST: &str = "sled";
/// What a note says that can't be read.
const UNREADABLE: &str = "nobody knows whom";

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
            "these files are of another engine than the settings name, or of another version, or damaged: they are removed, and \
             the state is rebuilt from checkpoints and log"
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
    match fs::read(dir.join(NOTE)) {
        Ok(word) if !word.is_empty() => return Ok(Some(String::from_utf8_lossy(&word).into_owned())),
        Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => {
            return Ok(Some(UNREADABLE.to_owned()));
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Engine;

    #[test]
    fn a_directory_is_its_engine_s_and_what_another_left_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        let (dir, note, rows) = {
            let dir = parent.path().join("state");
            (dir.clone(), dir.join(NOTE), dir.join("rows"))
        };
        claim(&dir, Engine::Sled).unwrap();
        fs::write(&rows, "of sled").unwrap();
        claim(&dir, Engine::Sled).unwrap();
        assert!(rows.exists());
        claim(&dir, Engine::Fjall).unwrap();
        assert_eq!((rows.exists(), fs::read_to_string(&note).unwrap().as_str()), (false, "fjall"));
    }

    #[test]
    fn files_beside_a_note_whose_bits_have_flipped_are_removed() {
        for at in 0..word(Engine::Sled).len() {
            for bit in 0..8 {
                let parent = tempfile::tempdir().unwrap();
                let dir = parent.path().join("state");
                claim(&dir, Engine::Sled).unwrap();
                let (note, rows) = (dir.join(NOTE), dir.join("rows"));
                fs::write(&rows, "of sled").unwrap();
                let mut flipped = fs::read(&note).unwrap();
                flipped[at] ^= 1 << bit;
                fs::write(&note, flipped).unwrap();
                claim(&dir, Engine::Sled).unwrap();
                assert!(!rows.exists(), "bit {bit} of byte {at}");
                assert_eq!(fs::read_to_string(&note).unwrap(), word(Engine::Sled));
            }
        }
    }
}
