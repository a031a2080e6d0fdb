//! What processes have used, as Linux counts it.
//!
//! What was written is told by the disk and not by the processes: those are charged whole folios of the page cache for some
//! bytes in them, a hundred times what reaches the disk.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path};

/// What some processes have used together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    pub(crate) cpu_seconds: f64,
    /// Bytes of memory that are theirs now.
    pub(crate) resident_bytes: u64,
}

impl Usage {
    /// # Errors
    /// If one of them has ended.
    pub(crate) fn of(processes: &[u32]) -> io::Result<Self> {
        let mut all = Self::default();
        for &process in processes {
            let read = |file: &str| fs::read_to_string(format!("/proc/{process}/{file}"));
            all.cpu_seconds += cpu_seconds(&read("stat")?)?;
            all.resident_bytes += field(&read("status")?, "VmRSS:")? * 1024;
        }
        Ok(all)
    }

    /// What was used since an earlier look, but for memory, which is what it is.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self { cpu_seconds: self.cpu_seconds - earlier.cpu_seconds, resident_bytes: self.resident_bytes }
    }
}

/// Bytes that were written to the disk that a directory is on, by whomever; none, where that isn't known.
pub(crate) fn written_to_disk_of(dir: &Path) -> Option<u64> {
    const SECTOR_BYTES: u64 = 512;
    const SECTORS_WRITTEN: usize = 6;
    let device = fs::metadata(dir).ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    Some(stat.split_whitespace().nth(SECTORS_WRITTEN)?.parse::<u64>().ok()? * SECTOR_BYTES)
}

/// The processes that a process has started.
pub(crate) fn children(process: u32) -> io::Result<Vec<u32>> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(id) = entry?.file_name().to_string_lossy().parse() else { continue };
        // One that has ended meanwhile is nobody's child.
        let Ok(stat) = fs::read_to_string(format!("/proc/{id}/stat")) else { continue };
        if number(&stat, PARENT)? == u64::from(process) {
            children.push(id);
        }
    }
    Ok(children)
}

/// The words that a process was started with.
pub(crate) fn command_line(process: u32) -> io::Result<Vec<String>> {
    let words = fs::read(format!("/proc/{process}/cmdline"))?;
    Ok(words.split(|&byte| byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect())
}

/// Places in a `stat` file after the name of the program, as in `proc(5)`, less the three that stand before.
const PARENT: usize = 1;
const USER_TICKS: usize = 11;
const SYSTEM_TICKS: usize = 12;

#[expect(clippy::cast_precision_loss, reason = "figures for people: 53 bits are enough")]
fn cpu_seconds(stat: &str) -> io::Result<f64> {
    let ticks = number(stat, USER_TICKS)? + number(stat, SYSTEM_TICKS)?;
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn number(stat: &str, place: usize) -> io::Result<u64> {
    // The name is in parentheses, and may have blanks and parentheses in it.
    let after_name = stat.rsplit_once(')').map(|(_, rest)| rest);
    let found = after_name.and_then(|rest| rest.split_whitespace().nth(place)?.parse().ok());
    found.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a stat file of /proc is not understood"))
}

fn field(file: &str, name: &str) -> io::Result<u64> {
    let line = file.lines().find_map(|line| line.strip_prefix(name));
    let found = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    found.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc tells no {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_file_is_read_whatever_the_program_is_called() {
        let stat = "7 (a) b (c) S 3 7 7 0 -1 4194560 20 0 0 0 250 50 0 0 20 0 1 0 9 9 9";
        assert_eq!(number(stat, PARENT).unwrap(), 3);
        assert_eq!((number(stat, USER_TICKS).unwrap(), number(stat, SYSTEM_TICKS).unwrap()), (250, 50));
        number("nonsense", PARENT).unwrap_err();
    }

    #[test]
    fn this_process_has_used_something() {
        let used = Usage::of(&[std::process::id()]).unwrap();
        assert!(used.resident_bytes > 0 && used.cpu_seconds >= 0.0);
        Usage::of(&[u32::MAX]).unwrap_err();
    }

    #[test]
    fn this_process_was_started_with_its_name() {
        let words = command_line(std::process::id()).unwrap();
        assert!(words.first().is_some_and(|name| name.contains("kvd_bench")), "{words:?}");
    }
}
