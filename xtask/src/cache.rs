// SPDX-License-Identifier: GPL-2.0-only
//! The cache outside the checkout: its place, its keys, its locks.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::FlockOperation;
use sha2::{Digest, Sha256};

use crate::ui;

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
    use super::key;

    #[test]
    fn key_depends_on_every_part_and_on_their_borders() {
        assert_eq!(key(&["a", "b"]), key(&["a", "b"]));
        assert_ne!(key(&["a", "b"]), key(&["a", "c"]));
        assert_ne!(key(&["ab", ""]), key(&["a", "b"]));
        assert_eq!(key(&["a"]).len(), 12);
    }
}
