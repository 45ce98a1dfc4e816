// SPDX-License-Identifier: GPL-2.0-only
//! Are these two sockets the two ends of one connection, and may they be joined?
//!
//! Addresses and ports prove nothing: NAT rewrites them, and other network namespaces repeat them. What proves it:
//!
//! 1. both initial sequence numbers agree crosswise (RFC 9293 section 3.4);
//! 2. the in-host witness agrees crosswise: each end's transmit hash (`sk_txhash`, 32 random bits) was seen by the other end on
//!    the segment that finished its handshake. It travels in the packet's metadata, so only a packet that crossed this kernel from that
//!    very socket carries it. IPv6 shows 20 of its bits on the wire as the flow label (`ip6_make_flowlabel()`), but no header sets it: where a
//!    card has put its own hash of a packet instead, that would have to equal 32 random bits. A sock_ops program can set it
//!    (`skops.sk_txhash`), which takes CAP_BPF and CAP_NET_ADMIN of the host;
//! 3. both ends live in one network namespace, or in two that belong to the initial user namespace, and the policies of both allow that.
//!
//! Each rule stops an attack that the others let through; the tests at the end of this file are that table.

/// Defines an enum of reasons with their names and explanations in words.
macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why a connection was not paired. It stays plain TCP.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Refusal { $($(#[$doc])* $variant,)* }

        impl Refusal {
            /// Every reason, in the order of their numbers.
            pub const ALL: &'static [Refusal] = &[$(Refusal::$variant),*];

            /// Name of the counter, without its prefix `refused_`.
            pub const fn name(self) -> &'static str {
                match self { $(Refusal::$variant => $name,)* }
            }
        }
    };
}

reasons! {
    /// Called from a callback other than ACTIVE or PASSIVE_ESTABLISHED, or without the socket's lock.
    Callback = "callback",
    /// The handshake was not a plain three-way one: repair mode, fast open, or no segment to look at.
    Handshake = "handshake",
    /// The socket belongs to the kernel, or is not a plain TCP socket.
    NotPlainTcp = "not_plain_tcp",
    /// Somebody else has taken hold of the socket: an upper-layer protocol, a sockmap, or its callbacks.
    Taken = "taken",
    /// Multipath TCP or SMC.
    Multipath = "multipath",
    /// Packets of this connection are signed, encrypted or filtered (TCP-MD5, TCP-AO, IPsec, PSP, socket filter).
    PacketPolicy = "packet_policy",
    /// Urgent data is under way.
    Urgent = "urgent",
    /// The segment came from a device that does not lead to another socket of this host.
    Remote = "remote",
    /// The segment carried no transmit hash of a local socket.
    NoWitness = "no_witness",
    /// No end of this connection was offered.
    NoOffer = "no_offer",
    /// An offer with these sequence numbers exists, but its witness differs.
    Witness = "witness",
    /// The two ends live in network namespaces that may not be joined.
    Namespace = "namespace",
    /// More than one offer would fit.
    Ambiguous = "ambiguous",
    /// Its namespace had as many offers waiting as it may, and a newer one of the same namespace took the place.
    Share = "share",
    /// The table of offers was full, and one of a namespace with fewer took the place.
    TableFull = "table_full",
    /// No memory.
    NoMemory = "no_memory",
    /// Too many connections that have ended wait for a call, of whatever socket, that is stuck.
    HeldUp = "held_up",
}

impl Refusal {
    /// Does it say something of this connection that an operator would want to know of it? Not when it leads to another host, or its other
    /// end does not take part: nobody would look for it among the spliced ones.
    pub const fn is_noted(self) -> bool {
        !matches!(
            self,
            Refusal::Callback | Refusal::Remote | Refusal::NoWitness | Refusal::NoOffer
        )
    }

    /// The reason with this number.
    pub fn from_number(number: u8) -> Option<Refusal> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// Which end of the handshake a socket was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It connected (`ACTIVE_ESTABLISHED`).
    Active,
    /// It was accepted (`PASSIVE_ESTABLISHED`).
    Passive,
}

