// SPDX-License-Identifier: GPL-2.0-only
//! The cache outside the checkout: its place, its keys, its locks.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::FlockOperation;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::{sys, ui};

/// The cache directory: `$XDG_CACHE_HOME/tcp-splice`, usually `~/.cache/tcp-splice`.
///
/// # Errors
/// When neither variable that names it is set, or when it cannot be made.
pub fn dir() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => {
            PathBuf::from(std::env::var_os("HOME").context("failed to find the cache: set HOME")?)
                .join(".cache")
        }
    };
    let dir = base.join("tcp-splice");
    fs::create_dir_all(&dir).with_context(|| format!("failed to create {}", dir.display()))?;
    Ok(dir)
}

/// The directory `name` of the cache, made by `make` if it is not there yet.
///
/// It is made under another name and renamed when finished: an interrupted run leaves no half of it. The
/// caller holds a lock.
///
/// # Errors
/// When it cannot be made.
pub fn made_once(name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let finished = dir()?.join(name);
    if !finished.exists() {
        let unfinished = dir()?.join(format!("{name}.unfinished"));
        remove(&unfinished)?;
        fs::create_dir(&unfinished)
            .with_context(|| format!("failed to create {}", unfinished.display()))?;
        make(&unfinished)?;
        fs::rename(&unfinished, &finished)
            .with_context(|| format!("failed to rename to {}", finished.display()))?;
    }
    Ok(finished)
}

/// Removes a directory that may hold files of root.
///
/// # Errors
/// When it cannot be removed.
pub fn remove(dir: &Path) -> Result<()> {
    if dir.exists() {
        sys::output(sys::privileged("rm").arg("-rf").arg(dir))
            .with_context(|| format!("failed to remove {}", dir.display()))?;
    }
    Ok(())
}

/// A short key of everything that something was made from. The parts' borders count.
pub fn key(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize()
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A directory in the cache that is removed when dropped, or by a later run if this one is killed.
///
/// # Errors
/// When it cannot be made.
pub fn temporary(what: &str) -> Result<TempDir> {
    let cache = dir()?;
    for entry in fs::read_dir(&cache)?.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| owner(name, what));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let prefix = format!("{what}-{}-", std::process::id());
    tempfile::Builder::new()
        .prefix(&prefix)
        .tempdir_in(&cache)
        .with_context(|| format!("failed to create a directory in {}", cache.display()))
}

/// The process that made the temporary directory `name`.
fn owner<'a>(name: &'a str, what: &str) -> Option<&'a str> {
    let (pid, _) = name
        .strip_prefix(what)?
        .strip_prefix('-')?
        .split_once('-')?;
    pid.bytes().all(|byte| byte.is_ascii_digit()).then_some(pid)
}

/// Held while something in the cache is made; given back by dropping it, or by dying.
pub struct Lock(#[allow(dead_code, reason = "an open file is what holds the lock")] File);

/// Takes the lock `name`, waiting for another run if need be.
///
/// # Errors
/// When the lock file cannot be made or locked.
pub fn lock(dir: &Path, name: &str) -> Result<Lock> {
    let path = dir.join(format!("{name}.lock"));
    let file =
        File::create(&path).with_context(|| format!("failed to create {}", path.display()))?;
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        ui::line(format_args!(
            "waiting for another run that uses {name} of the cache"
        ));
        rustix::fs::flock(&file, FlockOperation::LockExclusive)
            .context("failed to lock the cache")?;
    }
    Ok(Lock(file))
}

#[cfg(test)]
mod tests {
    use super::{key, owner};

    #[test]
    fn only_temporary_directories_have_an_owner() {
        assert_eq!(owner("boot-123-AbC", "boot"), Some("123"));
        assert_eq!(owner("build-0123456789ab", "boot"), None);
        assert_eq!(owner("boot-x-AbC", "boot"), None);
        assert_eq!(owner("boot-123", "boot"), None);
    }

    #[test]
    fn key_depends_on_every_part_and_on_their_borders() {
        assert_eq!(key(&["a", "b"]), key(&["a", "b"]));
        assert_ne!(key(&["a", "b"]), key(&["a", "c"]));
        assert_ne!(key(&["ab", ""]), key(&["a", "b"]));
        assert_eq!(key(&["a"]).len(), 12);
    }
}
