// SPDX-License-Identifier: GPL-2.0-only
//! Calls of a socket, and what the kernel itself does with one.

use super::{NONE, some};
use crate::explore::{Run, violation};
use crate::kernel::DONE;
use crate::scene::Scene;
use tcp_splice_core::life::{self, Kernel};

impl Run {
    /// `ts_calls_enter()` and the first look.
    pub(super) fn calls_enter(&self, sk: u8) -> Option<u8> {
        let actor = self.actor();
        some(self.step("ts_calls_enter, ts_endpoint", |world| {
            world.calls_enter(actor);
            world.find(sk).unwrap_or(NONE)
        }))
    }

    pub(super) fn calls_leave(&self) {
        let actor = self.actor();
        self.quiet(|world| {
            world.calls_leave(actor);
            DONE
        });
    }

    /// Uses the pair's lanes, before a step that looks at the pair again.
    pub fn touch(&self, pair: u8) {
        self.quiet(|world| {
            if !world.pair(pair).made {
                violation("a pair is used before it was made");
            }
            DONE
        });
    }

    /// `ts_notify_readable()` and its kin: the other socket's callbacks ask whether it is writeable, so that a reader comes to its endpoint
    /// with nothing but RCU (`ts_stream_memory_free()`).
    pub fn notify(&self, pair: u8, side: u8) {
        self.with_sock_in(pair, side, |sk| {
            let ep = self.step("ts_stream_memory_free", |world| {
                world.find(sk).unwrap_or(NONE)
            });
            if let Some((pair, _)) = some(ep).and_then(|ep| self.at(self.link(ep))) {
                self.step("tcp_splice_writeable", |world| {
                    world.pair(pair);
                    DONE
                });
            }
        });
    }

    /// `ts_show_sock()`.
    pub(super) fn show_sock(&self, pair: u8, side: u8) {
        self.with_sock_in(pair, side, |sk| {
            self.step("the other socket", |world| {
                world.sock(sk);
                DONE
            });
        });
    }

    fn with_sock_in(&self, pair: u8, side: u8, then: impl FnOnce(u8)) {
        let actor = self.actor();
        let sk = self.step("rcu_read_lock, slot", |world| {
            world.rcu_enter(actor);
            world.pair(pair).slots[usize::from(side)].unwrap_or(NONE)
        });
        if let Some(sk) = some(sk) {
            then(sk);
        }
        self.quiet(|world| {
            world.rcu_leave(actor);
            DONE
        });
    }

    /// A send() or recv(), which may sleep.
    pub fn call(&self, scene: &Scene, sk: u8) {
        self.fget(sk);
        if self.wears(sk) {
            let ep = self.calls_enter(sk);
            if let Some(ep) = ep {
                match self.at(self.link(ep)) {
                    Some(link) => self.transfer(scene, link),
                    // ts_is_overdue()
                    None if scene.gives_up && self.choose(2) == 1 => {
                        let _ = self.drain_locked(sk, ep, false);
                    }
                    None => {}
                }
            }
            self.calls_leave();
        }
        self.fput(scene, sk);
    }

    pub(super) fn transfer(&self, scene: &Scene, (pair, side): (u8, life::Side)) {
        self.lane_lock(pair, side as u8);
        self.step("copy", |world| {
            world.pair(pair);
            DONE
        });
        self.lane_unlock(pair, side as u8);
        self.notify(pair, 1 - side as u8);
        if !scene.sleeps || self.choose(2) == 0 {
            return;
        }
        // Kept::keep()
        let kept = self.step("hold", |world| {
            let this = world.pair(pair);
            let kept = this.refs > 0;
            this.refs += u8::from(kept);
            u8::from(kept)
        }) != 0;
        // ts_sleep()
        self.calls_leave();
        let actor = self.actor();
        self.step("ts_sleep", |world| {
            world.calls_enter(actor);
            DONE
        });
        self.step("is_unlinked", |world| {
            u8::from(world.pair(pair).slots[side as usize].is_none())
        });
        self.touch(pair);
        if kept {
            life::put(self, pair);
        }
    }

