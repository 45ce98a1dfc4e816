// SPDX-License-Identifier: GPL-2.0-only
//! `kmod/options.c`, and the hand-back of `kmod/src/teardown.rs` without the bytes.

use super::{Errno, How};
use crate::explore::Run;
use crate::kernel::DONE;
use crate::scene::Scene;
use tcp_splice_core::life::{self, Kernel};

impl Run {
    /* ---- options.c ---- */

    /// setsockopt(TCP_ULP).
    pub fn set_ulp(&self, scene: &Scene, sk: u8) {
        self.fget(sk);
        if self.wears(sk) {
            let ep = self.calls_enter(sk);
            self.ts_set_option(sk, ep);
            self.calls_leave();
        }
        self.fput(scene, sk);
    }

    /// `ts_hand_back()`.
    pub(super) fn hand_back_for_good(&self, sk: u8, mut ep: Option<u8>) -> bool {
        loop {
            let Some(this) = ep else { return true };
            let disconnects = self.quiet(|world| world.ep(this).disconnects);
            match self.hand_back(sk, this, disconnects, How::ForGood) {
                Ok(()) => return true,
                Err(Errno::Stale) => {
                    self.lock_sock(sk);
                    self.release_sock(sk);
                    ep = self.ts_endpoint(sk);
                }
                Err(_) => return false,
            }
        }
    }

    /// `ts_set_option()`, of TCP_ULP.
    pub(super) fn ts_set_option(&self, sk: u8, mut ep: Option<u8>) {
        loop {
            if !self.hand_back_for_good(sk, ep) {
                return;
            }
            if self.ts_let_go_of(sk) {
                break;
            }
            ep = self.ts_endpoint(sk);
        }
        // Base: there is a ULP of this name, or not.
        self.lock_sock(sk);
        let taken = self.choose(2) == 1;
        self.step("tcp_set_ulp", |world| {
            let sock = world.sock(sk);
            if taken && sock.alive && sock.slot.is_none() && !sock.foreign && !sock.destroyed {
                sock.foreign = true;
            }
            DONE
        });
        self.release_sock(sk);
        if taken {
            let ep = self.ts_endpoint(sk);
            self.hand_back_for_good(sk, ep);
        }
    }

    pub(super) fn ts_let_go_of(&self, sk: u8) -> bool {
        self.lock_sock(sk);
        let mut paired = false;
        match self.ts_endpoint(sk) {
            Some(ep) => {
                life::withdraw(self, ep);
                paired = self.step("ts_link", |world| world.find_link(sk)) != 0;
                if !paired {
                    self.ts_take_off(sk, ep);
                }
            }
            None => self.ts_uninstall_protocol(sk),
        }
        self.release_sock(sk);
        !paired
    }

    /* ---- src/teardown.rs: tcp_splice_hand_back(), without the bytes ---- */

    pub(super) fn hand_back(&self, sk: u8, ep: u8, disconnects: u8, how: How) -> Result<(), Errno> {
        let Some((pair, side)) = life::settle(self, ep) else {
            return Ok(());
        };
        let (tx, rx) = (side as u8, side as u8 | 2);
        if how == How::ForGood {
            self.lane_lock(pair, tx);
        } else if !self.lane_trylock(pair, tx) {
            return Err(Errno::Again);
        }
        self.touch(pair);
        self.lane_unlock(pair, tx);
        self.notify(pair, side as u8);
        self.touch(pair);
        self.notify(pair, 1 - side as u8);
        if how == How::ForGood {
            self.lane_lock(pair, rx);
        } else if !self.lane_trylock(pair, rx) {
            return Err(Errno::Again);
        }
        let result = self.return_unread(sk, ep, disconnects, how);
        self.lane_unlock(pair, rx);
        if result.is_err() {
            self.touch(pair);
            self.notify(pair, side as u8);
            self.touch(pair);
            self.notify(pair, 1 - side as u8);
        }
        result
    }

    pub(super) fn return_unread(
        &self,
        sk: u8,
        ep: u8,
        disconnects: u8,
        how: How,
    ) -> Result<(), Errno> {
        if self.link(ep) == 0 {
            return Ok(());
        }
        // ts_queue_insert()
        if how == How::ForGood {
            self.lock_sock(sk);
        } else if !self.lock_unowned(sk, how == How::Child) {
            return Err(Errno::Again);
        }
        let verdict = self.quiet(|world| {
            let sock = world.sock(sk);
            if how == How::Child && sock.dead {
                1
            } else if sock.disconnects != disconnects {
                2
            } else {
                0
            }
        });
        self.release_sock(sk);
        match verdict {
            0 => {}
            1 => return Err(Errno::Again),
            _ => return Err(Errno::Stale),
        }
        // Urgent data, or no memory.
        if self.fails() {
            return Err(Errno::Busy);
        }
        life::leave(self, ep);
        Ok(())
    }
}
