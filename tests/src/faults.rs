// SPDX-License-Identifier: GPL-2.0-only
//! The kernel's fault injection: allocations that fail on purpose (Documentation/fault-injection/).

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};

const SLAB: &str = "/sys/kernel/debug/failslab";
const PAGES: &str = "/sys/kernel/debug/fail_page_alloc";

/// True on a kernel that can do it: `xtask/debug.config` asks for it.
pub fn available() -> bool {
    [SLAB, PAGES]
        .into_iter()
        .all(|path| Path::new(path).exists())
}

/// Nothing fails any more, whoever wanted that.
pub fn stop() {
    for (attribute, name, value) in [
        (SLAB, "probability", "0"),
        (PAGES, "probability", "0"),
        (SLAB, "cache-filter", "N"),
        (PAGES, "task-filter", "N"),
        (PAGES, "min-order", "0"),
    ] {
        // Not there on most kernels.
        let _ = fs::write(format!("{attribute}/{name}"), value);
    }
}

fn set(file: &str, value: &str) -> Result<()> {
    fs::write(file, value).with_context(|| format!("failed to write {value} to {file}"))
}

/// Nothing fails by chance, nothing is logged.
fn quiet(attribute: &str) -> Result<()> {
    for (name, value) in [("probability", "0"), ("verbose", "0"), ("task-filter", "N")] {
        set(&format!("{attribute}/{name}"), value)?;
    }
    Ok(())
}

/// One allocation of this thread fails, the `n`th that it makes in a system call. (What interrupts make is not the thread's.)
#[derive(Debug)]
pub struct Nth(File);

impl Nth {
    /// Of all of the kernel's allocations: slabs' objects, and pages but those of user memory.
    pub fn any() -> Result<Self> {
        for (attribute, name, value) in [
            (SLAB, "cache-filter", "N"),
            (SLAB, "ignore-gfp-wait", "N"),
            (PAGES, "ignore-gfp-wait", "N"),
            (PAGES, "ignore-gfp-highmem", "Y"),
            (PAGES, "min-order", "0"),
        ] {
            quiet(attribute)?;
            set(&format!("{attribute}/{name}"), value)?;
        }
        let path = "/proc/thread-self/fail-nth";
        let file = File::options().read(true).write(true).open(path);
        Ok(Self(
            file.with_context(|| format!("failed to open {path}"))?,
        ))
    }

    /// Runs `work` with its `n`th allocation failing; false if it makes fewer.
    pub fn fails<T>(&self, n: u32, work: impl FnOnce() -> T) -> Result<(T, bool)> {
        let number = n.to_string();
        self.0.write_all_at(number.as_bytes(), 0)?;
        let result = work();
        let mut left = [0; 16];
        let length = self.0.read_at(&mut left, 0)?;
        self.0.write_all_at(b"0", 0)?;
        Ok((result, left[..length].starts_with(b"0")))
    }
}

/// One object of one cache cannot be had, whoever asks for it, also in an interrupt. Until this is dropped.
#[derive(Debug)]
pub struct OfCache {
    failslab: String,
}

impl OfCache {
    /// The first after `skipped` others, of the cache of that name.
    pub fn after(cache: &str, skipped: u64) -> Result<Self> {
        let cache = format!("/sys/kernel/slab/{cache}");
        let size = fs::read_to_string(format!("{cache}/object_size"))
            .context("failed to read the size of an object")?;
        let size: u64 = size.trim().parse()?;
        let chosen = Self {
            failslab: format!("{cache}/failslab"),
        };
        quiet(SLAB)?;
        set(&chosen.failslab, "1")?;
        for (name, value) in [
            ("cache-filter", "Y"),
            ("ignore-gfp-wait", "N"),
            ("interval", "1"),
            ("times", "1"),
            // Bytes that are given out before anything fails.
            (
                "space",
                &(skipped * size + u64::from(skipped > 0)).to_string(),
            ),
            ("probability", "100"),
        ] {
            set(&format!("{SLAB}/{name}"), value)?;
        }
        Ok(chosen)
    }

    /// Was there such an object to be had?
    pub fn hit(&self) -> Result<bool> {
        let times = fs::read_to_string(format!("{SLAB}/times"));
        let times = times.context("failed to read how often an allocation may fail")?;
        Ok(times.trim() == "0")
    }
}

/// This thread's allocations may fail as well, where [`AtRandom`] says so.
pub fn may_fail() -> Result<()> {
    set("/proc/thread-self/make-it-fail", "1")
}

/// Objects of some caches cannot be had now and then, whoever asks for them, also in an interrupt; nor can pieces of at least four pages by
/// threads that [`may_fail`]. Until this is dropped.
#[derive(Debug)]
pub struct AtRandom {
    failslab: Vec<String>,
}

impl AtRandom {
    /// Of caches with these names.
    pub fn of(caches: &[&str]) -> Result<Self> {
        let path = |cache: &&str| format!("/sys/kernel/slab/{cache}/failslab");
        let chosen = Self {
            failslab: caches.iter().map(path).collect(),
        };
        for attribute in [SLAB, PAGES] {
            quiet(attribute)?;
            for (name, value) in [
                ("ignore-gfp-wait", "N"),
                ("interval", "1"),
                ("space", "0"),
                ("times", "-1"),
            ] {
                set(&format!("{attribute}/{name}"), value)?;
            }
        }
        for failslab in &chosen.failslab {
            set(failslab, "1")?;
        }
        for (attribute, name, value) in [
            (SLAB, "cache-filter", "Y"),
            (PAGES, "task-filter", "Y"),
            (PAGES, "ignore-gfp-highmem", "Y"),
            (PAGES, "min-order", "2"),
            (SLAB, "probability", "10"),
            (PAGES, "probability", "10"),
        ] {
            set(&format!("{attribute}/{name}"), value)?;
        }
        Ok(chosen)
    }
}

impl Drop for AtRandom {
    fn drop(&mut self) {
        stop();
        for failslab in &self.failslab {
            let _ = fs::write(failslab, "0");
        }
    }
}

impl Drop for OfCache {
    fn drop(&mut self) {
        let off = [("probability", "0"), ("cache-filter", "N"), ("times", "-1")];
        for (name, value) in off {
            let _ = fs::write(format!("{SLAB}/{name}"), value);
        }
        let _ = fs::write(&self.failslab, "0");
    }
}