    pub(super) fn lane_lock(&self, pair: u8, which: u8) {
        let actor = self.actor();
        self.wait("ts_lane_lock", |world| {
            let lock = &mut world.pair(pair).locks[usize::from(which)];
            lock.is_none().then(|| {
                *lock = Some(actor);
                DONE
            })
        });
    }

    /// Whoever finds it locked gives up.
    pub(super) fn lane_trylock(&self, pair: u8, which: u8) -> bool {
        let actor = self.actor();
        self.step("ts_lane_trylock", |world| {
            let lock = &mut world.pair(pair).locks[usize::from(which)];
            let free = lock.is_none();
            lock.get_or_insert(actor);
            u8::from(free)
        }) != 0
    }

    pub(super) fn lane_unlock(&self, pair: u8, which: u8) {
        self.quiet(|world| {
            world.pair(pair).locks[usize::from(which)] = None;
            DONE
        });
    }

    pub(super) fn fget(&self, sk: u8) {
        self.quiet(|world| {
            world.sock(sk).files += 1;
            DONE
        });
    }

    /// Whoever lets go of the last descriptor closes the socket.
    pub fn fput(&self, scene: &Scene, sk: u8) {
        let last = self.step("fput", |world| {
            let sock = world.sock(sk);
            sock.files -= 1;
            u8::from(sock.files == 0)
        }) != 0;
        if !last {
            return;
        }
        if self.wears(sk) {
            self.ts_close_ring(sk);
        }
        self.tcp_close(scene, sk);
    }

    pub(super) fn tcp_close(&self, scene: &Scene, sk: u8) {
        self.lock_sock(sk);
        // Unread data, or SO_LINGER of 0.
        if scene.aborts && self.choose(2) == 1 {
            self.ts_disconnect(sk);
        }
        let over = self.step("sock_orphan", |world| {
            let sock = world.sock(sk);
            (sock.socket, sock.dead) = (false, true);
            u8::from(!sock.alive && !sock.destroyed)
        }) != 0;
        if over {
            self.destroy(sk);
        }
        self.release_sock(sk);
        if over {
            self.sock_put(sk);
        }
    }

    /// `inet_csk_destroy_sock()` without its `sock_put()`. Socket locked.
    pub(super) fn destroy(&self, sk: u8) {
        self.ts_unhash(sk);
        self.ts_ulp_release(sk);
        self.quiet(|world| {
            let sock = world.sock(sk);
            (sock.alive, sock.destroyed) = (false, true);
            DONE
        });
    }

    /// A reset, or the last FIN: any time, in softirq.
    pub fn end(&self, sk: u8) {
        self.lock_sock(sk);
        let alive = self.quiet(|world| u8::from(world.sock(sk).alive)) != 0;
        let dead = self.quiet(|world| u8::from(world.sock(sk).dead)) != 0;
        if alive && dead {
            self.destroy(sk);
        } else if alive {
            self.ts_unhash(sk);
            self.step("tcp_done", |world| {
                world.sock(sk).alive = false;
                DONE
            });
        }
        self.release_sock(sk);
        if alive && dead {
            self.sock_put(sk);
        }
    }

    /// accept(): the child gets its descriptor.
    pub fn accept(&self, sk: u8) {
        self.lock_sock(sk);
        self.quiet(|world| {
            let sock = world.sock(sk);
            (sock.socket, sock.files) = (true, 1);
            DONE
        });
        self.release_sock(sk);
    }

    /// `inet_csk_listen_stop()` of a child that nobody has accepted: the disconnect() is that of the listener's table.
    pub fn forget(&self, sk: u8) {
        self.lock_sock(sk);
        self.ts_unhash(sk);
        self.step("sock_orphan", |world| {
            world.sock(sk).dead = true;
            DONE
        });
        self.destroy(sk);
        self.release_sock(sk);
        self.sock_put(sk);
    }

    /// connect(AF_UNSPEC).
    pub fn disconnect(&self, scene: &Scene, sk: u8) {
        self.fget(sk);
        self.lock_sock(sk);
        // __inet_stream_connect()
        self.quiet(|world| {
            world.sock(sk).disconnects += 1;
            DONE
        });
        self.ts_disconnect(sk);
        self.release_sock(sk);
        self.fput(scene, sk);
    }
}