/// What is known of one end when its handshake ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Facts {
    /// Identity of the socket.
    pub id: u64,
    /// `write_seq`: own initial sequence number plus one.
    pub write_seq: u32,
    /// `rcv_nxt`: the other end's initial sequence number plus one.
    pub rcv_nxt: u32,
    /// Own transmit hash (`sk_txhash`).
    pub txhash: u32,
    /// Transmit hash on the segment that finished the handshake, if it carried one.
    pub peer_hash: Option<u32>,
    /// Identity of the network namespace.
    pub netns: u64,
    /// May the other end be in another namespace? This one belongs to the initial user namespace, and the end's policy allows it.
    pub may_cross: bool,
}

/// Do the sequence numbers agree crosswise? (rule 1)
pub const fn same_connection(a: &Facts, b: &Facts) -> bool {
    a.write_seq == b.rcv_nxt && a.rcv_nxt == b.write_seq && a.id != b.id
}

/// May these two ends be joined?
pub fn judge(a: &Facts, b: &Facts) -> Result<(), Refusal> {
    if !same_connection(a, b) {
        return Err(Refusal::NoOffer);
    }
    if a.peer_hash != Some(b.txhash) || b.peer_hash != Some(a.txhash) {
        return Err(Refusal::Witness);
    }
    if a.netns != b.netns && !(a.may_cross && b.may_cross) {
        return Err(Refusal::Namespace);
    }
    Ok(())
}

/// Obstacles that the glue sees on a socket, a bit each.
///
/// The glue only collects; [`screen`] decides. Values are shared with `glue.h`.
pub mod obstacle {
    /// Not one of the two established callbacks, not a full socket, or not locked.
    pub const CALLBACK: u32 = 1 << 0;
    /// No segment, repair mode, or fast open.
    pub const HANDSHAKE: u32 = 1 << 1;
    /// Kernel socket, unexpected state, family or protocol table.
    pub const NOT_PLAIN: u32 = 1 << 2;
    /// ULP, `sk_user_data`, psock or foreign callbacks.
    pub const TAKEN: u32 = 1 << 3;
    /// MPTCP or SMC.
    pub const MULTIPATH: u32 = 1 << 4;
    /// MD5, AO, xfrm, PSP or a socket filter.
    pub const POLICY: u32 = 1 << 5;
    /// Urgent data.
    pub const URGENT: u32 = 1 << 6;
    /// The segment's device is neither loopback nor veth.
    pub const REMOTE: u32 = 1 << 7;
    /// `ts_is_held_up()`.
    pub const HELD_UP: u32 = 1 << 8;
}

