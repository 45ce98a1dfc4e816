// SPDX-License-Identifier: GPL-2.0-only
//! The ghost: what exists, who has it, and what must never be seen.

use crate::explore::violation;
use tcp_splice_core::life::Side;
use tcp_splice_core::registry::Set;

/// The connecting end's socket, the accepted end's, and the accepted end's of a second connection of the first.
pub const ACTIVE: u8 = 0;
pub const PASSIVE: u8 = 1;
pub const SECOND: u8 = 2;

/// What somebody else has put into `sk_user_data`.
pub const FOREIGN: u8 = u8::MAX;

/// A socket, and what the kernel knows of it.
#[derive(Clone, Debug, Default, Hash)]
pub struct Sock {
    pub refs: u8,
    pub freed: bool,
    /// Who has its lock.
    pub lock: Option<u8>,
    /// Descriptors, and calls that hold one.
    pub files: u8,
    /// It has a `struct socket`.
    pub socket: bool,
    /// `SOCK_DEAD`.
    pub dead: bool,
    /// TCP is established or about to be.
    pub alive: bool,
    /// `tcp_v4_destroy_sock()` has run.
    pub destroyed: bool,
    pub disconnects: u8,
    /// Our endpoint in the ULP slot.
    pub slot: Option<u8>,
    /// Somebody else's ULP is there.
    pub foreign: bool,
    pub user_data: Option<u8>,
    /// It wears our tables.
    pub worn: bool,
}

/// An endpoint, C's part and Rust's.
#[derive(Clone, Debug, Default, Hash)]
pub struct Ep {
    pub freed: bool,
    pub sk: Option<u8>,
    pub link: u8,
    pub disconnects: u8,
    pub indexed: bool,
    /// `->rcu` is on a list.
    pub queued: bool,
    pub closed: bool,
    pub linked: u8,
    pub withdrawn: bool,
}

/// A pair.
#[derive(Clone, Debug, Default, Hash)]
pub struct Pair {
    pub freed: bool,
    pub made: bool,
    pub listed: bool,
    pub unlisted: bool,
    pub rings_freed: bool,
    pub slots: [Option<u8>; 2],
    pub refs: u8,
    /// Lane locks: 0 and 1 send, 2 and 3 receive.
    pub locks: [Option<u8>; 4],
}

/// Which function an RCU callback is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// `ts_endpoint_free()`.
    Free,
    /// `ts_endpoint_parted()`.
    Part,
    /// `ts_endpoint_left()`.
    Leave,
}

/// A callback that waits for a grace period.
#[derive(Clone, Debug, Hash)]
pub struct Callback {
    pub call: Call,
    pub ep: u8,
    /// The read sections that were open when it was queued, and still are: a bit for each actor.
    pub waits: u32,
    /// They are those of `ts_calls`.
    pub srcu: bool,
}

/// Everything but the actors.
#[derive(Clone, Debug, Hash)]
pub struct World {
    pub socks: Vec<Sock>,
    pub eps: Vec<Ep>,
    pub pairs: Vec<Pair>,
    pub table: Set,
    /// Who has the lock of the only set, and the lock of the bucket of pairs.
    pub registry: Option<u8>,
    pub bucket: Option<u8>,
    /// Who is inside an RCU read-side section, and inside `ts_calls`: a bit for each actor.
    pub rcu: u32,
    pub calls: u32,
    pub callbacks: Vec<Callback>,
    pub drains: u8,
    pub module: u8,
    /// Made less gone.
    pub endpoints: i8,
    pub pairs_alive: i8,
    /// Endpoints that were freed without a grace period; for tests that want to see it.
    pub at_once: u8,
    /// Allocations may fail.
    pub memory_fails: bool,
}

/// The link word of a side of a pair.
pub fn word(pair: u8, side: Side) -> u8 {
    (pair + 1) << 1 | side as u8
}

/// What a link word says.
pub fn at(word: u8) -> Option<(u8, Side)> {
    let side = if word & 1 == 0 {
        Side::Active
    } else {
        Side::Passive
    };
    (word > 1).then(|| ((word >> 1) - 1, side))
}

impl World {
    /// The connecting socket has its descriptor, the accepted ones have none yet.
    pub fn new(socks: u8) -> Self {
        let sock = |index| Sock {
            refs: 1,
            files: u8::from(index == ACTIVE),
            socket: index == ACTIVE,
            alive: true,
            ..Sock::default()
        };
        World {
            socks: (0..socks).map(sock).collect(),
            eps: Vec::new(),
            pairs: Vec::new(),
            table: Set::EMPTY,
            registry: None,
            bucket: None,
            rcu: 0,
            calls: 0,
            callbacks: Vec::new(),
            drains: 0,
            module: 0,
            endpoints: 0,
            pairs_alive: 0,
            at_once: 0,
            memory_fails: false,
        }
    }

    /// A socket that is used, and therefore there.
    pub fn sock(&mut self, sk: u8) -> &mut Sock {
        let sock = &mut self.socks[usize::from(sk)];
        if sock.freed {
            violation(format!("socket {sk} is used after it was freed"));
        }
        sock
    }

