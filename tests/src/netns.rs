// SPDX-License-Identifier: GPL-2.0-only
//! Two network namespaces joined by veth devices and a bridge, as container hosts have them.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::thread;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

use crate::program::run;

/// Names of the namespaces of one world. All share a prefix, so that several worlds can exist at once.
#[derive(Clone, Debug)]
pub struct Names {
    prefix: String,
}

impl Names {
    /// The names that belong to `prefix` (at most 8 characters, since device names are short).
    pub fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
        }
    }

    /// What the names begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Namespace of the clients.
    pub fn client(&self) -> String {
        format!("{}-c", self.prefix)
    }

    /// Namespace of the servers.
    pub fn server(&self) -> String {
        format!("{}-s", self.prefix)
    }

    /// Namespace of the bridge between them.
    fn hub(&self) -> String {
        format!("{}-h", self.prefix)
    }
}

/// The namespaces themselves; dropping this removes them.
#[derive(Debug)]
pub struct World {
    names: Names,
}

/// IPv4 address of the server's namespace.
pub const SERVER_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 231, 0, 2));
/// IPv6 address of the server's namespace.
pub const SERVER_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x231, 0, 0, 0, 0, 0, 2));

impl World {
    /// Makes the namespaces, the bridge and the addresses.
    pub fn create(names: &Names) -> Result<Self> {
        let world = Self {
            names: names.clone(),
        };
        let hub = names.hub();
        run(&["ip", "netns", "add", &hub])?;
        run(&["ip", "-n", &hub, "link", "add", "br0", "type", "bridge"])?;
        run(&["ip", "-n", &hub, "link", "set", "br0", "up"])?;
        join(&hub, &names.client(), "c", 1)?;
        join(&hub, &names.server(), "s", 2)?;
        Ok(world)
    }

    /// The names of the namespaces.
    pub fn names(&self) -> &Names {
        &self.names
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for name in [self.names.client(), self.names.server(), self.names.hub()] {
            let _ = run(&["ip", "netns", "del", &name]);
        }
    }
}

/// Makes namespace `name` and plugs it into the bridge of `hub` by the port `port`, as host number `host`.
fn join(hub: &str, name: &str, port: &str, host: u8) -> Result<()> {
    let v4 = format!("10.231.0.{host}/24");
    let v6 = format!("fd00:231::{host}/64");
    run(&["ip", "netns", "add", name])?;
    run(&[
        "ip", "-n", hub, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name,
    ])?;
    run(&["ip", "-n", hub, "link", "set", port, "master", "br0", "up"])?;
    run(&["ip", "-n", name, "link", "set", "lo", "up"])?;
    run(&["ip", "-n", name, "addr", "add", &v4, "dev", "eth0"])?;
    run(&["ip", "-n", name, "addr", "add", &v6, "dev", "eth0", "nodad"])?;
    run(&["ip", "-n", name, "link", "set", "eth0", "up"])?;
    Ok(())
}

/// Runs `work` on a thread inside the namespace `name`; sockets made there stay there.
pub fn within<T: Send>(name: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let file = File::open(format!("/run/netns/{name}"))
        .with_context(|| format!("failed to open namespace {name}"))?;
    within_file(&file, work)
}

/// Runs `work` on a thread inside the namespace that `file` stands for.
pub fn within_file<T: Send>(file: &File, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let enter = || setns(file, CloneFlags::CLONE_NEWNET).context("failed to enter a namespace");
        let thread = scope.spawn(move || enter().and_then(|()| work()));
        thread.join().expect("thread in namespace panicked")
    })
}
