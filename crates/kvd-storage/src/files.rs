//! What the files of this crate share: directories whose names are durable, and syncs whose failure is fatal.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{
    disk::{Disk, File},
    error::{Error, Result},
};

/// Makes a directory and those above it, and the names of all that were missing durable.
pub(crate) fn create_dir(disk: &dyn Disk, dir: &Path) -> Result<()> {
    let missing = dir.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && disk.list(dir).is_err());
    let missing = missing.map(Path::to_owned).collect::<Vec<_>>();
    disk.create_dir_all(dir).map_err(Error::io("make the directory", dir))?;
    for parent in missing.iter().filter_map(|dir| dir.parent()) {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        sync_dir(disk, parent)?;
    }
    Ok(())
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
