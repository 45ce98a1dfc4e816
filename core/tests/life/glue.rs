// SPDX-License-Identifier: GPL-2.0-only
//! The C half of the life of a socket, and of who holds it, as steps on the ghost.
//!
//! Each function here says what the one of the same name in `kmod/` does, line by line; `texts.rs` holds the C that it was written from
//! against the C that ships. What is atomic here and not there: a look at the slot (three loads), and what happens within a bucket of the
//! index of endpoints (the lock of a set).

use crate::explore::{Run, violation};
use crate::kernel::DONE;
use crate::world::{Call, FOREIGN};
use tcp_splice_core::life;

mod calls;
mod drain;
mod options;
mod proto;
mod stale;

/// "None" as an answer.
const NONE: u8 = u8::MAX;

fn some(answer: u8) -> Option<u8> {
    (answer != NONE).then_some(answer)
}

/// `-EAGAIN`, `-ESTALE`, `-EBUSY`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Errno {
    Again,
    Stale,
    Busy,
}

/// What a socket goes back to TCP for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum How {
    ForGood,
    Drained,
    Child,
}

impl Run {
    /// An allocation that may fail.
    pub fn fails(&self) -> bool {
        let may_fail = self.quiet(|world| u8::from(world.memory_fails));
        may_fail != 0 && self.choose(2) == 1
    }

    /* ---- sockets ---- */

    /// `lock_sock()`, or its spinlock when nobody owns it.
    pub fn lock_sock(&self, sk: u8) {
        let actor = self.actor();
        self.wait("lock_sock", |world| {
            let sock = world.sock(sk);
            sock.lock.is_none().then(|| {
                sock.lock = Some(actor);
                DONE
            })
        });
    }

    pub fn release_sock(&self, sk: u8) {
        let actor = self.actor();
        self.quiet(|world| {
            let sock = world.sock(sk);
            if sock.lock != Some(actor) {
                violation("a socket's lock is let go of by somebody else");
            }
            sock.lock = None;
            DONE
        });
    }

    /// One of its patience; whoever finds the socket locked gives up.
    fn lock_unowned(&self, sk: u8, alone: bool) -> bool {
        let actor = self.actor();
        self.step("ts_lock_unowned", |world| {
            let sock = world.sock(sk);
            let free = sock.lock.is_none() && !(alone && sock.socket);
            if free {
                sock.lock = Some(actor);
            }
            u8::from(free)
        }) != 0
    }

    pub fn sock_put(&self, sk: u8) {
        let last = self.step("sock_put", |world| {
            let sock = world.sock(sk);
            if sock.refs == 0 {
                violation(format!("a reference to socket {sk} is dropped twice"));
            }
            sock.refs -= 1;
            u8::from(sock.refs == 0)
        }) != 0;
        if last {
            self.sk_free(sk);
        }
    }

    /// `__sk_free()`, `sk_destruct()`.
    fn sk_free(&self, sk: u8) {
        self.quiet(|world| {
            let sock = world.sock(sk);
            if sock.lock.is_some() || sock.slot.is_some() || !sock.destroyed {
                violation(format!("socket {sk} is freed while in use"));
            }
            if sock.user_data.is_some_and(|data| data != FOREIGN) {
                violation(format!("socket {sk} is freed with an endpoint on it"));
            }
            DONE
        });
        self.quiet(|world| {
            let sock = world.sock(sk);
            if sock.worn {
                violation("the tables of a socket outlive the module's reference");
            }
            sock.freed = true;
            DONE
        });
    }

    /* ---- main.c ---- */

    fn ts_endpoint_free(&self, ep: u8) {
        life::let_go(self, ep);
        self.endpoint_free(ep);
    }

    /// `tcp_splice_endpoint_free()` and `ts_endpoint_unmake()`.
    fn endpoint_free(&self, ep: u8) {
        life::endpoint_free(self, ep);
        self.quiet(|world| {
            if world.module == 0 {
                violation("nothing keeps the module while an endpoint is freed");
            }
            let this = world.ep(ep);
            if this.indexed || this.queued {
                violation(format!("endpoint {ep} is freed while others can find it"));
            }
            this.freed = true;
            DONE
        });
    }

    fn module_get(&self) {
        self.quiet(|world| {
            if world.module == 0 {
                violation("the module may have gone when a reference is taken");
            }
            world.module += 1;
            DONE
        });
    }

    pub(super) fn module_put(&self) {
        self.quiet(|world| {
            if world.module == 0 {
                violation("a reference to the module is dropped twice");
            }
            world.module -= 1;
            DONE
        });
    }

    fn ts_index_remove(&self, ep: u8) {
        self.wait("ts_index_remove", |world| {
            world.registry.is_none().then(|| {
                let this = world.ep(ep);
                if !this.indexed {
                    violation(format!("endpoint {ep} is taken out of the index twice"));
                }
                this.indexed = false;
                DONE
            })
        });
    }

    fn call_rcu(&self, call: Call, ep: u8) {
        self.quiet(|world| {
            world.queue(call, ep, false);
            DONE
        });
    }

    fn ts_endpoint_discard(&self, ep: u8, known: bool) {
        let drains = self.step("ts_drains", |world| world.drains) != 0;
        let disconnects = self.quiet(|world| world.ep(ep).disconnects);
        if !drains && !known && disconnects == 0 {
            self.ts_index_remove(ep);
            self.quiet(|world| {
                world.at_once += 1;
                DONE
            });
            return self.ts_endpoint_free(ep);
        }
        self.module_get();
        if drains {
            self.ts_endpoint_retire(ep);
        } else {
            self.ts_index_remove(ep);
            self.call_rcu(Call::Free, ep);
        }
    }

    fn ts_endpoint_retire(&self, ep: u8) {
        self.ts_index_remove(ep);
        self.call_rcu(Call::Part, ep);
    }

    /// `ts_endpoint_unknown()`.
    fn ts_endpoint_unknown(&self, ep: u8) {
        self.ts_endpoint_free(ep);
        self.module_put();
    }

    fn ts_endpoint_left(&self, ep: u8) {
        self.endpoint_free(ep);
        self.module_put();
    }

    fn ts_endpoint_parted(&self, ep: u8) {
        life::let_go(self, ep);
        self.quiet(|world| {
            world.queue(Call::Leave, ep, true);
            DONE
        });
    }

    /// A callback, after its grace period.
    pub fn callback(&self, call: Call, ep: u8) {
        self.quiet(|world| {
            world.ep(ep).queued = false;
            DONE
        });
        match call {
            Call::Free => self.ts_endpoint_unknown(ep),
            Call::Part => self.ts_endpoint_parted(ep),
            Call::Leave => self.ts_endpoint_left(ep),
        }
    }
}
