// SPDX-License-Identifier: GPL-2.0-only
//! The attachment and its pin in the BPF file system.
//!
//! There is one pin, `link`, which names the attachment in force. A policy for the same cgroup replaces the program of that
//! link in one step. A policy for another cgroup goes through `link_new`:
//!
//! 1. attach to the new cgroup, pin as `link_new`
//! 2. detach `link` (its pin stays)
//! 3. rename `link_new` to `link`
//!
//! So there is no moment without a policy. After a crash between two steps the next `enable` carries out those that are left,
//! and the next `disable` removes both pins. Instances of this tool exclude each other by [`crate::host::lock`]. The names
//! have no dot, since the BPF file system keeps dots to itself.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};

use anyhow::{Context, Result};
use libbpf_rs::{Link, ProgramAttachType, query::LinkTypeInfo};

use crate::cgroup;
use crate::fault::Fault;
use crate::host;
use crate::policy::Policy;
use crate::polling;
use crate::program::{self, Loaded};
use crate::status::{Attached, Cgroup, Status};

const DIR: &str = "/sys/fs/bpf/tcp_splice";
const CURRENT: &str = "/sys/fs/bpf/tcp_splice/link";
const NEXT: &str = "/sys/fs/bpf/tcp_splice/link_new";
/// What [`polling`] notes.
const POLLING: &str = "/sys/fs/bpf/tcp_splice/busy_poll";

/// An attachment of ours, found by its pin.
struct Pin {
    path: &'static str,
    link: Link,
    /// `None` once the cgroup has been removed: the kernel detaches then, but the pin stays.
    cgroup: Option<u64>,
    policy: Option<Policy>,
}

impl Pin {
    /// Opens the pin at `path`; a missing one is no error, one of somebody else is.
    fn open(path: &'static str) -> Result<Option<Self>> {
        if !is_file(path)? {
            return Ok(None);
        }
        let link = Link::open(path).with_context(|| format!("failed to open pin {path}"))?;
        if !is_link(&link) {
            return Err(foreign(path, "a pinned program or map").into());
        }
        let info = link
            .info()
            .with_context(|| format!("failed to examine pin {path}"))?;
        let other = || foreign(path, "the attachment of another program");
        let cgroup = match info.info {
            LinkTypeInfo::Cgroup(link)
                if matches!(link.attach_type, ProgramAttachType::CgroupSockOps) =>
            {
                link.cgroup_id
            }
            _ => return Err(other().into()),
        };
        let policy = program::identify(info.prog_id).ok_or_else(other)?;
        let cgroup = (cgroup != 0).then_some(cgroup);
        Ok(Some(Self {
            path,
            link,
            cgroup,
            policy,
        }))
    }

    fn detach(&self) -> Result<()> {
        self.link
            .detach()
            .with_context(|| format!("failed to detach {}", self.path))
    }

    /// Takes the attachment away and its pin with it.
    fn remove(self) -> Result<()> {
        self.detach()?;
        fs::remove_file(self.path).with_context(|| format!("failed to remove pin {}", self.path))
    }

    fn into_attached(self) -> Option<Attached> {
        let id = self.cgroup?;
        let path = cgroup::path_of(id).map(|path| path.display().to_string());
        let cgroup = Cgroup { id, path };
        Some(Attached {
            policy: self.policy,
            cgroup,
        })
    }
}

/// Whether there is anything at `path` that can be opened as a pin; `false` when there is nothing at all.
fn is_file(path: &'static str) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(true),
        Ok(_) => Err(foreign(path, "not a pinned object").into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            Err(foreign(DIR, "not a directory").into())
        }
        Err(error) => Err(error).with_context(|| format!("failed to examine pin {path}")),
    }
}

/// Makes the directory of the pins. One that others can write to is refused: they could take our pins away.
fn make_dir() -> Result<()> {
    match DirBuilder::new().mode(0o700).create(DIR) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => return made.with_context(|| format!("failed to create {DIR}")),
    }
    let metadata = fs::symlink_metadata(DIR).with_context(|| format!("failed to examine {DIR}"))?;
    match (metadata.uid(), metadata.mode() & 0o022) {
        (0, 0) => Ok(()),
        _ => Err(foreign(DIR, "writable by others than root").into()),
    }
}

