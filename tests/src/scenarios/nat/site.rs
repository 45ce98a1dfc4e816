// SPDX-License-Identifier: GPL-2.0-only
//! A container host in small: the host and two containers, each in a namespace, joined by veth devices; the host routes.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};

use anyhow::{Context, Result, ensure};
use tcp_splice_world::pattern::Pattern;
use tcp_splice_world::space::Space;

use crate::env::{Claim, Conn, Env};
use crate::link::Family;
use crate::scenarios::list;

/// What one test sends in each direction.
pub const LENGTH: usize = 100_000;

/// Port of the service as clients know it.
pub const SERVICE: u16 = 80;
/// Port where something else listens in its place.
pub const SIDECAR: u16 = 15001;

/// Namespaces and addresses of one test.
pub struct Site {
    /// Routes between the containers.
    pub host: Space,
    /// Container 1.
    pub client: Space,
    /// Container 2.
    pub server: Space,
    family: Family,
}

impl Site {
    pub fn new(env: &Env) -> Result<Self> {
        let site = Self {
            host: Space::new()?,
            client: Space::new()?,
            server: Space::new()?,
            family: env.link.family,
        };
        for space in [&site.host, &site.client, &site.server] {
            // No waiting for duplicates of the link's addresses: a SYN-ACK would be held up, and sent again with another hash.
            space.sysctl("ipv6/conf/default/accept_dad", "0")?;
            space.sysctl("core/txrehash", "0")?;
        }
        site.host.sysctl("ipv4/ip_forward", "1")?;
        site.host.sysctl("ipv6/conf/all/forwarding", "1")?;
        let containers = [(1, "c", &site.client), (2, "s", &site.server)];
        let host = containers.map(|(number, port, container)| {
            let there = container.path();
            format!(
                "link add {port} type veth peer name eth0 netns {there}\n\
                 link set {port} up\n\
                 addr add 10.71.{number}.1/24 dev {port}\n\
                 addr add fd71:{number}::1/64 dev {port} nodad\n"
            )
        });
        // Somewhere for packets to unknown addresses to go, as every host has.
        let routes = "route add default via 10.71.1.2\nroute add default via fd71:1::2\n";
        site.host
            .ip(&format!("link set lo up\n{}{routes}", host.concat()))?;
        for (number, _, container) in containers {
            container.ip(&format!(
                "link set lo up\n\
                 link set eth0 up\n\
                 addr add 10.71.{number}.2/24 dev eth0\n\
                 addr add fd71:{number}::2/64 dev eth0 nodad\n\
                 route add default via 10.71.{number}.1\n\
                 route add default via fd71:{number}::1\n"
            ))?;
        }
        Ok(site)
    }

    fn v6(&self) -> bool {
        self.family == Family::V6
    }

    fn address(&self, v4: [u8; 4], v6: [u16; 8]) -> IpAddr {
        if self.v6() { v6.into() } else { v4.into() }
    }

    /// Container 2's own address.
    pub fn server_address(&self) -> IpAddr {
        self.address([10, 71, 2, 2], [0xfd71, 2, 0, 0, 0, 0, 0, 2])
    }

    /// The host's address towards container 1.
    pub fn host_address(&self) -> IpAddr {
        self.address([10, 71, 1, 1], [0xfd71, 1, 0, 0, 0, 0, 0, 1])
    }

    /// An address that no device has.
    pub fn virtual_address(&self) -> IpAddr {
        self.address([10, 96, 0, 10], [0xfd96, 0, 0, 0, 0, 0, 0, 10])
    }

    /// Loopback of the client's family.
    pub fn loopback(&self) -> IpAddr {
        self.address([127, 0, 0, 1], Ipv6Addr::LOCALHOST.segments())
    }

    /// `address` and `port` as they stand in a rule.
    pub fn target(&self, address: IpAddr, port: u16) -> String {
        SocketAddr::new(address, port).to_string()
    }

    /// A listener on every address of `space`, of the listener's family.
    pub fn listen(&self, space: &Space, port: u16) -> Result<TcpListener> {
        let any = match self.family {
            Family::V4 => IpAddr::from([0; 4]),
            Family::V6 | Family::Mapped => Ipv6Addr::UNSPECIFIED.into(),
        };
        space.listen(SocketAddr::new(any, port), self.family == Family::Mapped)
    }

    /// Adds a rule to the chain of a NAT hook in `space`.
    pub fn rule(&self, space: &Space, hook: &str, rule: &str) -> Result<()> {
        let (table, priority) = (
            if self.v6() { "ip6" } else { "ip" },
            if hook == "postrouting" { 100 } else { -100 },
        );
        space.nft(&format!(
            "table {table} nat {{\nchain {hook} {{\ntype nat hook {hook} priority {priority}\n{rule}\n}}\n}}\n"
        ))
    }

    /// Gives what leaves the host for container 2 another source: the host's address and any port.
    pub fn masquerade(&self) -> Result<()> {
        let rule = "oifname s meta l4proto tcp masquerade fully-random";
        self.rule(&self.host, "postrouting", rule)
    }
}

/// A connection from `from` to `to` that `listener` accepts; it carried nothing yet.
pub fn connect(from: &Space, to: SocketAddr, listener: &TcpListener) -> Result<Conn> {
    let client = from.connect(to)?;
    let (server, _) = listener.accept().context("failed to accept")?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    Ok(Conn { client, server })
}

/// Both ends see the connection alike.
pub fn same_view(conn: &Conn) -> Result<bool> {
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    Ok(
        plain(conn.client.local_addr()?) == plain(conn.server.peer_addr()?)
            && plain(conn.client.peer_addr()?) == plain(conn.server.local_addr()?),
    )
}

/// Sends [`LENGTH`] bytes each way and checks them.
pub fn exchange(conn: &Conn) -> Result<()> {
    const PART: usize = LENGTH / 10;
    let (up, down) = (Pattern::new(71), Pattern::new(72));
    for position in (0..LENGTH as u64).step_by(PART) {
        up.write(&conn.client, position, PART)?;
        down.write(&conn.server, position, PART)?;
        up.read(&conn.server, position, PART)?;
        down.read(&conn.client, position, PART)?;
    }
    Ok(())
}

/// Checks that the ends of `conn` see different addresses, that all bytes went through the ring of one pair, and that it is listed as each end sees it.
pub fn ring_despite_nat(env: &Env, conn: impl FnOnce() -> Result<Conn>) -> Result<Claim> {
    let before = env.counters()?;
    let conn = conn()?;
    ensure!(!same_view(&conn)?, "nothing was rewritten: {conn:?}");
    exchange(&conn)?;
    if env.spliced() {
        let moved = env.since(&before)?;
        let (pairs, bytes) = (moved.get("pairs_made")?, moved.get("ring_bytes")?);
        ensure!(
            pairs == 1 && bytes == 2 * LENGTH as u64 && moved.refused() == 0,
            "one pair and all bytes through its ring expected: {:?}",
            moved.moved()
        );
        list::shows_both(&conn)?;
    }
    Ok(Claim::ring(2 * LENGTH))
}
