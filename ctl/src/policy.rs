// SPDX-License-Identifier: GPL-2.0-only
//! What a policy says, and its layout in the policy program's frozen data (`struct policy` of `bpf/policy.h`).

use serde::Serialize;

use crate::ports::{MAX_PORTS, Ports};

/// Layout version; a policy with another one was written by another version of this tool.
const ABI: u32 = 2;
const PORTS_AT: usize = 28;

/// Which connections are offered to the module, and how it treats them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// Only connections whose two addresses are loopback ones.
    pub loopback_only: bool,
    /// Only connections with one of these ports at either end; empty means every port.
    pub ports: Ports,
    /// How long a receive spins on the ring before it sleeps, in microseconds; 0 leaves it to the socket.
    pub busy_poll_us: u32,
    /// Limit of a ring in KiB; 0 leaves it to the module.
    pub ring_kbytes: u32,
    /// Only connections whose two ends are in one network namespace.
    pub same_netns: bool,
}

impl Policy {
    /// Size of the C structure in bytes.
    pub const SIZE: usize = PORTS_AT + 2 * MAX_PORTS;

    /// The C structure, in this host's byte order.
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let ports = self.ports.as_slice();
        let words = [
            ABI,
            1,
            self.loopback_only.into(),
            self.busy_poll_us,
            self.ring_kbytes,
            self.same_netns.into(),
            ports.len() as u32,
        ];
        let mut bytes = [0; Self::SIZE];
        let (head, tail) = bytes.split_at_mut(PORTS_AT);
        for (at, word) in head.chunks_exact_mut(4).zip(words) {
            at.copy_from_slice(&word.to_ne_bytes());
        }
        for (at, port) in tail.chunks_exact_mut(2).zip(ports) {
            at.copy_from_slice(&port.to_ne_bytes());
        }
        bytes
    }

    /// Reads the C structure; `None` when another version of this tool wrote it.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != Self::SIZE {
            return None;
        }
        let (head, tail) = bytes.split_at(PORTS_AT);
        let mut words = [0; PORTS_AT / 4];
        for (word, at) in words.iter_mut().zip(head.chunks_exact(4)) {
            *word = u32::from_ne_bytes(at.try_into().ok()?);
        }
        let [
            abi,
            enabled,
            loopback_only,
            busy_poll_us,
            ring_kbytes,
            same_netns,
            n_ports,
        ] = words;
        if abi != ABI || enabled != 1 {
            return None;
        }
        let ports = tail.chunks_exact(2).take(n_ports as usize);
        let ports = ports.map(|at| u16::from_ne_bytes([at[0], at[1]]));
        Some(Self {
            loopback_only: loopback_only != 0,
            ports: Ports::new(ports)?,
            busy_poll_us,
            ring_kbytes,
            same_netns: same_netns != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Policy {
        Policy {
            loopback_only: true,
            ports: "6379,80".parse().unwrap(),
            busy_poll_us: 50,
            ring_kbytes: 128,
            same_netns: true,
        }
    }

    #[test]
    fn survives_the_way_into_the_kernel_and_back() {
        let full: Vec<String> = (1..=64).map(|port| (port * 1000).to_string()).collect();
        for policy in [
            Policy::default(),
            sample(),
            Policy {
                ports: full.join(",").parse().unwrap(),
                ..sample()
            },
        ] {
            assert_eq!(Policy::from_bytes(&policy.to_bytes()), Some(policy));
        }
    }

    #[test]
    fn lies_where_the_program_looks() {
        let bytes = sample().to_bytes();
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!([word(0), word(4), word(8)], [2, 1, 1]);
        assert_eq!([word(12), word(16), word(20), word(24)], [50, 128, 1, 2]);
        assert_eq!(bytes[28..30], 80u16.to_ne_bytes());
        assert_eq!(bytes[30..32], 6379u16.to_ne_bytes());
    }

    #[test]
    fn is_not_read_from_another_layout() {
        let bytes = sample().to_bytes();
        assert_eq!(Policy::from_bytes(&bytes[1..]), None);
        let mut other = bytes;
        other[..4].copy_from_slice(&1u32.to_ne_bytes());
        assert_eq!(Policy::from_bytes(&other), None);
        assert_eq!(Policy::from_bytes(&[0; Policy::SIZE]), None);
    }
}