    /// As above.
    pub fn ep(&mut self, ep: u8) -> &mut Ep {
        let this = &mut self.eps[usize::from(ep)];
        if this.freed {
            violation(format!("endpoint {ep} is used after it was freed"));
        }
        this
    }

    /// As above.
    pub fn pair(&mut self, pair: u8) -> &mut Pair {
        let this = &mut self.pairs[usize::from(pair)];
        if this.freed || this.rings_freed {
            violation(format!("pair {pair} is used after it was freed"));
        }
        this
    }

    /// `ts_endpoint()`.
    pub fn find(&mut self, sk: u8) -> Option<u8> {
        let sock = self.sock(sk);
        sock.slot.filter(|ep| sock.user_data == Some(*ep))
    }

    /// `ts_link()`.
    pub fn find_link(&mut self, sk: u8) -> u8 {
        self.find(sk).map_or(0, |ep| self.ep(ep).link)
    }

    /// `ts_slots_are_free()`.
    pub fn slots_are_free(&mut self, sk: u8) -> bool {
        let sock = self.sock(sk);
        sock.slot.is_none() && !sock.foreign && sock.user_data.is_none()
    }

    /// Enters the RCU read-side section.
    pub fn rcu_enter(&mut self, actor: u8) {
        if self.rcu >> actor & 1 == 1 {
            violation("a read section in itself");
        }
        self.rcu |= 1 << actor;
    }

    /// Leaves it; whoever waited for it waits no more.
    pub fn rcu_leave(&mut self, actor: u8) {
        self.rcu &= !(1 << actor);
        for callback in self.callbacks.iter_mut().filter(|callback| !callback.srcu) {
            callback.waits &= !(1 << actor);
        }
    }

    /// `ts_calls_enter()`.
    pub fn calls_enter(&mut self, actor: u8) {
        if self.calls >> actor & 1 == 1 {
            violation("a call in itself");
        }
        self.calls |= 1 << actor;
    }

    /// `ts_calls_leave()`.
    pub fn calls_leave(&mut self, actor: u8) {
        self.calls &= !(1 << actor);
        for callback in self.callbacks.iter_mut().filter(|callback| callback.srcu) {
            callback.waits &= !(1 << actor);
        }
    }

    /// `call_rcu()`, or `call_srcu()` of `ts_calls`. The earliest end of a grace period: no read section is open that was open now.
    pub fn queue(&mut self, call: Call, ep: u8, srcu: bool) {
        let this = self.ep(ep);
        if this.queued {
            violation(format!(
                "the callback head of endpoint {ep} is on two lists"
            ));
        }
        this.queued = true;
        let waits = if srcu { self.calls } else { self.rcu };
        self.callbacks.push(Callback {
            call,
            ep,
            waits,
            srcu,
        });
    }

    /// What must hold in every state.
    pub fn check(&self) {
        for handle in self.table.handles().filter(|_| self.registry.is_none()) {
            let ep = &self.eps[handle as usize];
            let sock = ep.sk.map(|sk| &self.socks[usize::from(sk)]);
            if ep.freed || sock.is_none_or(|sock| sock.freed || sock.destroyed) {
                violation("a handle in the table of an endpoint or socket that is gone");
            }
            if ep.withdrawn {
                violation("an offer in the table after it was withdrawn");
            }
        }
        for (index, ep) in self.eps.iter().enumerate().filter(|(_, ep)| !ep.freed) {
            if ep.withdrawn && (ep.link != 0 || ep.linked != 0) {
                violation(format!("endpoint {index} is linked after it was withdrawn"));
            }
            if let Some((pair, side)) = at(ep.link) {
                let pair = &self.pairs[usize::from(pair)];
                if pair.freed || ep.linked != ep.link {
                    violation(format!("endpoint {index} has a link to nowhere"));
                }
                if pair.slots[side as usize].is_some_and(|sk| ep.sk.is_some_and(|own| own != sk)) {
                    violation(format!("endpoint {index} stands where another socket does"));
                }
            }
        }
        for pair in self.pairs.iter().filter(|pair| pair.made && !pair.freed) {
            for sk in pair.slots.iter().flatten() {
                if self.socks[usize::from(*sk)].freed {
                    violation("a slot of a pair has a socket that was freed");
                }
            }
        }
    }

    /// What must hold when nothing is left to happen.
    pub fn check_end(&self) {
        for (index, sock) in self.socks.iter().enumerate() {
            if !sock.freed {
                violation(format!("socket {index} is never freed: {sock:?}"));
            }
        }
        if let Some(index) = self.eps.iter().position(|ep| !ep.freed) {
            violation(format!(
                "endpoint {index} is never freed: {:?}",
                self.eps[index]
            ));
        }
        if let Some(index) = self.pairs.iter().position(|pair| !pair.freed) {
            violation(format!(
                "pair {index} is never freed: {:?}",
                self.pairs[index]
            ));
        }
        if self.endpoints != 0 || self.pairs_alive != 0 {
            violation("the counters of what was made and what is gone differ");
        }
        if self.module != 0 {
            violation("a module reference is left");
        }
        if !self.callbacks.is_empty() || self.rcu != 0 || self.calls != 0 || self.drains != 0 {
            violation("something is still under way");
        }
    }
}
