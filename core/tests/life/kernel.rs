// SPDX-License-Identifier: GPL-2.0-only
//! What the shipped steps ask of the kernel, on the ghost.

use crate::explore::{Run, violation};
use crate::world::{Ep, Pair, at, word};
use tcp_splice_core::life::{Event, Kernel, Marks, Offers, Side, Wishes};
use tcp_splice_core::pairing::{Facts, Refusal};
use tcp_splice_core::registry::Set;

/// An answer for what has none.
pub const DONE: u8 = 0;
/// No memory, no offer.
const NONE: u8 = u8::MAX;

/// The table, its lock held.
pub struct Table(Run);

/// A refusal as an answer, above all handles.
fn as_answer(result: Result<u64, Refusal>) -> u8 {
    match result {
        Ok(handle) => handle as u8,
        Err(reason) => 0x80 | reason as u8,
    }
}

impl Offers for Table {
    fn put(&mut self, facts: &Facts, handle: u64, now: u64, expires: u64) -> Option<Refusal> {
        let lost = self.0.quiet(|world| {
            world
                .table
                .put(facts, handle, now, expires)
                .map_or(NONE, |reason| reason as u8)
        });
        Refusal::ALL.get(usize::from(lost)).copied()
    }

    fn take(&mut self, facts: &Facts, now: u64) -> Result<u64, Refusal> {
        match self
            .0
            .quiet(|world| as_answer(world.table.take(facts, now)))
        {
            handle if handle < 0x80 => Ok(u64::from(handle)),
            reason => Err(Refusal::ALL[usize::from(reason & 0x7f)]),
        }
    }

    fn withdraw(&mut self, handle: u64) -> bool {
        self.0
            .quiet(|world| u8::from(Set::withdraw(&mut world.table, handle)))
            != 0
    }
}

/// The marks of an endpoint, each look a step.
pub struct MarksOf(Run, u8);

impl Marks for MarksOf {
    fn set(&self) -> usize {
        0
    }

    fn wishes(&self) -> Wishes {
        self.0.quiet(|world| {
            world.ep(self.1);
            DONE
        });
        Wishes::default()
    }

    fn is_withdrawn(&self) -> bool {
        self.0
            .step("is_withdrawn", |world| u8::from(world.ep(self.1).withdrawn))
            != 0
    }

    fn set_withdrawn(&self, never: bool) {
        let actor = self.0.actor();
        self.0.step("set_withdrawn", |world| {
            if world.registry != Some(actor) {
                violation("withdrawn is written without its set's lock");
            }
            world.ep(self.1).withdrawn = never;
            DONE
        });
    }

    fn linked(&self) -> usize {
        self.0.quiet(|world| world.ep(self.1).linked).into()
    }

    fn set_linked(&self, link: usize) {
        let actor = self.0.actor();
        self.0.step("set_linked", |world| {
            if world.registry != Some(actor) {
                violation("linked is written without its set's lock");
            }
            world.ep(self.1).linked = link as u8;
            DONE
        });
    }
}

impl Kernel for Run {
    type Sock = u8;
    type Endpoint = u8;
    type Pair = u8;
    type Link = (u8, Side);
    type Table = Table;

    fn now(&self) -> u64 {
        1
    }

    fn count(&self, event: Event) {
        self.quiet(|world| {
            match event {
                Event::EndpointMade => world.endpoints += 1,
                Event::EndpointGone => world.endpoints -= 1,
                Event::PairMade => world.pairs_alive += 1,
                Event::PairGone => world.pairs_alive -= 1,
                Event::OfferMade | Event::Refused(_) => {}
            }
            DONE
        });
    }

    fn with_set<T>(&self, _set: usize, f: impl FnOnce(&mut Table) -> T) -> T {
        let actor = self.actor();
        self.wait("registry lock", |world| {
            world.registry.is_none().then(|| {
                world.registry = Some(actor);
                DONE
            })
        });
        let result = f(&mut Table(self.clone()));
        self.quiet(|world| {
            world.registry = None;
            DONE
        });
        result
    }

    fn handle(&self, ep: u8) -> u64 {
        u64::from(ep)
    }

    fn offered(&self, handle: u64) -> u8 {
        handle as u8
    }

    fn endpoint_alloc(&self, _set: usize, linked: usize, _wishes: Wishes) -> Option<u8> {
        if self.fails() {
            return None;
        }
        Some(self.quiet(|world| {
            world.eps.push(Ep {
                linked: linked as u8,
                ..Ep::default()
            });
            world.eps.len() as u8 - 1
        }))
    }

    fn marks(&self, ep: u8) -> impl Marks {
        MarksOf(self.clone(), ep)
    }

