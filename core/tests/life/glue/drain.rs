// SPDX-License-Identifier: GPL-2.0-only
//! `kmod/drain.c`, and the walkers of `kmod/pairs.c`.

use super::{Errno, How, NONE, some};
use crate::explore::{Run, violation};
use crate::kernel::DONE;
use crate::scene::Scene;
use tcp_splice_core::life::{self, Kernel};

impl Run {
    /* ---- drain.c ---- */

    /// `ts_carries()`. Socket locked.
    pub(super) fn ts_carries(&self, sk: u8, listed: u8) -> bool {
        self.quiet(|world| u8::from(world.sock(sk).slot == Some(listed))) != 0
    }

    pub(super) fn drain_locked(&self, sk: u8, listed: u8, alone: bool) -> Result<(), Errno> {
        let how = if alone { How::Child } else { How::Drained };
        if !self.lock_unowned(sk, alone) {
            return Err(Errno::Again);
        }
        let closed = alone && self.quiet(|world| u8::from(world.sock(sk).dead)) != 0;
        let carries = self.ts_carries(sk, listed);
        let disconnects = if carries {
            self.quiet(|world| world.ep(listed).disconnects)
        } else {
            0
        };
        self.release_sock(sk);
        if !carries {
            return Err(Errno::Again);
        }
        if !closed {
            self.hand_back(sk, listed, disconnects, how)?;
        }
        if !self.lock_unowned(sk, alone) {
            return Err(Errno::Again);
        }
        let mut result = Err(Errno::Again);
        if self.ts_carries(sk, listed) && (closed || self.link(listed) == 0) {
            if closed {
                life::release(self, listed);
            }
            self.ts_take_off(sk, listed);
            result = Ok(());
        }
        self.release_sock(sk);
        result
    }

    /// One look of `ts_drain_pass()`, at any endpoint.
    pub fn drain(&self, scene: &Scene) {
        self.step("ts_drains + 1", |world| {
            world.drains += 1;
            world.eps.len() as u8
        });
        let ways = self.quiet(|world| world.eps.len() as u8);
        let chosen = if ways > 0 { self.choose(ways) } else { NONE };
        let wanted = some(chosen).map(|ep| (ep, self.index_walk(ep, false)));
        let sk = match wanted {
            Some((ep, Some(sk))) => {
                self.drain_sock(scene, sk, ep);
                Some(sk)
            }
            _ => None,
        };
        if let Some(sk) = sk {
            self.sock_put(sk);
        }
        self.step("ts_drains - 1", |world| {
            world.drains -= 1;
            DONE
        });
    }

    /// The socket of an endpoint that is found in the index, with a reference. `unlinked`: only one without a link is wanted.
    pub(super) fn index_walk(&self, ep: u8, unlinked: bool) -> Option<u8> {
        some(self.wait("ts_index_walk", |world| {
            if world.registry.is_some() {
                return None;
            }
            if world.eps[usize::from(ep)].freed
                || !world.ep(ep).indexed
                || unlinked && world.ep(ep).link != 0
            {
                return Some(NONE);
            }
            let Some(sk) = world.ep(ep).sk else {
                violation("an endpoint in the index without its socket")
            };
            let sock = world.sock(sk);
            if sock.refs == 0 {
                return Some(NONE);
            }
            sock.refs += 1;
            Some(sk)
        }))
    }

    pub(super) fn drain_sock(&self, scene: &Scene, sk: u8, listed: u8) {
        let actor = self.actor();
        let found = self.step("ts_calls_enter, ts_file_of", |world| {
            world.calls_enter(actor);
            let sock = world.sock(sk);
            let file = sock.socket && sock.files > 0;
            if file {
                sock.files += 1;
            }
            u8::from(file) | u8::from(!sock.socket) << 1
        });
        let (file, alone) = (found & 1 != 0, found & 2 != 0);
        if file || alone {
            let _ = self.drain_locked(sk, listed, alone);
        }
        self.calls_leave();
        if file {
            self.fput(scene, sk);
        }
    }

    /* ---- pairs.c ---- */

    /// Shows a pair, and holds it for a look at its rings.
    pub fn walk(&self) {
        let actor = self.actor();
        let ways = self.step("spin_lock", |world| {
            if world.bucket.is_some() {
                return 0;
            }
            world.bucket = Some(actor);
            world.pairs.len() as u8
        });
        let chosen = if ways > 0 { self.choose(ways) } else { NONE };
        let listed = some(chosen).filter(|pair| {
            self.quiet(|world| {
                u8::from(
                    !world.pairs[usize::from(*pair)].freed
                        && world.pairs[usize::from(*pair)].listed,
                )
            }) != 0
        });
        let mut held = None;
        if let Some(pair) = listed {
            self.touch(pair);
            self.show_sock(pair, 0);
            self.show_sock(pair, 1);
            held = (self.step("hold", |world| {
                let this = world.pair(pair);
                let hold = this.refs > 0;
                this.refs += u8::from(hold);
                u8::from(hold)
            }) != 0)
                .then_some(pair);
        }
        self.quiet(|world| {
            if world.bucket == Some(actor) {
                world.bucket = None;
            }
            DONE
        });
        if let Some(pair) = held {
            self.touch(pair);
            life::put(self, pair);
        }
    }
}
