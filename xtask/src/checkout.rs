// SPDX-License-Identifier: GPL-2.0-only
//! The checkout: where it is, and copying its sources to where they are built.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::sys;

/// The top of the checkout.
pub fn dir() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Makes `target` hold the checkout's sources (what git knows, or would not ignore) as they are now.
///
/// Files that did not change keep their time stamps, so that the next build there is a quick one. Others get the time of now: the checkout's
/// would be older than what is built from the file's earlier state, were it changed during that build. The names of the files copied are
/// kept in `list`, to remove those that are gone from the checkout later.
///
/// # Errors
/// When git does not answer or a file cannot be copied.
pub fn copy_to(target: &Path, list: &Path) -> Result<()> {
    let checkout = dir();
    let names = sources(&checkout)?;
    let before = fs::read_to_string(list).unwrap_or_default();
    for gone in before
        .split('\0')
        .filter(|name| !name.is_empty() && !names.contains(*name))
    {
        let _ = fs::remove_file(target.join(gone));
    }
    fs::write(
        list,
        names
            .iter()
            .map(|name| format!("{name}\0"))
            .collect::<String>(),
    )?;
    for name in &names {
        copy(&checkout.join(name), &target.join(name))
            .with_context(|| format!("failed to copy {name} to {}", target.display()))?;
    }
    Ok(())
}

fn sources(checkout: &Path) -> Result<BTreeSet<String>> {
    let mut git = Command::new("git");
    git.arg("-C").arg(checkout).args(["-c", "safe.directory=*"]);
    git.args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]);
    let listing =
        sys::output(&mut git).context("failed to list the sources: this needs a git checkout")?;
    let exists = |name: &&str| {
        checkout
            .join(name)
            .symlink_metadata()
            .is_ok_and(|meta| !meta.is_dir())
    };
    Ok(listing
        .split('\0')
        .filter(|name| !name.is_empty())
        .filter(exists)
        .map(str::to_owned)
        .collect())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Ok(old) = to.metadata() {
        if old.permissions() == from.metadata()?.permissions() && fs::read(to)? == fs::read(from)? {
            return Ok(());
        }
        fs::remove_file(to)?;
    }
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::copy(from, to)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn copies_follow_the_checkout() -> Result<()> {
        let temp = tempfile::tempdir()?;
        let (target, list) = (temp.path().join("src"), temp.path().join("list"));
        fs::create_dir(&target)?;
        fs::write(target.join("gone.rs"), "old")?;
        fs::write(target.join("built.o"), "made there")?;
        fs::write(&list, "gone.rs\0")?;
        copy_to(&target, &list)?;
        assert!(!target.join("gone.rs").exists());
        assert!(target.join("built.o").exists());
        assert_eq!(
            fs::read(target.join("xtask/Cargo.toml"))?,
            fs::read(dir().join("xtask/Cargo.toml"))?
        );
        Ok(())
    }

    #[test]
    fn what_changed_is_newer_than_what_was_built() -> Result<()> {
        let temp = tempfile::tempdir()?;
        let (from, to) = (temp.path().join("from"), temp.path().join("to"));
        let set = |path: &Path, time| {
            fs::File::options()
                .write(true)
                .open(path)?
                .set_modified(time)
        };
        let built = SystemTime::now() - Duration::from_secs(60);
        fs::write(&from, "old")?;
        copy(&from, &to)?;
        set(&to, built)?;
        copy(&from, &to)?;
        assert_eq!(to.metadata()?.modified()?, built, "nothing has changed");
        fs::write(&from, "new")?;
        set(&from, built)?;
        copy(&from, &to)?;
        assert_eq!(fs::read(&to)?, b"new");
        assert!(to.metadata()?.modified()? > built);
        Ok(())
    }
}
