// SPDX-License-Identifier: GPL-2.0-only
//! A process of an unprivileged user that has made itself a user and a network namespace, in which it may do as it likes.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::wait::waitpid;
use nix::unistd::{Gid, Pid, Uid, setgroups, setresgid, setresuid};
use tcp_splice_world::program::run_with;
use tcp_splice_world::space::Space;

use super::tenant::{CLIENT, SERVER};
use crate::sys;

/// `nobody`.
const UID: u32 = 65534;

/// The process, which waits for orders.
pub struct Attacker {
    process: Pid,
    orders: BufReader<UnixStream>,
}

impl Attacker {
    /// Starts the process. `deed` makes what it needs there, and gives what carries out an order and answers. Call only while this process has one
    /// thread.
    pub fn start<D>(deed: impl FnOnce() -> Result<D>) -> Result<Self>
    where
        D: FnMut(&str) -> Result<String>,
    {
        let (ours, theirs) = UnixStream::pair().context("failed to make a socket pair")?;
        let process = sys::fork(|| {
            let answer = escape().and_then(|()| deed());
            match answer.and_then(|deed| serve(theirs, deed)) {
                Ok(()) => true,
                Err(error) => {
                    eprintln!("attacker: {error:#}");
                    false
                }
            }
        })?;
        let mut attacker = Self {
            process,
            orders: BufReader::new(ours),
        };
        attacker.answer().context("the attacker did not start")?;
        Ok(attacker)
    }

    /// Gives an order and returns the answer.
    pub fn order(&mut self, order: &str) -> Result<String> {
        self.begin(order)?;
        self.answer()
    }

    /// Gives an order without waiting for the answer.
    pub fn begin(&mut self, order: &str) -> Result<()> {
        writeln!(self.orders.get_mut(), "{order}").context("the attacker is gone")
    }

    /// The next answer.
    pub fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        self.orders.read_line(&mut line)?;
        match line.trim_end_matches('\n').split_once(' ') {
            Some(("done", answer)) => Ok(answer.to_owned()),
            Some(("failed", why)) => bail!("the attacker failed: {why}"),
            _ => bail!("the attacker is gone"),
        }
    }

    /// Its network namespace.
    pub fn space(&self) -> Result<Space> {
        Space::of(self.process)
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        let _ = self.orders.get_ref().shutdown(std::net::Shutdown::Both);
        let _ = waitpid(self.process, None);
    }
}

/// Becomes the unprivileged user, then root of namespaces of its own.
fn escape() -> Result<()> {
    let (uid, gid) = (Uid::from_raw(UID), Gid::from_raw(UID));
    setgroups(&[]).context("failed to leave all groups")?;
    setresgid(gid, gid, gid).context("failed to change the group")?;
    setresuid(uid, uid, uid).context("failed to change the user")?;
    // Or the files below would be root's.
    prctl::set_dumpable(true)?;
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)
        .context("failed to make namespaces")?;
    let map = format!("0 {UID} 1");
    for (file, text) in [("setgroups", "deny"), ("uid_map", &map), ("gid_map", &map)] {
        let path = format!("/proc/self/{file}");
        fs::write(&path, text).with_context(|| format!("failed to write {path}"))?;
    }
    Ok(())
}

/// Carries out commands of ip(8), one a line, in the attacker's process.
pub fn ip(lines: &str) -> Result<()> {
    run_with(&["ip", "-batch", "-"], lines).map(drop)
}

/// Gives the calling namespace the addresses of a tenant's client and server.
pub fn own_both_addresses() -> Result<()> {
    ip(&format!(
        "link set lo up\n\
         addr add {CLIENT}/32 dev lo\n\
         addr add {SERVER}/32 dev lo\n"
    ))
}

fn serve(stream: UnixStream, mut deed: impl FnMut(&str) -> Result<String>) -> Result<()> {
    let mut answers = stream.try_clone()?;
    writeln!(answers, "done -")?;
    for order in BufReader::new(stream).lines() {
        match deed(&order?) {
            Ok(answer) => writeln!(answers, "done {answer}")?,
            Err(error) => writeln!(answers, "failed {error:#}")?,
        }
    }
    Ok(())
}

/// The numbers in an order.
pub fn numbers<const N: usize>(order: &str) -> Result<[u32; N]> {
    let words = order.split(' ').filter_map(|word| word.parse().ok());
    let numbers: Vec<u32> = words.collect();
    ensure!(numbers.len() == N, "{order:?} has not {N} numbers");
    Ok(numbers.try_into().expect("just counted"))
}
