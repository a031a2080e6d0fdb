//! Less memory than the machine has, for processes that are to be measured so: a control group of Linux's, of either version.
//!
//! What the page cache holds of their files counts, too, which is what makes the limit like a smaller machine.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use tokio::process::Command;

const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// A control group, which goes when this is dropped; its processes must have ended by then.
#[derive(Debug)]
pub(crate) struct MemoryLimit(PathBuf);

impl MemoryLimit {
    /// # Errors
    /// If the machine has no such groups, or this user may not make any.
    pub(crate) fn new(bytes: u64) -> anyhow::Result<Self> {
        let root = Path::new(CONTROL_GROUPS);
        let (parent, file) = match fs::read_to_string(root.join("cgroup.subtree_control")) {
            Ok(controllers) if controllers.split_whitespace().any(|name| name == "memory") => {
                (root.to_owned(), "memory.max")
            }
            _ => (root.join("memory"), "memory.limit_in_bytes"),
        };
        let group = parent.join(format!("kvd-bench-{}", std::process::id()));
        let made = fs::create_dir(&group).map(|()| Self(group.clone()));
        let told = |group: Self| fs::write(group.0.join(file), bytes.to_string()).map(|()| group);
        made.and_then(told).with_context(|| {
            format!(
                "memory can't be limited: {} can't be made; that needs root and the memory controller",
                group.display()
            )
        })
    }

    /// A command for a program that has no more than that, together with all that it starts.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(self.0.join("cgroup.procs")).arg(program);
        command
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        // It can only be left then.
        if fs::remove_dir(&self.0).is_err() {
            drop(io::Write::write_fmt(
                &mut io::stderr(),
                format_args!("kvd-bench: {} is left\n", self.0.display()),
            ));
        }
    }
}
