// SPDX-License-Identifier: GPL-2.0-only
//! Directories of the cgroup v2 file system.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
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
            let mounted = mounts().into_iter().next().map(|mount| mount.point);
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
    mounts().iter().find_map(|mount| find(&mount.point, id))
}

/// The cgroups with these numbers, as paths from the root of the tree as it can be seen from here: `/system.slice/redis.service`.
pub fn names_of(ids: &HashSet<u64>) -> HashMap<u64, String> {
    let mut names = HashMap::new();
    for mount in mounts() {
        let _ = walk(&mount.point, |id, path| {
            if ids.contains(&id) {
                let below = path.strip_prefix(&mount.point).unwrap_or(path);
                let name = mount.root.join(below).display().to_string();
                names.entry(id).or_insert(name);
            }
            if names.len() == ids.len() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
    }
    names
}

/// A place where cgroup v2, or a part of it, is mounted.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    /// What is mounted there, in the tree.
    root: PathBuf,
    /// Where.
    point: PathBuf,
}

/// Those that no other mount covers.
fn mounts() -> Vec<Mount> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    cgroup2_mounts(&mounts)
        .filter(|mount| is_cgroup2(rustix::fs::statfs(&mount.point)))
        .collect()
}

fn is_cgroup2(fs: rustix::io::Result<StatFs>) -> bool {
    fs.is_ok_and(|fs| fs.f_type == CGROUP2_SUPER_MAGIC)
}

fn find(root: &Path, id: u64) -> Option<PathBuf> {
    walk(root, |number, path| {
        if number == id {
            ControlFlow::Break(path.to_owned())
        } else {
            ControlFlow::Continue(())
        }
    })
    .break_value()
}

/// Shows all directories of the tree with their numbers, breadth first: policies are attached near its root. What goes meanwhile is left out.
fn walk<T>(root: &Path, mut visit: impl FnMut(u64, &Path) -> ControlFlow<T>) -> ControlFlow<T> {
    if let Ok(itself) = fs::metadata(root) {
        visit(itself.ino(), root)?;
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
            let path = entry.path();
            visit(entry.ino(), &path)?;
            below.push(path);
        }
        level = below;
    }
    ControlFlow::Continue(())
}

/// Mounts in a `mountinfo` file (proc_pid_mountinfo(5)); names with spaces, which it escapes, are left out.
fn cgroup2_mounts(mountinfo: &str) -> impl Iterator<Item = Mount> {
    mountinfo.lines().filter_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (kind.split(' ').next() == Some("cgroup2") && !point.contains('\\')).then(|| Mount {
            root: root.into(),
            point: point.into(),
        })
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
            [("/", "/sys/fs/cgroup"), ("/x", "/run/other")].map(|(root, point)| Mount {
                root: root.into(),
                point: point.into(),
            })
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
