// SPDX-License-Identifier: GPL-2.0-only
//! `kmod/stale.c`. Any end without a link may be overdue.

use super::{NONE, some};
use crate::explore::Run;
use tcp_splice_core::life::{self, Kernel};

impl Run {
    /// The worker, of one endpoint that it finds.
    pub fn stale(&self) {
        let ways = self.step("ts_stale_work", |world| world.eps.len() as u8);
        let Some(ep) = some(if ways > 0 { self.choose(ways) } else { NONE }) else {
            return;
        };
        if let Some(sk) = self.index_walk(ep, true) {
            self.ts_stale_let_go(sk, ep);
            self.sock_put(sk);
        }
    }

    fn ts_stale_let_go(&self, sk: u8, listed: u8) {
        if !self.lock_unowned(sk, false) {
            return;
        }
        if self.ts_carries(sk, listed) && self.link(listed) == 0 && life::withdraw(self, listed) {
            self.ts_take_off(sk, listed);
        }
        self.release_sock(sk);
    }
}
