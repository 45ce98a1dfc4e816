// SPDX-License-Identifier: GPL-2.0-only
//! What stands in the way of a command, each said in one line that also tells what to do.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::release::NEEDED;

/// A condition the user can do something about.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// Effective user id is not 0.
    #[error("must be run as root: try sudo tcp-splice-ctl")]
    NotRoot,
    /// `/sys/module/tcp_splice` is missing.
    #[error("module tcp_splice is not loaded: run modprobe tcp_splice")]
    NoModule,
    /// The module is loaded but its function cannot be found.
    #[error(
        "module tcp_splice offers no function bpf_tcp_splice_pair: rebuild it with pahole installed (package dwarves), then rmmod and modprobe tcp_splice"
    )]
    NoKfunc,
    /// The module is loaded but its list of connections cannot be found.
    #[error(
        "module tcp_splice offers no list of connections: it is older than this tool; disable, rmmod and modprobe tcp_splice"
    )]
    NoList,
    /// The module is loaded but cannot let go of sockets.
    #[error(
        "module tcp_splice cannot drain: it is older than this tool; close the connections, then disable, rmmod and modprobe tcp_splice"
    )]
    NoDrain,
    /// Some sockets could not be handed back in time.
    #[error(
        "failed to drain every connection within {seconds} s: on some a call is stuck, urgent data is unread, or another module is in between; see tcp-splice-ctl list, and try again"
    )]
    StillHeld {
        /// The time limit.
        seconds: u64,
    },
    /// All were handed back, but the module cannot go yet.
    #[error(
        "every connection is drained, but after {seconds} s the module still has {users} users: calls that have read or sent a part of what they were asked to (recv() with MSG_WAITALL, send() of more than 16 MiB), or another program that uses it; it can go when they end"
    )]
    StillUsed {
        /// The module's reference count.
        users: u32,
        /// The time limit.
        seconds: u64,
    },
    /// The running kernel cannot call a module's functions from sock_ops programs.
    #[error("kernel {0} is too old: sock_ops programs can call kernel functions since Linux {major}.{minor}", major = NEEDED.0, minor = NEEDED.1)]
    KernelTooOld(String),
    /// `/sys/kernel/btf/vmlinux` is missing.
    #[error(
        "this kernel has no BTF (/sys/kernel/btf/vmlinux): boot one built with CONFIG_DEBUG_INFO_BTF=y"
    )]
    NoBtf,
    /// The path of `--cgroup` does not exist.
    #[error("{} does not exist: name a directory of the cgroup v2 file system", .0.display())]
    NoCgroup(PathBuf),
    /// The path of `--cgroup` is a file.
    #[error("{} is not a directory: name a directory of the cgroup v2 file system", .0.display())]
    NotDirectory(PathBuf),
    /// The path of `--cgroup` lies in another file system.
    #[error("{} is not a cgroup v2 directory: {}", .path.display(), where_cgroup2(.mounted.as_deref()))]
    NotCgroup2 {
        /// What was given.
        path: PathBuf,
        /// Where cgroup v2 is mounted, if anywhere.
        mounted: Option<PathBuf>,
    },
    /// Somebody else's object has the name of our pin.
    #[error("{} is in the way: it is {what}; move it away or remove it", .path.display())]
    ForeignPin {
        /// Where it is.
        path: PathBuf,
        /// What it is, or is not.
        what: String,
    },
}

fn where_cgroup2(mounted: Option<&Path>) -> String {
    match mounted {
        Some(mounted) => format!("name {} or a directory in it", mounted.display()),
        None => "mount one with mount -t cgroup2 none DIRECTORY".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_says_what_is_wrong_and_what_to_do() {
        let path = || PathBuf::from("/tmp/x");
        let what = "a pinned program or map".to_owned();
        for (fault, want) in [
            (
                Fault::NotRoot,
                "must be run as root: try sudo tcp-splice-ctl",
            ),
            (
                Fault::NoModule,
                "module tcp_splice is not loaded: run modprobe tcp_splice",
            ),
            (
                Fault::NoKfunc,
                "module tcp_splice offers no function bpf_tcp_splice_pair: rebuild it with pahole installed (package dwarves), \
                 then rmmod and modprobe tcp_splice",
            ),
            (
                Fault::KernelTooOld("6.1.0-28-amd64".to_owned()),
                "kernel 6.1.0-28-amd64 is too old: sock_ops programs can call kernel functions since Linux 6.15",
            ),
            (
                Fault::StillHeld { seconds: 10 },
                "failed to drain every connection within 10 s: on some a call is stuck, urgent data is unread, or another module is in \
                 between; see tcp-splice-ctl list, and try again",
            ),
            (
                Fault::NoBtf,
                "this kernel has no BTF (/sys/kernel/btf/vmlinux): boot one built with CONFIG_DEBUG_INFO_BTF=y",
            ),
            (
                Fault::NoCgroup(path()),
                "/tmp/x does not exist: name a directory of the cgroup v2 file system",
            ),
            (
                Fault::NotDirectory(path()),
                "/tmp/x is not a directory: name a directory of the cgroup v2 file system",
            ),
            (
                Fault::NotCgroup2 {
                    path: path(),
                    mounted: Some("/sys/fs/cgroup".into()),
                },
                "/tmp/x is not a cgroup v2 directory: name /sys/fs/cgroup or a directory in it",
            ),
            (
                Fault::NotCgroup2 {
                    path: path(),
                    mounted: None,
                },
                "/tmp/x is not a cgroup v2 directory: mount one with mount -t cgroup2 none DIRECTORY",
            ),
            (
                Fault::ForeignPin { path: path(), what },
                "/tmp/x is in the way: it is a pinned program or map; move it away or remove it",
            ),
        ] {
            assert_eq!(fault.to_string(), want);
        }
    }
}
