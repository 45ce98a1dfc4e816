// SPDX-License-Identifier: GPL-2.0-only
//! What this host offers: rights, kernel, module, BPF file system, and the lock among instances of this tool.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::fs::FlockOperation;
use rustix::mount::MountFlags;

use crate::counters::Counters;
use crate::fault::Fault;
use crate::release;
use crate::status::Module;

const LOCK: &str = "/run/tcp-splice-ctl.lock";
const MODULE: &str = "/sys/module/tcp_splice";
const BPFFS: &str = "/sys/fs/bpf";
const BPF_FS_MAGIC: i64 = 0xcafe4a11;
/// In a network namespace of its own this process has no such file; the first process lives in the initial one.
const COUNTERS: [&str; 2] = ["/proc/net/tcp_splice_stat", "/proc/1/net/tcp_splice_stat"];
/// As above.
const CONNECTIONS: [&str; 2] = ["/proc/net/tcp_splice", "/proc/1/net/tcp_splice"];
/// As above.
const PLAIN: [&str; 2] = ["/proc/net/tcp_splice_plain", "/proc/1/net/tcp_splice_plain"];
/// As above.
const DRAIN: [&str; 2] = ["/proc/net/tcp_splice_drain", "/proc/1/net/tcp_splice_drain"];
const RELEASE_LIMIT: Duration = Duration::from_secs(2);

/// Refuses anybody but root.
pub fn check_root() -> Result<(), Fault> {
    match rustix::process::geteuid().is_root() {
        true => Ok(()),
        false => Err(Fault::NotRoot),
    }
}

/// Refuses a kernel that cannot run the policy program, and a host without the module.
pub fn check_kernel() -> Result<(), Fault> {
    let uname = rustix::system::uname();
    let running = uname.release().to_string_lossy();
    if release::too_old(&running) {
        return Err(Fault::KernelTooOld(running.into_owned()));
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Err(Fault::NoBtf);
    }
    match module().loaded {
        true => Ok(()),
        false => Err(Fault::NoModule),
    }
}

/// Waits until no other instance of this tool is at work; the lock ends with the value. Only root may open the file, since
/// whoever can open it can lock it.
pub fn lock() -> Result<File> {
    let mut options = File::options();
    let lock = options
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(LOCK);
    let lock = lock.with_context(|| format!("failed to open lock file {LOCK}"))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)
        .with_context(|| format!("failed to lock {LOCK}"))?;
    Ok(lock)
}

/// What can be known of the module.
pub fn module() -> Module {
    let ring_kbytes = fs::read_to_string(format!("{MODULE}/parameters/ring_kbytes")).ok();
    Module {
        loaded: fs::read_to_string(format!("{MODULE}/initstate"))
            .is_ok_and(|state| state.trim() == "live"),
        ring_kbytes: ring_kbytes.and_then(|text| text.trim().parse().ok()),
    }
}

/// The module's counters, `None` when they cannot be read.
pub fn counters() -> Option<Counters> {
    let text = COUNTERS
        .iter()
        .find_map(|path| fs::read_to_string(path).ok())?;
    Some(Counters::parse(&text))
}

/// The module's list of spliced connections. For root.
pub fn connections() -> Result<String> {
    match (read_one_of(CONNECTIONS)?, module().loaded) {
        (Some(list), _) => Ok(list),
        (None, false) => Err(Fault::NoModule.into()),
        (None, true) => Err(Fault::NoList.into()),
    }
}

/// The module's list of sockets that are plain TCP after all; empty if it is one that has no such list. For root.
pub fn plain() -> Result<String> {
    Ok(read_one_of(PLAIN)?.unwrap_or_default())
}

fn read_one_of(paths: [&str; 2]) -> Result<Option<String>> {
    for path in paths {
        match fs::read_to_string(path) {
            Ok(text) => return Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("failed to read {path}")),
        }
    }
    Ok(None)
}

/// The file that drains, and its name. For root.
pub fn drain_file() -> Result<(&'static str, File)> {
    for path in DRAIN {
        match File::options().write(true).open(path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("failed to open {path}")),
        }
    }
    match module().loaded {
        false => Err(Fault::NoModule.into()),
        true => Err(Fault::NoDrain.into()),
    }
}

/// How many users hold the module.
pub fn module_users() -> Option<u32> {
    fs::read_to_string(format!("{MODULE}/refcnt"))
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// Waits for the module to have fewer users than `before`. A program that was just detached goes only after a grace period;
/// this makes `tcp-splice-ctl disable && rmmod tcp_splice` work.
pub fn await_fewer_module_users(before: Option<u32>) {
    let Some(before) = before.filter(|&users| users > 0) else {
        return;
    };
    let limit = Instant::now() + RELEASE_LIMIT;
    while Instant::now() < limit && module_users().is_some_and(|users| users >= before) {
        sleep(Duration::from_millis(5));
    }
}

/// True when the BPF file system is mounted where pins belong.
pub fn bpffs_mounted() -> bool {
    rustix::fs::statfs(BPFFS).is_ok_and(|fs| fs.f_type == BPF_FS_MAGIC)
}

/// Mounts the BPF file system as systemd does, if it is not mounted.
pub fn mount_bpffs() -> Result<()> {
    if bpffs_mounted() {
        return Ok(());
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("bpf", BPFFS, "bpf", flags, c"mode=700").with_context(|| {
        format!("failed to mount the BPF file system: try mount -t bpf bpf {BPFFS}")
    })
}
