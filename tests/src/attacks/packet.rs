// SPDX-License-Identifier: GPL-2.0-only
//! IPv4 TCP segments of a handshake, read and written by hand.

use std::net::{Ipv4Addr, SocketAddrV4};

const TCP: u8 = 6;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const IP_HEADER: usize = 20;
const TCP_HEADER: usize = 20;

/// A segment without data and options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub from: SocketAddrV4,
    pub to: SocketAddrV4,
    pub seq: u32,
    pub syn: bool,
    /// What it acknowledges, if it does.
    pub ack: Option<u32>,
}

impl Segment {
    /// The segment in a packet that begins with its IPv4 header, if it is one.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let first = *packet.first()?;
        let tcp = packet.get(usize::from(first & 15) * 4..)?;
        if first >> 4 != 4 || *packet.get(9)? != TCP {
            return None;
        }
        let word = |at: usize| Some(u32::from_be_bytes(*tcp.get(at..)?.first_chunk()?));
        let address = |at: usize| Some(Ipv4Addr::from(*packet.get(at..)?.first_chunk::<4>()?));
        let ports = word(0)?;
        let flags = *tcp.get(13)?;
        Some(Self {
            from: SocketAddrV4::new(address(12)?, (ports >> 16) as u16),
            to: SocketAddrV4::new(address(16)?, ports as u16),
            seq: word(4)?,
            syn: flags & SYN != 0,
            ack: (flags & ACK != 0).then_some(word(8)?),
        })
    }

    /// The packet.
    pub fn bytes(&self) -> Vec<u8> {
        let (from, to) = (self.from.ip().octets(), self.to.ip().octets());
        let mut tcp = Vec::with_capacity(TCP_HEADER);
        tcp.extend(self.from.port().to_be_bytes());
        tcp.extend(self.to.port().to_be_bytes());
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.unwrap_or(0).to_be_bytes());
        let ack = if self.ack.is_some() { ACK } else { 0 };
        let syn = if self.syn { SYN } else { 0 };
        tcp.extend([5 << 4, ack | syn, 0xff, 0xff, 0, 0, 0, 0]);
        let pseudo = [&from[..], &to[..], &[0, TCP, 0, TCP_HEADER as u8], &tcp].concat();
        tcp[16..18].copy_from_slice(&checksum(&pseudo).to_be_bytes());
        let length = (IP_HEADER + TCP_HEADER) as u8;
        let mut ip = vec![0x45, 0, 0, length, 0, 0, 0, 0, 64, TCP, 0, 0];
        ip.extend(from);
        ip.extend(to);
        let sum = checksum(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        ip.extend(tcp);
        ip
    }

    /// What its receiver would answer: with a SYN if `seq` is new, and an acknowledgement.
    pub fn answer(&self, seq: u32, syn: bool) -> Self {
        Self {
            from: self.to,
            to: self.from,
            seq,
            syn,
            ack: Some(self.seq.wrapping_add(1)),
        }
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let segment = Segment {
            from: "10.0.0.1:1000".parse().unwrap(),
            to: "10.0.0.2:80".parse().unwrap(),
            seq: 0x8000_0001,
            syn: true,
            ack: Some(7),
        };
        let bytes = segment.bytes();
        assert_eq!(Segment::parse(&bytes), Some(segment));
        assert_eq!(checksum(&bytes[..IP_HEADER]), 0);
        assert_eq!(Segment::parse(&bytes[..30]), None);
        assert_eq!(Segment::parse(&[]), None);
    }
}
