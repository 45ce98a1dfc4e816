// SPDX-License-Identifier: GPL-2.0-only
//! Who has a socket open: what the links in `/proc/PID/fd` say.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::mem::MaybeUninit;

use rustix::fs::{Mode, OFlags, RawDir, open, readlinkat_raw};
use rustix::io;

use crate::connections::Process;

/// Bytes of directory entries that are read at once.
const ENTRIES: usize = 32 << 10;
/// Longer than a socket's link with the largest number, `socket:[18446744073709551615]`.
const LINK: usize = 32;

/// Who has these sockets open, by inode number. A process that ends meanwhile is left out.
pub fn of(inodes: &HashSet<u64>) -> HashMap<u64, Vec<Process>> {
    let mut owners: HashMap<u64, Vec<Process>> = HashMap::with_capacity(inodes.len());
    let mut entries = vec![MaybeUninit::uninit(); ENTRIES];
    for pid in processes() {
        let Ok(sockets) = sockets(pid, inodes, &mut entries) else {
            continue;
        };
        let Some(command) = sockets.first().and_then(|_| command(pid)) else {
            continue;
        };
        for inode in sockets {
            owners.entry(inode).or_default().push(Process {
                pid,
                command: command.clone(),
            });
        }
    }
    owners
}

fn processes() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

fn command(pid: i32) -> Option<String> {
    let comm = fs::read(format!("/proc/{pid}/comm")).ok()?;
    let name = comm.strip_suffix(b"\n").unwrap_or(&comm);
    Some(String::from_utf8_lossy(name).into_owned())
}

/// Those of the sockets that the process has open, each once. Nothing is allocated for a descriptor: there may be many, and most are of others.
fn sockets(
    pid: i32,
    wanted: &HashSet<u64>,
    entries: &mut [MaybeUninit<u8>],
) -> io::Result<Vec<u64>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let descriptors = open(format!("/proc/{pid}/fd"), flags, Mode::empty())?;
    let mut sockets = Vec::new();
    let mut entries = RawDir::new(&descriptors, entries);
    while let Some(Ok(entry)) = entries.next() {
        let mut link = [MaybeUninit::uninit(); LINK];
        let Ok((target, _)) = readlinkat_raw(&descriptors, entry.file_name(), &mut link) else {
            continue;
        };
        sockets.extend(inode(target).filter(|inode| wanted.contains(inode)));
    }
    sockets.sort_unstable();
    sockets.dedup();
    Ok(sockets)
}

/// Of a socket's link.
fn inode(link: &[u8]) -> Option<u64> {
    let number = link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn inodes_of_links() {
        assert_eq!(inode(b"socket:[4711]"), Some(4711));
        assert_eq!(inode(b"socket:[18446744073709551615]"), Some(u64::MAX));
        for other in [
            "pipe:[4711]",
            "socket:[]",
            "socket:[4711",
            "/tmp/socket:[1]",
        ] {
            assert_eq!(inode(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn finds_this_process_once() {
        let [socket, unwanted] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        let copy = socket.try_clone().unwrap();
        let inode = rustix::fs::fstat(copy.as_fd()).unwrap().st_ino;
        let owners = of(&HashSet::from([inode]));
        let pid = i32::try_from(std::process::id()).unwrap();
        let pids: Vec<i32> = owners[&inode].iter().map(|owner| owner.pid).collect();
        assert_eq!(pids, [pid]);
        assert_eq!(owners.len(), 1);
        let comm = fs::read_to_string("/proc/self/comm").unwrap();
        assert_eq!(owners[&inode][0].command, comm.trim_end());
        drop(unwanted);
    }
}
