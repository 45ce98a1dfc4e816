// SPDX-License-Identifier: GPL-2.0-only
//! Directories of the cgroup v2 file system.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{Mode, OFlags, StatFs};

use crate::fault::Fault;

const CGROUP2_SUPER_MAGIC: i64 = 0x63677270;

/// An open directory of the cgroup v2 file system.
#[derive(Debug)]
pub struct Dir {
    file: File,
    id: u64,
}

impl Dir {
    /// Opens `path` and makes sure that it is what it should be.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from);
        let file = match opened {
            Ok(fd) => File::from(fd),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Fault::NoCgroup(path.into()).into());
            }
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return Err(Fault::NotDirectory(path.into()).into());
            }
            Err(error) => {
                return Err(error).with_context(|| format!("failed to open {}", path.display()));
            }
        };
        if !is_cgroup2(rustix::fs::fstatfs(&file)) {
            let mounted = mounts().into_iter().next();
            return Err(Fault::NotCgroup2 {
                path: path.into(),
                mounted,
            }
            .into());
        }
        let id = file
            .metadata()
            .with_context(|| format!("failed to examine {}", path.display()))?
            .ino();
        Ok(Self { file, id })
    }

    /// The kernel's number for this cgroup, which is its inode number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// For handing it to the kernel.
    pub fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// The directory of the cgroup with this number, if it can be seen from here.
pub fn path_of(id: u64) -> Option<PathBuf> {
    mounts().iter().find_map(|mount| find(mount, id))
}

/// Where cgroup v2 is mounted and not covered by another mount.
fn mounts() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    cgroup2_mounts(&mounts)
        .filter(|path| is_cgroup2(rustix::fs::statfs(path)))
        .collect()
}

fn is_cgroup2(fs: rustix::io::Result<StatFs>) -> bool {
    fs.is_ok_and(|fs| fs.f_type == CGROUP2_SUPER_MAGIC)
}

/// Looks through the tree breadth first: policies are attached near its root.
fn find(root: &Path, id: u64) -> Option<PathBuf> {
    if fs::metadata(root).ok()?.ino() == id {
        return Some(root.to_owned());
    }
    let mut level = vec![root.to_owned()];
    while !level.is_empty() {
        let entries = level
            .iter()
            .filter_map(|dir| fs::read_dir(dir).ok())
            .flatten();
        let dirs = entries
            .filter_map(Result::ok)
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let mut below = Vec::new();
        for entry in dirs {
            if entry.ino() == id {
                return Some(entry.path());
            }
            below.push(entry.path());
        }
        level = below;
    }
    None
}

/// Mount points in a `mountinfo` file (proc_pid_mountinfo(5)); names with spaces, which it escapes, are left out.
fn cgroup2_mounts(mountinfo: &str) -> impl Iterator<Item = PathBuf> {
    mountinfo.lines().filter_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?;
        (kind.split(' ').next() == Some("cgroup2") && !point.contains('\\')).then(|| point.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_type() {
        let text = "\
24 30 0:22 / /proc rw,nosuid shared:12 - proc proc rw
31 24 0:27 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
32 24 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
33 24 0:27 /x /run/other rw shared:1 master:2 - cgroup2 none rw
short line
";
        let mounts: Vec<_> = cgroup2_mounts(text).collect();
        assert_eq!(
            mounts,
            [Path::new("/sys/fs/cgroup"), Path::new("/run/other")]
        );
    }

    #[test]
    fn directories_are_found_by_number() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let deep = root.join("a/b");
        fs::create_dir_all(&deep).unwrap();
        let number = fs::metadata(&deep).unwrap().ino();
        assert_eq!(find(root, number), Some(deep));
        let number = fs::metadata(root).unwrap().ino();
        assert_eq!(find(root, number), Some(root.to_owned()));
        assert_eq!(find(root, 0), None);
    }

    #[test]
    fn other_paths_are_refused() {
        for (path, want) in [
            ("/nonexistent", Fault::NoCgroup("/nonexistent".into())),
            ("/proc/version", Fault::NotDirectory("/proc/version".into())),
        ] {
            let error = Dir::open(Path::new(path)).unwrap_err();
            assert_eq!(error.downcast_ref(), Some(&want), "{path}");
        }
        let error = Dir::open(Path::new("/proc")).unwrap_err();
        assert!(matches!(
            error.downcast_ref(),
            Some(Fault::NotCgroup2 { .. })
        ));
    }
}