/// Turns what the glue saw into the reason to refuse, if there is one. The gravest comes first, so that a counter means one thing.
pub fn screen(obstacles: u32, peer_hash: Option<u32>) -> Result<(), Refusal> {
    const ORDER: [(u32, Refusal); 9] = [
        (obstacle::CALLBACK, Refusal::Callback),
        (obstacle::HANDSHAKE, Refusal::Handshake),
        (obstacle::NOT_PLAIN, Refusal::NotPlainTcp),
        (obstacle::TAKEN, Refusal::Taken),
        (obstacle::MULTIPATH, Refusal::Multipath),
        (obstacle::POLICY, Refusal::PacketPolicy),
        (obstacle::URGENT, Refusal::Urgent),
        (obstacle::REMOTE, Refusal::Remote),
        (obstacle::HELD_UP, Refusal::HeldUp),
    ];
    if obstacles != 0 {
        for (bit, reason) in ORDER {
            if obstacles & bit != 0 {
                return Err(reason);
            }
        }
    }
    match peer_hash {
        Some(_) => Ok(()),
        None => Err(Refusal::NoWitness),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const CLIENT: Facts = Facts {
        id: 1,
        write_seq: 1000,
        rcv_nxt: 2000,
        txhash: 0xaaaa,
        peer_hash: Some(0xbbbb),
        netns: 7,
        may_cross: true,
    };
    const SERVER: Facts = Facts {
        id: 2,
        write_seq: 2000,
        rcv_nxt: 1000,
        txhash: 0xbbbb,
        peer_hash: Some(0xaaaa),
        netns: 7,
        may_cross: true,
    };

    /// The attack and failure matrix: each line is a pair of ends and what must become of it.
    #[test]
    fn decisions() {
        let own_ns = |f: Facts| Facts {
            netns: 8,
            may_cross: false,
            ..f
        };
        let table = [
            ("two ends of one connection", CLIENT, SERVER, Ok(())),
            ("either may be looked at first", SERVER, CLIENT, Ok(())),
            (
                "veth between containers of the host's user namespace",
                CLIENT,
                Facts { netns: 8, ..SERVER },
                Ok(()),
            ),
            (
                "a socket connected to itself",
                CLIENT,
                Facts { id: 1, ..SERVER },
                Err(Refusal::NoOffer),
            ),
            (
                "a stranger with one ISN right",
                CLIENT,
                Facts {
                    write_seq: 2001,
                    ..SERVER
                },
                Err(Refusal::NoOffer),
            ),
            (
                "a stranger with the other ISN right",
                CLIENT,
                Facts {
                    rcv_nxt: 1001,
                    ..SERVER
                },
                Err(Refusal::NoOffer),
            ),
            (
                "attacker's own namespace, ISNs chosen by TCP_QUEUE_SEQ, packets written by hand",
                own_ns(Facts {
                    peer_hash: None,
                    ..CLIENT
                }),
                SERVER,
                Err(Refusal::Witness),
            ),
            (
                "the same with a guessed hash on one side",
                own_ns(Facts {
                    peer_hash: Some(0xbbbb),
                    txhash: 0xdead,
                    ..CLIENT
                }),
                SERVER,
                Err(Refusal::Witness),
            ),
            (
                "hash learnt, still a namespace of an unprivileged user",
                own_ns(CLIENT),
                SERVER,
                Err(Refusal::Namespace),
            ),
            (
                "unprivileged namespace on the accepting side",
                CLIENT,
                own_ns(SERVER),
                Err(Refusal::Namespace),
            ),
            (
                "both ends in one unprivileged namespace",
                own_ns(CLIENT),
                own_ns(SERVER),
                Ok(()),
            ),
            (
                "rehashed SYN-ACK",
                CLIENT,
                Facts {
                    txhash: 0xbbbc,
                    ..SERVER
                },
                Err(Refusal::Witness),
            ),
            (
                "hash wiped on the way",
                CLIENT,
                Facts {
                    peer_hash: None,
                    ..SERVER
                },
                Err(Refusal::Witness),
            ),
        ];
        for (what, a, b, want) in table {
            assert_eq!(judge(&a, &b), want, "{what}");
            assert_eq!(judge(&b, &a), want, "{what}, the other way round");
        }
    }

    #[test]
    fn every_obstacle_has_its_reason() {
        assert_eq!(screen(0, Some(1)), Ok(()));
        assert_eq!(screen(0, None), Err(Refusal::NoWitness));
        let mut seen = [false; 8];
        for bit in 0..8u32 {
            let Err(reason) = screen(1 << bit, Some(1)) else {
                panic!("bit {bit} passes")
            };
            assert!(
                !core::mem::replace(&mut seen[reason as usize], true),
                "bit {bit} shares a reason"
            );
        }
        assert_eq!(
            screen(u32::MAX, None),
            Err(Refusal::Callback),
            "the gravest comes first"
        );
    }

    #[test]
    fn names_are_unique() {
        for (i, a) in Refusal::ALL.iter().enumerate() {
            assert_eq!(*a as usize, i);
            assert!(Refusal::ALL[..i].iter().all(|b| b.name() != a.name()));
        }
    }
}
