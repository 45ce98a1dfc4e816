// SPDX-License-Identifier: GPL-2.0-only
//! In a namespace of its own an attacker may make a TUN device and write packets by hand. So it can give a socket any peer:
//! the addresses, ports and initial sequence numbers of the victim's connection, in a handshake that is not to be told from a
//! real one by what stands in its packets. It does not help: packets out of such a device are not those of a socket of this
//! host, which the device says already. A TAP device behind a bridge of the attacker's is not to be told from a container's, but
//! its packets have no transmit hash, which comes from no header and no user can set.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Socket, Type};
use tcp_splice_world::counters::Counters;
use tcp_splice_world::program::run;

use super::attacker::{Attacker, ip, numbers};
use super::numbers::{choose, repair};
use super::packet::Segment;
use super::tenant::{CLIENT, PORT, SERVER, Tenant};
use super::{await_counter, moved_exactly};
use crate::env::{Claim, Env};
use crate::scenario::Scenario;
use crate::sys;

pub const ALL: &[Scenario] = &[
    Scenario::one("tun_as_the_client", |_| as_the_client(Kind::Tun)).spliced_only(),
    Scenario::one("tun_as_the_server", as_the_server).spliced_only(),
    Scenario::one("tap_behind_a_bridge", |_| as_the_client(Kind::BridgedTap)).spliced_only(),
];

const VICTIM: u16 = 32_000;
const TUN: &str = "/dev/net/tun";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tun,
    BridgedTap,
}

/// Lets everybody open the device, as distributions do.
struct OpenToAll(fs::Permissions);

impl OpenToAll {
    fn new() -> Result<Self> {
        // Built in on some kernels.
        let _ = run(&["modprobe", "tun"]);
        let before = fs::metadata(TUN)
            .context("failed to find the TUN device")?
            .permissions();
        fs::set_permissions(TUN, fs::Permissions::from_mode(0o666))?;
        Ok(Self(before))
    }
}

impl Drop for OpenToAll {
    fn drop(&mut self) {
        let _ = fs::set_permissions(TUN, self.0.clone());
    }
}

/// A device whose other side is the attacker's program.
struct Hand {
    device: File,
    kind: Kind,
}

/// Hardware addresses of the bridge, and of the host that is not there.
const BRIDGE: [u8; 6] = [2, 0, 0, 0, 0, 1];
const NOBODY: [u8; 6] = [2, 0, 0, 0, 0, 2];

impl Hand {
    /// Makes the device, and `own` an address of this namespace; `other` is beyond the device.
    fn new(kind: Kind, own: Ipv4Addr, other: Ipv4Addr) -> Result<Self> {
        let device = sys::open_tun("hand", kind == Kind::BridgedTap)?;
        let (out, bridge) = match kind {
            Kind::Tun => ("hand", String::new()),
            Kind::BridgedTap => (
                "br0",
                format!(
                    "link add br0 address 02:00:00:00:00:01 type bridge\n\
                     link set hand master br0\n\
                     link set br0 up\n\
                     neigh add {other} lladdr 02:00:00:00:00:02 dev br0\n"
                ),
            ),
        };
        ip(&format!(
            "link set lo up\n\
             link set hand up\n\
             addr add {own}/32 dev lo\n\
             {bridge}\
             route add {other}/32 dev {out} src {own}\n"
        ))?;
        Ok(Self { device, kind })
    }

    fn write(&mut self, segment: &Segment) -> Result<()> {
        let mut packet = Vec::new();
        if self.kind == Kind::BridgedTap {
            packet.extend([BRIDGE, NOBODY].concat());
            packet.extend((libc::ETH_P_IP as u16).to_be_bytes());
        }
        packet.extend(segment.bytes());
        self.device
            .write_all(&packet)
            .context("failed to write a packet")
    }

