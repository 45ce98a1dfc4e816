// SPDX-License-Identifier: GPL-2.0-only
//! Sequence numbers: seen on the way, as no attacker should be able to, and chosen.

use std::io::Read;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};
use tcp_splice_world::space::Space;

use super::packet::Segment;
use crate::sys;

const REPAIR: i32 = 19;
const REPAIR_QUEUE: i32 = 20;
const QUEUE_SEQ: i32 = 21;
const RECEIVE_QUEUE: i32 = 1;
const SEND_QUEUE: i32 = 2;

/// Sees every packet of a namespace's devices.
pub struct Watch(Socket);

impl Watch {
    pub fn new(space: &Space) -> Result<Self> {
        let all = i32::from((libc::ETH_P_ALL as u16).to_be());
        let socket = space.within(|| {
            Ok(Socket::new(
                Domain::PACKET,
                Type::RAW,
                Some(Protocol::from(all)),
            )?)
        });
        Ok(Self(socket.context("failed to watch packets")?))
    }

    /// The initial sequence numbers of the connection from `port`, the connecting end's first.
    pub fn handshake(mut self, port: u16) -> Result<(u32, u32)> {
        let mut buffer = [0; 2048];
        loop {
            let length = self.0.read(&mut buffer)?;
            let Some(segment) = Segment::parse(buffer.get(14..length).unwrap_or_default()) else {
                continue;
            };
            if segment.syn && segment.ack.is_some() && segment.to.port() == port {
                let acked = segment.ack.unwrap_or_default();
                return Ok((acked.wrapping_sub(1), segment.seq));
            }
        }
    }
}

/// TCP_REPAIR.
pub fn repair(socket: &impl AsRawFd, on: bool) -> Result<()> {
    sys::set_option(socket, libc::IPPROTO_TCP, REPAIR, i32::from(on))
        .context("failed to switch TCP_REPAIR")
}

/// TCP_QUEUE_SEQ of a socket under repair: the numbers of the next bytes to send and to receive.
pub fn choose(socket: &impl AsRawFd, send: u32, receive: u32) -> Result<()> {
    for (queue, number) in [(SEND_QUEUE, send), (RECEIVE_QUEUE, receive)] {
        sys::set_option(socket, libc::IPPROTO_TCP, REPAIR_QUEUE, queue)?;
        sys::set_option(socket, libc::IPPROTO_TCP, QUEUE_SEQ, number as i32)
            .context("failed to choose a sequence number")?;
    }
    Ok(())
}