fn foreign(path: &str, what: &str) -> Fault {
    Fault::ForeignPin {
        path: path.into(),
        what: what.to_owned(),
    }
}

/// `bpf_obj_get` opens every kind of object; only a link's description names a link type.
fn is_link(link: &Link) -> bool {
    let path = format!("/proc/self/fdinfo/{}", link.as_fd().as_raw_fd());
    fs::read_to_string(path)
        .is_ok_and(|text| text.lines().any(|line| line.starts_with("link_type:")))
}

/// Puts `policy` in force for `cgroup`, in the place of whatever was in force. What [`polling::settle`] has to say.
pub fn enable(policy: &Policy, cgroup: &cgroup::Dir) -> Result<Option<String>> {
    let _lock = host::lock()?;
    polling::check(POLLING, policy.busy_poll_us)?;
    let program = Loaded::new(policy)?;
    host::mount_bpffs()?;
    let (mut current, next) = (Pin::open(CURRENT)?, Pin::open(NEXT)?);
    make_dir()?;
    if let Some(next) = next {
        current = finish(current, next)?;
    }
    match current {
        Some(mut pin) if pin.cgroup == Some(cgroup.id()) => program.replace(&mut pin.link)?,
        current => {
            let mut link = program.attach(cgroup)?;
            link.pin(NEXT)
                .with_context(|| format!("failed to pin {NEXT}"))?;
            adopt(current)?;
        }
    }
    polling::settle(POLLING, policy.busy_poll_us)
}

/// Carries out what an interrupted `enable` left to do, and returns the attachment in force.
fn finish(current: Option<Pin>, next: Pin) -> Result<Option<Pin>> {
    if next.cgroup.is_some() {
        adopt(current)?;
        return Pin::open(CURRENT);
    }
    next.remove()?;
    Ok(current)
}

/// Steps 2 and 3: makes `link_new` the attachment in force.
fn adopt(current: Option<Pin>) -> Result<()> {
    if let Some(pin) = current {
        pin.detach()?;
    }
    fs::rename(NEXT, CURRENT).with_context(|| format!("failed to rename pin {NEXT} to {CURRENT}"))
}

/// Takes the policy out of force. Returns once it no longer holds the module. What [`polling::settle`] has to say.
pub fn disable() -> Result<Option<String>> {
    let _lock = host::lock()?;
    if !host::bpffs_mounted() {
        return Ok(None);
    }
    let pins = [Pin::open(CURRENT)?, Pin::open(NEXT)?];
    let users = pins
        .iter()
        .any(Option::is_some)
        .then(host::module_users)
        .flatten();
    for pin in pins.into_iter().flatten() {
        pin.remove()?;
    }
    let said = polling::settle(POLLING, 0)?;
    // Somebody may keep pins of their own in there.
    let _ = fs::remove_dir(DIR);
    host::await_fewer_module_users(users);
    Ok(said)
}

/// Reads from the kernel what is in force.
pub fn inspect() -> Result<Status> {
    let _lock = host::lock()?;
    let mut status = Status {
        module: host::module(),
        counters: host::counters(),
        ..Status::default()
    };
    if host::bpffs_mounted() {
        let next = open_or_note(NEXT, &mut status.problems);
        let current = open_or_note(CURRENT, &mut status.problems);
        if next.is_some() {
            status
                .problems
                .push("an enable was interrupted: run enable or disable again".to_owned());
        }
        if next.is_none() && current.as_ref().is_some_and(|pin| pin.cgroup.is_none()) {
            status.problems.push(
                "the cgroup of the last policy was removed: run enable or disable".to_owned(),
            );
        }
        status.polling = polling::inspect(POLLING).unwrap_or_else(|error| {
            status.problems.push(format!("{error:#}"));
            None
        });
        status.attached = [next, current]
            .into_iter()
            .flatten()
            .find_map(Pin::into_attached);
    }
    Ok(status)
}

fn open_or_note(path: &'static str, problems: &mut Vec<String>) -> Option<Pin> {
    let problem = match Pin::open(path) {
        Ok(pin) => return pin,
        Err(error) => format!("{error:#}"),
    };
    if !problems.contains(&problem) {
        problems.push(problem);
    }
    None
}