    fn sock(&self, ep: u8) -> u8 {
        self.quiet(|world| match world.ep(ep).sk {
            Some(sk) => sk,
            None => violation("the socket of an endpoint that is on none"),
        })
    }

    fn link(&self, ep: u8) -> usize {
        self.step("link", |world| world.ep(ep).link).into()
    }

    fn set_link(&self, ep: u8, link: usize) {
        self.step("set_link", |world| {
            if link == 0
                && at(world.ep(ep).link)
                    .is_some_and(|(pair, side)| world.pair(pair).slots[side as usize].is_some())
            {
                violation("the link goes before the slot");
            }
            world.ep(ep).link = link as u8;
            DONE
        });
    }

    fn endpoint_unmake(&self, ep: u8) {
        self.quiet(|world| {
            let this = world.ep(ep);
            if this.sk.is_some() || this.indexed || this.queued {
                violation(format!("endpoint {ep} is known to others"));
            }
            this.freed = true;
            DONE
        });
    }

    fn claim(&self, sk: u8, ep: u8) -> bool {
        self.claim(sk, ep)
    }

    fn install(&self, sk: u8, ep: u8) {
        self.install(sk, ep);
    }

    fn enlist(&self, ep: u8, _set: usize) {
        let actor = self.actor();
        self.step("ts_endpoint_enlist", |world| {
            if world.registry != Some(actor) {
                violation("an endpoint is put into the index without its lock");
            }
            let this = world.ep(ep);
            if this.sk.is_none() || this.indexed {
                violation(format!(
                    "endpoint {ep} is put into the index too early or twice"
                ));
            }
            this.indexed = true;
            DONE
        });
    }

    fn pair_alloc(&self) -> Option<u8> {
        if self.fails() {
            return None;
        }
        Some(self.quiet(|world| {
            world.module += 1;
            world.pairs.push(Pair::default());
            world.pairs.len() as u8 - 1
        }))
    }

    fn pair_free(&self, pair: u8) {
        self.quiet(|world| {
            let this = &mut world.pairs[usize::from(pair)];
            if this.freed || this.refs > 0 || (this.made && !(this.rings_freed && this.unlisted)) {
                violation("a pair is freed that is in use");
            }
            if this.locks.iter().any(Option::is_some) {
                violation("a pair is freed with a lock held");
            }
            this.freed = true;
            world.module -= 1;
            DONE
        });
    }

    fn pair_init(&self, pair: u8, socks: (u8, u8), _wishes: (Wishes, Wishes)) {
        self.quiet(|world| {
            let this = world.pair(pair);
            this.made = true;
            this.slots = [Some(socks.0), Some(socks.1)];
            this.refs = 2;
            DONE
        });
    }

    fn pair_list(&self, pair: u8) {
        self.wait("pair_list", |world| {
            world.bucket.is_none().then(|| {
                let this = world.pair(pair);
                if this.listed || this.unlisted {
                    violation("a pair is listed twice");
                }
                this.listed = true;
                DONE
            })
        });
    }

    fn pair_unlist(&self, pair: u8) {
        self.wait("pair_unlist", |world| {
            world.bucket.is_none().then(|| {
                let this = world.pair(pair);
                if !this.listed {
                    violation("a pair is taken out of the list in which it is not");
                }
                (this.listed, this.unlisted) = (false, true);
                DONE
            })
        });
    }

    fn rings_free(&self, pair: u8) {
        self.quiet(|world| {
            world.pair(pair).rings_freed = true;
            DONE
        });
    }

    fn pair_drop_one(&self, pair: u8) -> bool {
        self.step("pair_drop_one", |world| {
            let this = world.pair(pair);
            if this.refs == 0 {
                violation("a reference to a pair is dropped twice");
            }
            this.refs -= 1;
            u8::from(this.refs == 0)
        }) != 0
    }

    fn word(&self, pair: u8, side: Side) -> usize {
        word(pair, side).into()
    }

    fn at(&self, word: usize) -> Option<(u8, Side)> {
        at(word as u8)
    }

    fn pair(&self, link: (u8, Side)) -> u8 {
        link.0
    }

    fn slot_clear(&self, (pair, side): (u8, Side)) {
        self.step("slot_clear", |world| {
            world.pair(pair).slots[side as usize] = None;
            DONE
        });
    }

    fn lanes_close(&self, (pair, side): (u8, Side)) -> u64 {
        self.touch(pair);
        self.notify(pair, 1 - side as u8);
        0
    }

    fn sock_hold(&self, sk: u8) {
        self.step("sock_hold", |world| {
            world.sock(sk).refs += 1;
            DONE
        });
    }

    fn sock_put(&self, sk: u8) {
        self.sock_put(sk);
    }
}
