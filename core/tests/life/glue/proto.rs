// SPDX-License-Identifier: GPL-2.0-only
//! `kmod/proto.c` and the kfunc: putting on and off, destroy, disconnect.

use super::{NONE, some};
use crate::explore::{Run, violation};
use crate::kernel::DONE;
use crate::scene::Scene;
use crate::world::FOREIGN;
use tcp_splice_core::life::{self, Kernel};

impl Run {
    /* ---- proto.c ---- */

    pub fn claim(&self, sk: u8, ep: u8) -> bool {
        self.step("ts_claim", |world| {
            let free = world.sock(sk).user_data.is_none();
            if free {
                world.sock(sk).user_data = Some(ep);
            }
            u8::from(free)
        }) != 0
    }

    /// Somebody else, who has no lock that the kfunc's caller has.
    pub fn take(&self, sk: u8) {
        self.step("sk_user_data", |world| {
            world.sock(sk).user_data.get_or_insert(FOREIGN);
            DONE
        });
    }

    pub fn install(&self, sk: u8, ep: u8) {
        self.step("ts_install", |world| {
            let disconnects = world.sock(sk).disconnects;
            world.module += 1;
            let this = world.ep(ep);
            (this.sk, this.disconnects) = (Some(sk), disconnects);
            let sock = world.sock(sk);
            if sock.slot.is_some() || sock.foreign || sock.user_data != Some(ep) {
                violation(format!("endpoint {ep} takes a slot that is not free"));
            }
            sock.slot = Some(ep);
            sock.worn = true;
            DONE
        });
    }

    pub(super) fn wears(&self, sk: u8) -> bool {
        self.step("sk_prot", |world| u8::from(world.sock(sk).worn)) != 0
    }

    pub(super) fn ts_uninstall_protocol(&self, sk: u8) {
        self.quiet(|world| {
            world.sock(sk).worn = false;
            DONE
        });
    }

    pub(super) fn ts_clear_user_data(&self, sk: u8, ep: u8) {
        self.quiet(|world| {
            let sock = world.sock(sk);
            if sock.user_data == Some(ep) {
                sock.user_data = None;
            }
            DONE
        });
    }

    /// Socket locked.
    pub(super) fn ts_take_off(&self, sk: u8, ep: u8) {
        self.step("the slot", |world| {
            world.sock(sk).slot = None;
            DONE
        });
        self.ts_uninstall_protocol(sk);
        self.step("sk_user_data", |_| DONE);
        self.ts_clear_user_data(sk, ep);
        self.ts_endpoint_retire(ep);
    }

    pub(super) fn ts_unhash(&self, sk: u8) {
        if !self.wears(sk) {
            return;
        }
        let link = self.step("ts_link", |world| world.find_link(sk));
        if let Some(link) = self.at(link.into()) {
            self.lanes_close(link);
        }
    }

    pub(super) fn ts_close_ring(&self, sk: u8) {
        if let Some(ep) = self.calls_enter(sk) {
            self.quiet(|world| {
                world.ep(ep).closed = true;
                DONE
            });
            life::close(self, ep);
        }
        self.calls_leave();
    }

    /// Socket locked.
    pub(super) fn ts_disconnect(&self, sk: u8) {
        if self.wears(sk) {
            // ts_disconnect_ring()
            let ep = self.calls_enter(sk);
            if let Some(ep) = ep {
                life::leave(self, ep);
            }
            match ep.filter(|ep| self.quiet(|world| u8::from(world.ep(*ep).closed)) == 0) {
                Some(ep) => self.ts_take_off(sk, ep),
                None => self.ts_uninstall_protocol(sk),
            }
            self.calls_leave();
        }
        self.step("tcp_disconnect", |world| {
            world.sock(sk).alive = false;
            DONE
        });
    }

    pub(super) fn ts_endpoint(&self, sk: u8) -> Option<u8> {
        some(self.step("ts_endpoint", |world| world.find(sk).unwrap_or(NONE)))
    }

    /// `tcp_cleanup_ulp()`.
    pub(super) fn ts_ulp_release(&self, sk: u8) {
        let ep = self.step("tcp_cleanup_ulp", |world| {
            let sock = world.sock(sk);
            sock.foreign = false;
            sock.slot.take().unwrap_or(NONE)
        });
        let Some(ep) = some(ep) else { return };
        self.ts_clear_user_data(sk, ep);
        self.ts_uninstall_protocol(sk);
        let known = life::release(self, ep);
        self.ts_endpoint_discard(ep, known);
        self.module_put();
    }

    /* ---- the kfunc ---- */

    /// ACTIVE_ESTABLISHED of a connection with this number.
    pub fn offer(&self, scene: &Scene, sk: u8, connection: u8) {
        self.handshake(sk, |run| {
            life::offer(
                run,
                sk,
                &scene.facts(sk, connection),
                0,
                life::Wishes::default(),
            )
            .is_ok()
        });
    }

    /// PASSIVE_ESTABLISHED.
    pub fn join(&self, scene: &Scene, sk: u8, connection: u8) {
        self.handshake(sk, |run| {
            life::join(
                run,
                sk,
                &scene.facts(sk, connection),
                0,
                life::Wishes::default(),
            )
            .is_ok()
        });
    }

    pub(super) fn handshake(&self, sk: u8, kfunc: impl FnOnce(&Run) -> bool) {
        self.lock_sock(sk);
        let actor = self.actor();
        let admitted = self.quiet(|world| {
            let admitted =
                world.sock(sk).alive && !world.sock(sk).destroyed && world.slots_are_free(sk);
            if admitted {
                world.rcu_enter(actor);
            }
            u8::from(admitted)
        }) != 0;
        if admitted {
            kfunc(self);
            self.quiet(|world| {
                world.rcu_leave(actor);
                DONE
            });
        }
        self.release_sock(sk);
    }

    /// connect() after connect(AF_UNSPEC).
    pub fn reconnect(&self, scene: &Scene, sk: u8, connection: u8) {
        self.fget(sk);
        self.lock_sock(sk);
        self.quiet(|world| {
            world.sock(sk).alive = true;
            DONE
        });
        self.release_sock(sk);
        self.offer(scene, sk, connection);
        self.fput(scene, sk);
    }
}
