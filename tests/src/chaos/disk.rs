//! A machine's disk: a small file system in a file, which can be filled, frozen and cut off power.
//!
//! # Power cuts
//! The shutdown of ext4 fails everything at once, from one moment on, and writes nothing more: neither data nor journal.
//! After unmounting and mounting again, what was not synced is gone, as after a power cut. The request is the one
//! that XFS invented, so that `xfs_io` can make it, and no line of unsafe code is needed here.
//!
//! # Invariants
//! The image is mounted once or not at all: a second mount of the same file would destroy what is in it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::command::{attempt, line};

/// What a disk holds. Sparse: the host's disk holds what was written.
const SIZE: &str = "512M";
/// A dead process leaves its files some time after its end.
const UNMOUNT_TRIES: u32 = 100;
const UNMOUNT_PAUSE: Duration = Duration::from_millis(100);
/// Too little for anybody to write anything.
const FULL_BYTES: u64 = 4096;

/// A disk.
#[derive(Debug)]
pub(crate) struct Disk {
    image: PathBuf,
    mount_point: PathBuf,
}

impl Disk {
    /// Makes an empty one below a directory and mounts it.
    pub(crate) async fn make(dir: &Path, name: &str) -> Result<Self> {
        let disk = Self { image: dir.join(format!("{name}.img")), mount_point: dir.join("disks").join(name) };
        fs::create_dir_all(&disk.mount_point)?;
        disk.format().await?;
        disk.mount().await?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.mount_point
    }

    async fn format(&self) -> Result<()> {
        let image = self.image.display();
        attempt(&format!("rm {image}")).await;
        line(&format!("truncate -s {SIZE} {image}")).await?;
        line(&format!("mkfs.ext4 -q -F -m 0 {image}")).await.map(drop)
    }

    async fn mount(&self) -> Result<()> {
        line(&format!("mount -o loop {} {}", self.image.display(), self.mount_point.display()))
            .await
            .map(drop)
    }

    async fn unmount(&self) -> Result<()> {
        let command = format!("umount {}", self.mount_point.display());
        for _ in 0..UNMOUNT_TRIES {
            if attempt(&command).await {
                return Ok(());
            }
            tokio::time::sleep(UNMOUNT_PAUSE).await;
        }
        line(&command).await.map(drop)
    }

    /// Cuts its power: from now on everything fails.
    pub(crate) async fn cut_power(&self) -> Result<()> {
        line(&format!("xfs_io -x -c shutdown {}", self.mount_point.display())).await.map(drop)
    }

    /// Brings it back after a power cut, with what had been synced. Nobody may have a file open.
    pub(crate) async fn power_on(&self) -> Result<()> {
        self.unmount().await?;
        self.mount().await
    }

    /// Puts an empty one in its place. Nobody may have a file open.
    pub(crate) async fn replace(&self) -> Result<()> {
        self.unmount().await?;
        self.format().await?;
        self.mount().await
    }

    /// Lets every write wait.
    pub(crate) async fn freeze(&self) -> Result<()> {
        line(&format!("fsfreeze -f {}", self.mount_point.display())).await.map(drop)
    }

    /// Lets writes go on.
    pub(crate) async fn thaw(&self) -> Result<()> {
        line(&format!("fsfreeze -u {}", self.mount_point.display())).await.map(drop)
    }

    /// Fills it to the brim.
    pub(crate) async fn fill(&self) -> Result<()> {
        let mut part = 0;
        let mut bytes = self.free_bytes()?;
        // What is free can't be had in one piece: ever smaller ones follow.
        while bytes >= FULL_BYTES {
            let file = self.filler(part);
            if attempt(&format!("fallocate -l {bytes} {}", file.display())).await {
                part += 1;
                bytes = bytes.min(self.free_bytes()?);
            } else {
                fs::remove_file(&file).or_else(not_there).context("a filler that failed")?;
                bytes /= 2;
            }
        }
        Ok(())
    }

    /// Frees what was filled.
    pub(crate) fn free(&self) -> Result<()> {
        for part in 0.. {
            let file = self.filler(part);
            if !file.exists() {
                break;
            }
            fs::remove_file(file)?;
        }
        Ok(())
    }

    fn filler(&self, part: u32) -> PathBuf {
        self.mount_point.join(format!("filler-{part}"))
    }

    /// What can still be written.
    pub(crate) fn free_bytes(&self) -> Result<u64> {
        let stat = rustix::fs::statvfs(&self.mount_point)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

fn not_there(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// Makes a directory whose mounts, and their ends, are seen in the mount namespaces that the nodes start in. Without
/// that, one node would keep the others' disks mounted.
pub(crate) async fn share(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir)?;
    line(&format!("mount --bind {0} {0}", dir.display())).await?;
    line(&format!("mount --make-shared {}", dir.display())).await.map(drop)
}

/// Unmounts everything at and below a directory, whatever state it is in.
pub(crate) async fn unmount_all(dir: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mut below: Vec<&str> = mounts
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1))
        .filter(|mount_point| Path::new(mount_point).starts_with(dir))
        .collect();
    // The innermost first, and of those at one place the latest.
    below.reverse();
    for mount_point in below {
        attempt(&format!("fsfreeze -u {mount_point}")).await;
        for _ in 0..UNMOUNT_TRIES {
            if attempt(&format!("umount {mount_point}")).await {
                break;
            }
            tokio::time::sleep(UNMOUNT_PAUSE).await;
        }
    }
    Ok(())
}
