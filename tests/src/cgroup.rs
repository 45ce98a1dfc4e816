// SPDX-License-Identifier: GPL-2.0-only
//! A cgroup for one test, which the test's process enters and leaves.

use std::fs::{self, File};
use std::io::Write;

use anyhow::{Context, Result};
use tcp_splice_world::policy::ROOT_CGROUP;

/// The process goes back to the root when this is dropped.
///
/// What a process has stays charged where it was when it got it. Both ways in and out are open before, so that to leave needs no memory
/// of the cgroup.
#[derive(Debug)]
pub struct Cgroup {
    path: String,
    inside: File,
    outside: File,
}

impl Cgroup {
    /// A new, empty one.
    pub fn new(name: &str) -> Result<Self> {
        let path = format!("{ROOT_CGROUP}/tcp-splice-{name}");
        fs::create_dir_all(&path).context("failed to make a cgroup")?;
        Ok(Self {
            inside: processes(&path)?,
            outside: processes(ROOT_CGROUP)?,
            path,
        })
    }

    /// A new, empty one with a limit of its own, in bytes or "max".
    pub fn with_memory(name: &str, max: &str) -> Result<Self> {
        fs::write(format!("{ROOT_CGROUP}/cgroup.subtree_control"), "+memory")
            .context("failed to have memory counted by cgroup")?;
        // Of its own also in what it has counted so far.
        let cgroup = Self::new(&format!("{name}-{}", std::process::id()))?;
        fs::write(cgroup.file("memory.max"), max).context("failed to set memory.max")?;
        Ok(cgroup)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &str {
        &self.path
    }

    fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }

    /// The process goes inside.
    pub fn enter(&self) -> Result<()> {
        move_to(&self.inside, 0)
    }

    /// The process goes back to the root.
    pub fn leave(&self) -> Result<()> {
        move_to(&self.outside, 0)
    }

    /// Has the kernel take back what it has charged to the cgroup in advance, for objects to come.
    ///
    /// Each processor has a stock of such bytes, which memory.high empties into the cgroup's own; whoever begins a new stock takes that and
    /// gives back the whole pages in it. On PREEMPT_RT it grows to megabytes: whoever finds the processor's stock locked, by a thread that was preempted
    /// meanwhile, charges a page for each object and leaves the rest there (`__refill_obj_stock()`).
    pub fn take_back_stock(&self) -> Result<()> {
        for limit in ["0", "max"] {
            fs::write(self.file("memory.high"), limit).context("failed to set memory.high")?;
        }
        // An open file is such an object.
        self.within(|| File::open("/dev/null"))??;
        Ok(())
    }

    /// The processes inside.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let text = fs::read_to_string(self.file("cgroup.procs"))?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Runs `work` with the process inside.
    pub fn within<T>(&self, work: impl FnOnce() -> T) -> Result<T> {
        self.enter()?;
        let result = work();
        self.leave()?;
        Ok(result)
    }

    /// Bytes charged to it.
    pub fn memory(&self) -> Result<u64> {
        let text = fs::read_to_string(self.file("memory.current"))?;
        text.trim()
            .parse()
            .context("failed to parse memory.current")
    }

    /// How often `event` of memory.events has happened.
    pub fn events(&self, event: &str) -> Result<u64> {
        self.value("memory.events", event)
    }

    /// How many bytes of a kind memory.stat counts.
    pub fn stat(&self, kind: &str) -> Result<u64> {
        self.value("memory.stat", kind)
    }

    fn value(&self, file: &str, wanted: &str) -> Result<u64> {
        let text = fs::read_to_string(self.file(file))?;
        let value = text.lines().find_map(|line| {
            let (name, value) = line.split_once(' ')?;
            (name == wanted).then(|| value.parse().ok())?
        });
        value.with_context(|| format!("failed to find {wanted} in {file}"))
    }

    /// Any process goes inside.
    pub fn take(&self, process: i32) -> Result<()> {
        move_to(&self.inside, process)
    }

    /// Any process goes to the root.
    pub fn give_back(&self, process: i32) -> Result<()> {
        move_to(&self.outside, process)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = self.leave();
        let _ = fs::remove_dir(&self.path);
    }
}

fn processes(cgroup: &str) -> Result<File> {
    let path = format!("{cgroup}/cgroup.procs");
    let file = File::options().write(true).open(&path);
    file.with_context(|| format!("failed to open {path}"))
}

/// 0 stands for the process that writes.
fn move_to(mut processes: &File, process: i32) -> Result<()> {
    processes
        .write_all(process.to_string().as_bytes())
        .context("failed to enter a cgroup")
}
