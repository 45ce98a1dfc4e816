// SPDX-License-Identifier: GPL-2.0-only
//! Why a connection's bytes go over TCP although its ends are paired.

/// Why a lane does not use its ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// It uses it, or has not begun to.
    None,
    /// A message needed packets: control messages, MSG_ZEROCOPY.
    Message,
    /// Urgent data.
    Urgent,
    /// One of the sockets needs packets: timestamps, a filter, repair mode, another reader.
    Packets,
    /// A sender that had begun before went past the module.
    Stray,
    /// The ring could not get memory.
    Memory,
    /// A reader slept in TCP's own recv().
    Reader,
    /// The other end has closed, or reads no more.
    Closed,
    /// One end went back to TCP for good: kTLS, repair mode, MD5, AO, IPV6_ADDRFORM.
    HandedBack,
    /// The module let go of one end (`tcp-splice-ctl drain`).
    Drained,
}

impl Reason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Reason; 10] = [
        Reason::None,
        Reason::Message,
        Reason::Urgent,
        Reason::Packets,
        Reason::Stray,
        Reason::Memory,
        Reason::Reader,
        Reason::Closed,
        Reason::HandedBack,
        Reason::Drained,
    ];

    /// The word that `/proc/net/tcp_splice` and the `left_` counters use.
    pub fn name(self) -> &'static str {
        match self {
            Reason::None => "none",
            Reason::Message => "message",
            Reason::Urgent => "urgent",
            Reason::Packets => "packets",
            Reason::Stray => "stray",
            Reason::Memory => "memory",
            Reason::Reader => "reader",
            Reason::Closed => "closed",
            Reason::HandedBack => "handed_back",
            Reason::Drained => "drained",
        }
    }

    /// The reason with this number; `None`, the reason, if there is no such.
    pub fn from_number(number: u8) -> Reason {
        Self::ALL
            .get(usize::from(number))
            .copied()
            .unwrap_or(Reason::None)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn numbers_lead_back() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_number(reason as u8), reason);
        }
        assert_eq!(Reason::from_number(200), Reason::None);
    }

    #[test]
    fn names_differ() {
        let names: std::collections::BTreeSet<_> = Reason::ALL.map(Reason::name).into();
        assert_eq!(names.len(), Reason::ALL.len());
    }
}
