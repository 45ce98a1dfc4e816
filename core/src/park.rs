// SPDX-License-Identifier: GPL-2.0-only
//! What sleepers, pollers and those who wake them tell each other, apart from the cursors.

use crate::primitive::{AtomicBool, AtomicU32, Ordering};

/// A sender sleeps with its message half written: others wait until it is through.
#[derive(Default)]
pub struct Turn(AtomicBool);

impl Turn {
    /// Nobody's message is half written.
    pub fn new() -> Self {
        Turn(AtomicBool::new(false))
    }

    /// Is it? By whoever asks for himself, on the wait queue already if he would sleep.
    pub fn is_taken(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// By the sender, who holds the send lock and saw that it is not taken.
    pub fn take(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// By whoever took it, who then wakes all on the wait queue: its lock, which is taken whether or not somebody is there, orders this
    /// before the look of a sleeper who comes later.
    pub fn give_back(&self) {
        self.0.store(false, Ordering::Release);
    }
}

/// A level-triggered poller found nothing, and sleeps or will.
const WATCHED: u32 = 1;
/// It was woken ahead and has not looked again.
const WOKEN: u32 = 2;
/// An edge-triggered poller has been here. Being woken without a reason, it would report what is true and old as if it were new.
const EDGES: u32 = 3;

/// Whether a poller of a lane is on watch: a hint, except that nobody is woken ahead any more once an edge-triggered one was here.
#[derive(Default)]
pub struct Watch(AtomicU32);

impl Watch {
    /// Nobody is on watch.
    pub fn new() -> Self {
        Watch(AtomicU32::new(0))
    }

    /// A poller has registered and looked, in vain if it is not edge-triggered. `true`: it was woken ahead, for nothing.
    pub fn polled(&self, edges: bool) -> bool {
        if edges {
            self.0.store(EDGES, Ordering::Relaxed);
            return false;
        }
        let for_nothing = self.change(WOKEN, WATCHED);
        if !for_nothing {
            self.change(0, WATCHED);
        }
        for_nothing
    }

    /// Something was published. `true`: a poller was woken ahead, and rightly.
    pub fn published(&self) -> bool {
        self.change(WOKEN, 0)
    }

    /// Is a poller on watch that may be woken ahead?
    pub fn is_kept(&self) -> bool {
        self.0.load(Ordering::Relaxed) == WATCHED
    }

    /// It is about to be woken ahead; `false` if it may not be any more.
    pub fn wake(&self) -> bool {
        self.change(WATCHED, WOKEN)
    }

    /// Nobody was there to wake.
    pub fn is_deserted(&self) {
        self.change(WOKEN, 0);
    }

    /// Changes it if it is `from`. So nothing ever takes the place of `EDGES`.
    fn change(&self, from: u32, to: u32) -> bool {
        self.0.load(Ordering::Relaxed) == from
            && self
                .0
                .compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_poller_on_watch_is_woken_once() {
        let watch = Watch::new();
        assert!(!watch.is_kept() && !watch.wake());
        assert!(!watch.polled(false) && watch.is_kept());
        assert!(watch.wake() && !watch.wake());
        assert!(watch.polled(false), "it was woken for nothing");
        assert!(watch.wake() && watch.published() && !watch.published());
        assert!(!watch.polled(false) && watch.wake());
        watch.is_deserted();
        assert!(!watch.published() && !watch.is_kept());
    }

    #[test]
    fn edges_stay() {
        let watch = Watch::new();
        watch.polled(false);
        watch.polled(true);
        for _ in 0..2 {
            assert!(!watch.polled(false) && !watch.is_kept());
            assert!(!watch.wake() && !watch.published());
            watch.is_deserted();
        }
    }

    #[test]
    fn turns() {
        let turn = Turn::new();
        assert!(!turn.is_taken());
        turn.take();
        assert!(turn.is_taken());
        turn.give_back();
        assert!(!turn.is_taken());
    }
}