    /// The next segment from the kernel that has a SYN, or has none.
    fn read(&mut self, syn: bool) -> Result<Segment> {
        let header = if self.kind == Kind::BridgedTap { 14 } else { 0 };
        let mut buffer = [0; 2048];
        loop {
            let length = self.device.read(&mut buffer)?;
            let packet = buffer.get(header..length).unwrap_or_default();
            match Segment::parse(packet) {
                Some(segment) if segment.syn == syn => return Ok(segment),
                _ => {}
            }
        }
    }
}

/// The attacker's socket connects with the victim's numbers to a server that is its own hand.
fn client_attacker(kind: Kind) -> Result<Attacker> {
    Attacker::start(|| {
        let mut hand = Hand::new(kind, CLIENT, SERVER)?;
        let mut sockets: Vec<TcpStream> = Vec::new();
        Ok(move |order: &str| {
            let [port, client_isn, server_isn] = numbers(order)?;
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            repair(&socket, true)?;
            socket.bind(&SocketAddrV4::new(CLIENT, port as u16).into())?;
            choose(&socket, client_isn, 0)?;
            repair(&socket, false)?;
            socket.set_nonblocking(true)?;
            // In progress.
            let _ = socket.connect(&SocketAddrV4::new(SERVER, PORT).into());
            let syn = hand.read(true)?;
            ensure!(syn.seq == client_isn, "the SYN has another number");
            hand.write(&syn.answer(server_isn, true))?;
            let ack = hand.read(false)?;
            ensure!(ack.ack == Some(server_isn.wrapping_add(1)), "{ack:?}");
            sockets.push(socket.into());
            Ok(String::new())
        })
    })
}

/// With the victim's numbers, between the two moments at which its ends are offered.
fn as_the_client(kind: Kind) -> Result<Claim> {
    let _open = OpenToAll::new()?;
    let mut attacker = client_attacker(kind)?;
    let tenant = Tenant::new()?;
    let before = Counters::read()?;
    let halfway = tenant.connect_halfway(VICTIM)?;
    let (mine, yours) = halfway.numbers;
    attacker.order(&format!("{VICTIM} {mine} {yours}"))?;
    let refused = match kind {
        Kind::Tun => ("refused_remote", 1),
        Kind::BridgedTap => ("refused_no_witness", 1),
    };
    moved_exactly(&before, &[refused, ("offers_made", 1), ("pairs_made", 0)])?;
    let conn = halfway.finish(1)?;
    moved_exactly(&before, &[refused, ("offers_made", 1), ("pairs_made", 1)])?;
    drop(conn);
    Ok(Claim::ring(400))
}

/// The attacker's listener is connected to by its own hand, which has the victim's number; its own number the kernel draws.
fn as_the_server(_env: &Env) -> Result<Claim> {
    let _open = OpenToAll::new()?;
    let mut attacker = Attacker::start(|| {
        let mut hand = Hand::new(Kind::Tun, SERVER, CLIENT)?;
        let listener = TcpListener::bind(SocketAddrV4::new(SERVER, PORT))?;
        let mut sockets = Vec::new();
        Ok(move |order: &str| {
            let [port, client_isn] = numbers(order)?;
            let syn = Segment {
                from: SocketAddrV4::new(CLIENT, port as u16),
                to: SocketAddrV4::new(SERVER, PORT),
                seq: client_isn,
                syn: true,
                ack: None,
            };
            hand.write(&syn)?;
            let answer = hand.read(true)?;
            hand.write(&answer.answer(client_isn.wrapping_add(1), false))?;
            sockets.push(listener.accept()?);
            Ok(String::new())
        })
    })?;
    let tenant = Tenant::new()?;
    let before = Counters::read()?;
    let halfway = tenant.connect_halfway(VICTIM)?;
    attacker.order(&format!("{VICTIM} {}", halfway.numbers.0))?;
    let refused = ("refused_remote", 1);
    await_counter(&before, refused.0, refused.1)?;
    moved_exactly(&before, &[refused, ("offers_made", 1), ("pairs_made", 0)])?;
    let conn = halfway.finish(2)?;
    moved_exactly(&before, &[refused, ("offers_made", 1), ("pairs_made", 1)])?;
    drop(conn);
    Ok(Claim::ring(400))
}
