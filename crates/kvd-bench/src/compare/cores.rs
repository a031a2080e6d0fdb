//! Cores for the load and cores for what serves it.
//!
//! A load that is more than what serves it can do takes the cores that are needed to serve: what is measured then is how the
//! kernel shares them out. With cores of its own it takes nothing but what it asks for.
//!
//! A thread begins on the cores of the one that starts it, so what there is at the time is moved, and what comes later follows.

use std::{fs, io, process};

use rustix::{
    io::Errno,
    thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity},
};

use super::say;

/// Of so many cores one is for the load.
const CORES_OF_ONE: usize = 4;

/// While it lives this process has cores of its own. Those who serve have theirs until they end.
pub(crate) struct Apart {
    cores_before: CpuSet,
}

impl Apart {
    /// Gives cores to this process, and the others that it may use to those who serve; none, where there is only one.
    ///
    /// # Errors
    /// If one who serves has ended.
    pub(crate) fn from(servers: &[u32]) -> io::Result<Option<Self>> {
        let cores_before = sched_getaffinity(None)?;
        let Some((own, others)) = split(&cores_before) else { return Ok(None) };
        for &server in servers {
            keep_on(server, &others)?;
        }
        let apart = Self { cores_before };
        keep_on(process::id(), &own)?;
        Ok(Some(apart))
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        // Where it can't be undone the figures that follow are those of fewer cores.
        if let Err(error) = keep_on(process::id(), &self.cores_before) {
            say(format_args!("this process keeps to some of its cores: {error}"));
        }
    }
}

/// The last cores, for the load, and all others.
fn split(cores: &CpuSet) -> Option<(CpuSet, CpuSet)> {
    let all: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&core| cores.is_set(core)).collect();
    let of_load = (all.len() / CORES_OF_ONE).max(1);
    let (others, own) = all.split_at_checked(all.len().checked_sub(of_load)?)?;
    let set = |cores: &[usize]| {
        let mut set = CpuSet::new();
        cores.iter().for_each(|&core| set.set(core));
        set
    };
    (!others.is_empty()).then(|| (set(own), set(others)))
}

/// Keeps all threads of a process on some cores.
fn keep_on(process: u32, cores: &CpuSet) -> io::Result<()> {
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let Some(id) = thread?.file_name().to_str().and_then(|id| Pid::from_raw(id.parse().ok()?)) else {
            continue;
        };
        match sched_setaffinity(Some(id), cores) {
            // It has ended meanwhile.
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(cores: &[usize]) -> CpuSet {
        let mut set = CpuSet::new();
        cores.iter().for_each(|&core| set.set(core));
        set
    }

    #[test]
    fn one_core_of_four_is_for_the_load_and_one_at_least() {
        assert_eq!(split(&set(&[3])), None);
        assert_eq!(split(&set(&[0, 5])), Some((set(&[5]), set(&[0]))));
        assert_eq!(split(&set(&[0, 1, 2, 3, 4, 5, 6, 7])), Some((set(&[6, 7]), set(&[0, 1, 2, 3, 4, 5]))));
    }

    #[test]
    fn this_process_has_all_its_cores_again_afterwards() {
        let before = sched_getaffinity(None).unwrap();
        let mut server = process::Command::new("sleep").arg("60").spawn().unwrap();
        if let Some(apart) = Apart::from(&[server.id()]).unwrap() {
            let (own, others) = split(&before).unwrap();
            assert_eq!(sched_getaffinity(None).unwrap(), own);
            let id = Pid::from_raw(server.id().try_into().unwrap());
            assert_eq!(sched_getaffinity(id).unwrap(), others);
            drop(apart);
        }
        server.kill().unwrap();
        server.wait().unwrap();
        assert_eq!(sched_getaffinity(None).unwrap(), before);
    }
}
