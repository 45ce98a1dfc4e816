// SPDX-License-Identifier: GPL-2.0-only
//! Where a connection runs: over which family, and within one network namespace or between two.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};

use anyhow::{Context, Result};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::netns::{self, Names};

/// Address family of a connection, seen from the listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4 on both sides.
    V4,
    /// IPv6 on both sides.
    V6,
    /// An IPv4 client at a dual-stack IPv6 listener.
    Mapped,
}

/// One of the ways over which each scenario runs.
#[derive(Clone, Debug)]
pub struct Link {
    /// Address family.
    pub family: Family,
    /// The namespaces of client and server; `None` for loopback.
    pub names: Option<Names>,
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.names.is_some() {
            "netns"
        } else {
            "loopback"
        };
        let family = match self.family {
            Family::V4 => "v4",
            Family::V6 => "v6",
            Family::Mapped => "mapped",
        };
        write!(f, "{place}/{family}")
    }
}

impl Link {
    /// Every link there is, the namespaces' names beginning with `prefix`.
    pub fn all(prefix: &str) -> Vec<Self> {
        let loopback = [Family::V4, Family::V6, Family::Mapped];
        let loopback = loopback.map(|family| Self {
            family,
            names: None,
        });
        let netns = [Family::V4, Family::V6].map(|family| Self {
            family,
            names: Some(Names::new(prefix)),
        });
        loopback.into_iter().chain(netns).collect()
    }

    /// The address a client connects to.
    pub fn target(&self) -> IpAddr {
        match (self.family, self.names.is_some()) {
            (Family::V4 | Family::Mapped, false) => Ipv4Addr::LOCALHOST.into(),
            (Family::V6, false) => Ipv6Addr::LOCALHOST.into(),
            (Family::V4 | Family::Mapped, true) => netns::SERVER_V4,
            (Family::V6, true) => netns::SERVER_V6,
        }
    }

    /// A socket of the client's side.
    pub fn client_socket(&self) -> Result<Socket> {
        let domain = match self.family {
            Family::V4 | Family::Mapped => Domain::IPV4,
            Family::V6 => Domain::IPV6,
        };
        let namespace = self.names.as_ref().map(Names::client);
        socket_within(namespace.as_deref(), domain)
    }

    /// A listener on a free port of the server's side.
    pub fn listen(&self) -> Result<TcpListener> {
        self.listen_on(0)
    }

    /// A listener on `port` of the server's side (0 for a free one), which may have connections of an earlier listener left.
    pub fn listen_on(&self, port: u16) -> Result<TcpListener> {
        let domain = match self.family {
            Family::V4 => Domain::IPV4,
            Family::V6 | Family::Mapped => Domain::IPV6,
        };
        let namespace = self.names.as_ref().map(Names::server);
        let socket = socket_within(namespace.as_deref(), domain)?;
        let any: IpAddr = match self.family {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 | Family::Mapped => Ipv6Addr::UNSPECIFIED.into(),
        };
        if domain == Domain::IPV6 {
            socket.set_only_v6(self.family == Family::V6)?;
        }
        socket.set_reuse_address(port != 0)?;
        socket
            .bind(&SocketAddr::new(any, port).into())
            .context("failed to bind listener")?;
        socket.listen(1024).context("failed to listen")?;
        Ok(socket.into())
    }

    /// What a client connects to in order to reach `listener`.
    pub fn address(&self, listener: &TcpListener) -> Result<SocketAddr> {
        Ok(SocketAddr::new(
            self.target(),
            listener.local_addr()?.port(),
        ))
    }

    /// Connects to `listener`.
    pub fn connect(&self, listener: &TcpListener) -> Result<TcpStream> {
        let socket = self.client_socket()?;
        let address: SockAddr = self.address(listener)?.into();
        socket.connect(&address).context("failed to connect")?;
        Ok(socket.into())
    }

    /// The words that run a program on the server's side.
    pub fn server_words(&self) -> Vec<String> {
        words(self.names.as_ref().map(Names::server))
    }

    /// The words that run a program on the client's side.
    pub fn client_words(&self) -> Vec<String> {
        words(self.names.as_ref().map(Names::client))
    }
}

fn words(namespace: Option<String>) -> Vec<String> {
    let enter = |name: String| vec!["ip".into(), "netns".into(), "exec".into(), name];
    namespace.map(enter).unwrap_or_default()
}

fn socket_within(namespace: Option<&str>, domain: Domain) -> Result<Socket> {
    let make = || Socket::new(domain, Type::STREAM, None).context("failed to make socket");
    match namespace {
        None => make(),
        Some(name) => netns::within(name, make),
    }
}
