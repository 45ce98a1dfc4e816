// SPDX-License-Identifier: GPL-2.0-only
//! An honest tenant: a client and a server in a namespace each. All tenants have the same addresses.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};
use tcp_splice_world::pattern::Pattern;
use tcp_splice_world::space::Space;

use super::numbers::Watch;
use crate::env::SOON;
use crate::sys;

/// Every tenant's client.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// Every tenant's server.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// Where every tenant's server listens.
pub const PORT: u16 = 8000;

/// The two namespaces.
pub struct Tenant {
    pub client: Space,
    pub server: Space,
}

/// A connection that the client believes to have and the server does not know of yet: it waits for data.
pub struct Halfway {
    listener: TcpListener,
    client: TcpStream,
    /// The sequence numbers that the ends began with, the client's first.
    pub numbers: (u32, u32),
}

impl Tenant {
    pub fn new() -> Result<Self> {
        let tenant = Self {
            client: Space::new()?,
            server: Space::new()?,
        };
        let there = tenant.server.path();
        tenant.client.ip(&format!(
            "link add eth0 type veth peer name eth0 netns {there}\n\
             link set eth0 up\n\
             addr add {CLIENT}/24 dev eth0\n"
        ))?;
        let server = format!("link set eth0 up\naddr add {SERVER}/24 dev eth0\n");
        tenant.server.ip(&server)?;
        Ok(tenant)
    }

    pub fn listen(&self) -> Result<TcpListener> {
        self.server
            .listen(SocketAddrV4::new(SERVER, PORT).into(), false)
    }

    /// A connection from `port`.
    pub fn connect(&self, port: u16) -> Result<TcpStream> {
        self.client.within(|| connect_from(port))
    }

    /// Has a SYN-ACK that is sent again carry the same transmit hash: a test that takes its time gets the same answer as a quick one.
    pub fn keep_hashes(&self) -> Result<()> {
        self.client.sysctl("core/txrehash", "0")?;
        self.server.sysctl("core/txrehash", "0")
    }

    /// A connection from `port` whose handshake is over for the client only.
    pub fn connect_halfway(&self, port: u16) -> Result<Halfway> {
        self.keep_hashes()?;
        let listener = self.listen()?;
        defer(&listener)?;
        let watch = Watch::new(&self.client)?;
        let client = self.connect(port)?;
        let numbers = watch.handshake(port)?;
        Ok(Halfway {
            listener,
            client,
            numbers,
        })
    }
}

/// TCP_DEFER_ACCEPT: no accepting end exists before the first data, for longer than any test takes.
pub fn defer(listener: &impl AsRawFd) -> Result<()> {
    let (level, name, seconds) = (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 600);
    sys::set_option(listener, level, name, seconds).context("failed to defer accepting")
}

impl Halfway {
    /// The client's first bytes finish the handshake; checks them, and bytes the other way. Returns the ends, which go on living.
    pub fn finish(self, seed: u64) -> Result<(TcpStream, TcpStream)> {
        let pattern = Pattern::new(seed);
        pattern.write(&self.client, 0, 1000)?;
        let (server, _) = self.listener.accept().context("failed to accept")?;
        pattern.read(&server, 0, 1000)?;
        talk(&self.client, &server, seed)?;
        Ok((self.client, server))
    }
}

/// A connection from [`CLIENT`] and `port` to [`SERVER`] and [`PORT`] in the calling thread's namespace.
pub fn connect_from(port: u16) -> Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket
        .bind(&SocketAddrV4::new(CLIENT, port).into())
        .with_context(|| format!("failed to bind to port {port}"))?;
    socket
        .connect(&SocketAddrV4::new(SERVER, PORT).into())
        .context("failed to connect")?;
    Ok(socket.into())
}

/// Sends bytes that only this connection has, each way, and checks them.
pub fn talk(client: &TcpStream, server: &TcpStream, seed: u64) -> Result<()> {
    for end in [client, server] {
        end.set_read_timeout(Some(SOON))?;
    }
    let (up, down) = (Pattern::new(2 * seed), Pattern::new(2 * seed + 1));
    for position in [0, 100] {
        up.write(client, position, 100)?;
        up.read(server, position, 100)?;
        down.write(server, position, 100)?;
        down.read(client, position, 100)?;
    }
    Ok(())
}

/// Ends a connection by a reset, so that its ports are free at once.
pub fn abort(client: TcpStream, server: TcpStream) -> Result<()> {
    socket2::SockRef::from(&client).set_linger(Some(std::time::Duration::ZERO))?;
    drop((client, server));
    Ok(())
}
