// SPDX-License-Identifier: GPL-2.0-only
//! A network namespace without a name, with its rules and devices: all of it is gone when the process is, however that ends.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::Pid;
use socket2::{Domain, Socket, Type};

use crate::netns::within_file;
use crate::program::run_with;

/// A network namespace that lives as long as this, or a socket in it.
#[derive(Debug)]
pub struct Space(File);

impl Space {
    /// A new, empty one of the initial user namespace.
    pub fn new() -> Result<Self> {
        let make = || -> Result<File> {
            unshare(CloneFlags::CLONE_NEWNET).context("failed to make a network namespace")?;
            File::open("/proc/thread-self/ns/net").context("failed to open a network namespace")
        };
        let thread = std::thread::spawn(make);
        Ok(Self(thread.join().expect("thread panicked")?))
    }

    /// The one a process lives in.
    pub fn of(process: Pid) -> Result<Self> {
        let path = format!("/proc/{process}/ns/net");
        let file = File::open(&path).with_context(|| format!("failed to open {path}"))?;
        Ok(Self(file))
    }

    /// Runs `work` on a thread inside; sockets made there stay there.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        within_file(&self.0, work)
    }

    /// Carries out commands of ip(8), one a line.
    pub fn ip(&self, lines: &str) -> Result<()> {
        self.within(|| run_with(&["ip", "-batch", "-"], lines).map(drop))
    }

    /// Adds and removes rules, in nft's language.
    pub fn nft(&self, rules: &str) -> Result<()> {
        self.within(|| run_with(&["nft", "-f", "-"], rules).map(drop))
    }

    /// Names this namespace to ip(8), when it is to put a device here.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Sets `net.NAME` to `value`; slashes in the name.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{name}");
        self.within(|| fs::write(&path, value).with_context(|| format!("failed to set {path}")))
    }

    /// A listener inside; one of IPv6 also takes IPv4 if `dual`.
    pub fn listen(&self, address: SocketAddr, dual: bool) -> Result<TcpListener> {
        self.within(|| {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            if address.is_ipv6() {
                socket.set_only_v6(!dual)?;
            }
            socket.set_reuse_address(true)?;
            socket.bind(&address.into()).context("failed to bind")?;
            socket.listen(4096).context("failed to listen")?;
            Ok(socket.into())
        })
    }

    /// A connection from inside.
    pub fn connect(&self, to: SocketAddr) -> Result<TcpStream> {
        self.within(|| TcpStream::connect(to).with_context(|| format!("failed to connect to {to}")))
    }
}
