//! What the files of this crate share: directories whose names are durable, and syncs whose failure is fatal.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{
    disk::{Disk, File},
    error::{Error, Result},
};

/// Makes a directory and those above it, and all their names durable. The names of those that are there already too: a
/// process that was killed may have made them and not synced them.
pub(crate) fn create_dir(disk: &dyn Disk, dir: &Path) -> Result<()> {
    let missing =
        dir.ancestors().filter(|dir| !dir.as_os_str().is_empty() && disk.list(dir).is_err()).count();
    disk.create_dir_all(dir).map_err(Error::io("make the directory", dir))?;
    for (level, parent) in dir.ancestors().skip(1).enumerate() {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        match disk.sync_dir(parent) {
            // Directories far above may be none of ours, and such as can't be synced.
            Err(error) if level >= missing && is_of_others(&error) => {}
            result => result.map_err(Error::fatal("sync the directory", parent))?,
        }
    }
    Ok(())
}

fn is_of_others(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    matches!(error.kind(), InvalidInput | PermissionDenied | ReadOnlyFilesystem | Unsupported)
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(disk: &dyn Disk, dir: &Path) -> Result<()> {
    disk.sync_dir(dir).map_err(Error::fatal("sync the directory", dir))
}

/// Makes a file's content durable.
pub(crate) fn sync_data(file: &dyn File, path: &Path) -> Result<()> {
    file.sync_data().map_err(Error::fatal("sync", path))
}

/// The entries of a directory; `None` if there is no such directory.
pub(crate) fn list_if_present(disk: &dyn Disk, dir: &Path) -> Result<Option<Vec<PathBuf>>> {
    match disk.list(dir) {
        Ok(paths) => Ok(Some(paths)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("list", dir)(error)),
    }
}

/// Removes a file, if it is there.
pub(crate) fn remove_if_present(disk: &dyn Disk, path: &Path) -> Result<()> {
    match disk.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}
