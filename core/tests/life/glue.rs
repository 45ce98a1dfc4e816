// SPDX-License-Identifier: GPL-2.0-only
//! The C half of the life of a socket, and of who holds it, as steps on the ghost.
//!
//! Each function here says what the one of the same name in `kmod/` does, line by line; `texts.rs` holds the C that it was written from
//! against the C that ships. What is atomic here and not there: a look at the slot (three loads), and what happens within a bucket of the
//! index of endpoints (a spinlock, innermost).

use crate::explore::{Run, violation};
use crate::kernel::DONE;
use crate::scene::Scene;
use crate::world::Call;
use tcp_splice_core::life::{self, Kernel};

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
        let hooked = self.quiet(|world| {
            let sock = world.sock(sk);
            if sock.lock.is_some() || sock.slot.is_some() || !sock.destroyed {
                violation(format!("socket {sk} is freed while in use"));
            }
            if !sock.hooked && sock.user_data.is_some() {
                violation(format!("socket {sk} is freed with an endpoint on it"));
            }
            u8::from(sock.hooked)
        }) != 0;
        if hooked {
            self.ts_destruct(sk);
        }
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
        life::endpoint_free(self, ep);
        self.quiet(|world| {
            let this = world.ep(ep);
            if this.indexed || this.queued {
                violation(format!("endpoint {ep} is freed while others can find it"));
            }
            this.freed = true;
            world.module -= 1;
            DONE
        });
    }

    fn ts_index_remove(&self, ep: u8) {
        self.step("ts_index_remove", |world| {
            let this = world.ep(ep);
            if !this.indexed {
                violation(format!("endpoint {ep} is taken out of the index twice"));
            }
            this.indexed = false;
            DONE
        });
    }

    fn call_rcu(&self, call: Call, ep: u8) {
        self.quiet(|world| {
            world.queue(call, ep, false);
            DONE
        });
    }

    fn ts_endpoint_discard_all(&self, ep: u8, known: bool) {
        if self.step("ts_drains", |world| world.drains) != 0 {
            return self.ts_endpoint_retire_all(ep);
        }
        let disconnects = self.quiet(|world| world.ep(ep).disconnects);
        if !known && disconnects == 0 {
            self.ts_index_remove(ep);
            self.quiet(|world| {
                world.at_once += 1;
                DONE
            });
            return self.ts_endpoint_free(ep);
        }
        let mut next = Some(ep);
        while let Some(ep) = next {
            next = self.older(ep);
            self.ts_index_remove(ep);
            self.call_rcu(Call::Free, ep);
        }
    }

    fn older(&self, ep: u8) -> Option<u8> {
        some(self.quiet(|world| world.ep(ep).older.unwrap_or(NONE)))
    }

    fn ts_endpoint_retire_all(&self, ep: u8) {
        let mut next = Some(ep);
        while let Some(ep) = next {
            next = self.older(ep);
            self.ts_index_remove(ep);
            self.quiet(|world| {
                world.queue(Call::Retire, ep, true);
                DONE
            });
        }
    }

    fn ts_endpoint_let_go(&self, ep: u8) {
        let sk = self.quiet(|world| world.ep(ep).sk.unwrap_or(NONE));
        life::let_go(self, ep);
        self.step("letting_go = false", |world| {
            world.ep(ep).letting_go = false;
            DONE
        });
        self.sock_put(sk);
    }

    fn ts_endpoint_let_go_all(&self, ep: u8) {
        let mut next = Some(ep);
        while let Some(ep) = next {
            let sk = self.quiet(|world| world.ep(ep).sk.unwrap_or(NONE));
            self.sock_hold(sk);
            self.step("letting_go = true", |world| {
                world.ep(ep).letting_go = true;
                DONE
            });
            self.call_rcu(Call::LetGo, ep);
            next = self.older(ep);
        }
    }

    /// A callback, after its grace period.
    pub fn callback(&self, call: Call, ep: u8) {
        self.quiet(|world| {
            world.ep(ep).queued = false;
            DONE
        });
        match call {
            Call::Free => self.ts_endpoint_free(ep),
            Call::Retire => self.call_rcu(Call::Free, ep),
            Call::LetGo => self.ts_endpoint_let_go(ep),
        }
    }

    /* ---- proto.c ---- */

    pub fn install(&self, sk: u8, ep: u8) {
        self.step("ts_install", |world| {
            let older = world.find(sk);
            let disconnects = world.sock(sk).disconnects;
            let count = older.map_or(0, |older| {
                let older = world.ep(older);
                older.superseded = true;
                older.older_count + 1
            });
            if older.is_none() {
                world.module += 1;
            }
            let this = world.ep(ep);
            (this.sk, this.disconnects) = (Some(sk), disconnects);
            (this.older, this.older_count) = (older, count);
            let sock = world.sock(sk);
            sock.user_data = Some(ep);
            sock.slot = Some(ep);
            sock.worn = true;
            DONE
        });
        self.step("ts_index_add", |world| {
            world.ep(ep).indexed = true;
            DONE
        });
    }

    fn wears(&self, sk: u8) -> bool {
        self.step("sk_prot", |world| u8::from(world.sock(sk).worn)) != 0
    }

    fn ts_uninstall_protocol(&self, sk: u8) {
        self.quiet(|world| {
            world.sock(sk).worn = false;
            DONE
        });
    }

    fn ts_clear_user_data(&self, sk: u8, ep: u8) {
        self.quiet(|world| {
            let sock = world.sock(sk);
            if sock.user_data == Some(ep) {
                sock.user_data = None;
            }
            DONE
        });
    }

    fn ts_unhash(&self, sk: u8) {
        if !self.wears(sk) {
            return;
        }
        let link = self.step("ts_link", |world| world.find_link(sk));
        if let Some(link) = self.at(link.into()) {
            self.lanes_close(link);
        }
    }

    fn ts_close_ring(&self, sk: u8) {
        if let Some(ep) = self.calls_enter(sk) {
            life::close(self, ep);
        }
        self.calls_leave();
    }

    /// Socket locked.
    fn ts_disconnect(&self, sk: u8) {
        if self.wears(sk) {
            if let Some(ep) = self.ts_endpoint(sk) {
                life::leave(self, ep);
                self.quiet(|world| {
                    world.ep(ep).left = true;
                    DONE
                });
            }
            self.ts_uninstall_protocol(sk);
        }
        self.step("tcp_disconnect", |world| {
            let sock = world.sock(sk);
            sock.disconnects += 1;
            sock.alive = false;
            DONE
        });
    }

    fn ts_endpoint(&self, sk: u8) -> Option<u8> {
        some(self.step("ts_endpoint", |world| world.find(sk).unwrap_or(NONE)))
    }

    /// `tcp_cleanup_ulp()`.
    fn ts_ulp_release(&self, sk: u8) {
        let ep = self.step("tcp_cleanup_ulp", |world| {
            let sock = world.sock(sk);
            sock.foreign = false;
            sock.slot.take().unwrap_or(NONE)
        });
        let Some(ep) = some(ep) else { return };
        self.ts_clear_user_data(sk, ep);
        self.ts_uninstall_protocol(sk);
        let known = life::release(self, ep);
        self.ts_endpoint_discard_all(ep, known);
        self.quiet(|world| {
            world.module -= 1;
            DONE
        });
    }

    /* ---- calls ---- */

    /// `ts_calls_enter()` and the first look.
    fn calls_enter(&self, sk: u8) -> Option<u8> {
        let actor = self.actor();
        some(self.step("ts_calls_enter, ts_endpoint", |world| {
            world.calls_enter(actor);
            world.find(sk).unwrap_or(NONE)
        }))
    }

    fn calls_leave(&self) {
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

    /// `ts_notify_readable()` and its kin.
    pub fn notify(&self, pair: u8, side: u8) {
        let actor = self.actor();
        let sk = self.step("rcu_read_lock, slot", |world| {
            world.rcu_enter(actor);
            world.pair(pair).slots[usize::from(side)].unwrap_or(NONE)
        });
        if let Some(sk) = some(sk) {
            self.step("the other socket", |world| {
                world.sock(sk);
                DONE
            });
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

    fn transfer(&self, scene: &Scene, (pair, side): (u8, life::Side)) {
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

    fn lane_lock(&self, pair: u8, which: u8) {
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
    fn lane_trylock(&self, pair: u8, which: u8) -> bool {
        let actor = self.actor();
        self.step("ts_lane_trylock", |world| {
            let lock = &mut world.pair(pair).locks[usize::from(which)];
            let free = lock.is_none();
            lock.get_or_insert(actor);
            u8::from(free)
        }) != 0
    }

    fn lane_unlock(&self, pair: u8, which: u8) {
        self.quiet(|world| {
            world.pair(pair).locks[usize::from(which)] = None;
            DONE
        });
    }

    fn fget(&self, sk: u8) {
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

    fn tcp_close(&self, scene: &Scene, sk: u8) {
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
    fn destroy(&self, sk: u8) {
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

    /// `inet_csk_listen_stop()` of a child that nobody has accepted.
    pub fn forget(&self, sk: u8) {
        self.lock_sock(sk);
        self.ts_disconnect(sk);
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
        self.ts_disconnect(sk);
        self.release_sock(sk);
        self.fput(scene, sk);
    }

    /* ---- options.c ---- */

    fn ts_destruct(&self, sk: u8) {
        let ep = self.step("ts_destruct", |world| {
            let sock = world.sock(sk);
            sock.hooked = false;
            sock.user_data.take().unwrap_or(NONE)
        });
        if some(ep).is_none() {
            violation("a socket that gave its slot away has lost its endpoint");
        }
        self.ts_endpoint_discard_all(ep, true);
    }

    fn ts_vacate_slot(&self, sk: u8) {
        self.ts_uninstall_protocol(sk);
        self.step("ts_vacate_slot", |world| {
            world.sock(sk).slot = None;
            DONE
        });
    }

    /// setsockopt(TCP_ULP).
    pub fn set_ulp(&self, scene: &Scene, sk: u8) {
        self.fget(sk);
        if self.wears(sk) {
            let ep = self.calls_enter(sk);
            if self.hand_back_for_good(sk, ep) {
                self.ts_set_ulp(sk);
            }
            self.calls_leave();
        }
        self.fput(scene, sk);
    }

    /// `ts_hand_back()`.
    fn hand_back_for_good(&self, sk: u8, mut ep: Option<u8>) -> bool {
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

    fn ts_set_ulp(&self, sk: u8) {
        self.lock_sock(sk);
        // ts_endpoint_unpaired()
        let ep = self.ts_endpoint(sk);
        if let Some(ep) = ep {
            life::withdraw(self, ep);
            if self.step("ts_link", |world| world.find_link(sk)) != 0 {
                return self.release_sock(sk);
            }
            self.ts_vacate_slot(sk);
        } else {
            self.ts_uninstall_protocol(sk);
        }
        self.release_sock(sk);
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
        self.lock_sock(sk);
        if let Some(ep) = ep {
            self.ts_settle_slot(sk, ep);
        }
        self.release_sock(sk);
    }

    fn ts_settle_slot(&self, sk: u8, ep: u8) {
        let foreign = self.quiet(|world| {
            let sock = world.sock(sk);
            if sock.slot.is_some() {
                2
            } else {
                u8::from(sock.foreign)
            }
        });
        if foreign == 0 {
            self.step("taken back", |world| {
                let disconnects = world.ep(ep).disconnects;
                let sock = world.sock(sk);
                sock.slot = Some(ep);
                // ts_wear_again()
                if sock.disconnects == disconnects {
                    sock.worn = true;
                } else {
                    world.ep(ep).left = true;
                }
                DONE
            });
        } else if foreign == 1 {
            let hooked = self.quiet(|world| {
                let sock = world.sock(sk);
                u8::from(std::mem::replace(&mut sock.hooked, true))
            }) != 0;
            if !hooked {
                self.ts_endpoint_let_go_all(ep);
                self.quiet(|world| {
                    world.module -= 1;
                    DONE
                });
            }
        }
    }

    /* ---- src/teardown.rs: tcp_splice_hand_back(), without the bytes ---- */

    fn hand_back(&self, sk: u8, ep: u8, disconnects: u8, how: How) -> Result<(), Errno> {
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
        result
    }

    fn return_unread(&self, sk: u8, ep: u8, disconnects: u8, how: How) -> Result<(), Errno> {
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

    /* ---- drain.c ---- */

    /// `ts_carries()`. Socket locked.
    fn ts_carries(&self, sk: u8, listed: u8) -> bool {
        let ep = self.quiet(|world| {
            let sock = world.sock(sk);
            let on = sock.slot.or(sock.user_data.filter(|_| sock.hooked));
            on.unwrap_or(NONE)
        });
        let mut next = some(ep);
        if next != Some(listed) {
            return false;
        }
        while let Some(ep) = next {
            if self.step("letting_go", |world| u8::from(world.ep(ep).letting_go)) != 0 {
                return false;
            }
            next = self.older(ep);
        }
        true
    }

    fn ts_take_off(&self, sk: u8, ep: u8) {
        let ours = self.quiet(|world| u8::from(world.sock(sk).slot.is_some())) != 0;
        if ours {
            self.ts_vacate_slot(sk);
            self.quiet(|world| {
                world.module -= 1;
                DONE
            });
        } else {
            self.quiet(|world| {
                world.sock(sk).hooked = false;
                DONE
            });
        }
        self.ts_clear_user_data(sk, ep);
        self.ts_endpoint_retire_all(ep);
    }

    fn drain_locked(&self, sk: u8, listed: u8, alone: bool) -> Result<(), Errno> {
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
        let wanted = some(chosen).map(|ep| {
            let sk = self.step("ts_index_walk", |world| {
                if world.eps[usize::from(ep)].freed
                    || !world.ep(ep).indexed
                    || world.ep(ep).superseded
                {
                    return NONE;
                }
                let Some(sk) = world.ep(ep).sk else {
                    violation("an endpoint in the index without its socket")
                };
                let sock = world.sock(sk);
                if sock.refs == 0 {
                    return NONE;
                }
                sock.refs += 1;
                sk
            });
            (ep, some(sk))
        });
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

    fn drain_sock(&self, scene: &Scene, sk: u8, listed: u8) {
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
            self.notify(pair, 0);
            self.notify(pair, 1);
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

    /* ---- the kfunc ---- */

    /// ACTIVE_ESTABLISHED of a connection with this number.
    pub fn offer(&self, scene: &Scene, sk: u8, connection: u8) {
        self.handshake(sk, |run| {
            life::offer(
                run,
                sk,
                scene.facts(sk, connection),
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

    fn handshake(&self, sk: u8, kfunc: impl FnOnce(&Run) -> bool) {
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
