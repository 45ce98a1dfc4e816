// SPDX-License-Identifier: GPL-2.0-only
//! How long a receiver that was given no budget spins before it sleeps: *adaptive spinning*.
//!
//! Sleeping and waking cost several microseconds at each end. Where answers come faster than that, waiting for them awake is cheaper for
//! everybody; where they do not, it is time wasted. So the time is learnt: as long as answers are caught, the next one is awaited for
//! twice what the last ones took, and never for longer than the module's `spin_us`. Some misses in a row, and the receiver sleeps at once
//! again.
//!
//! Answers to a sleeper take longer because it sleeps, so sleeping teaches nothing. Now and then the longest time is tried, more and more
//! rarely while that does not help. Two ends that wait for each other have to try together, since neither's answers are fast while the
//! other one sleeps: so a trial takes some waits in a row, and an end comes to it sooner when it sees that the other one spins.
//!
//! The state is one word that only the receiving end changes, without a lock: threads that share a socket may lose a change, which costs a
//! guess.

/// Waits that are slept through between two trials, at first and after the first vain one.
pub const REST_MIN: u32 = 16;
/// And at most.
pub const REST_MAX: u32 = 4096;
/// Vain spins in a row after which a trial is over, or the time that was learnt is forgotten.
pub const MISSES: u32 = 3;
/// The shortest spin, in microseconds: the clock that it is measured with has no finer steps.
const LEAST_US: u32 = 3;

/// What a lane's receiver has learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spin {
    /// Answers take so long, in eighths of a microsecond; 0: not known.
    recent: u16,
    /// Vain spins in a row.
    misses: u8,
    /// `REST_MIN << rest` waits are slept through after the next trial, if it is vain.
    rest: u8,
    /// So many are left of them.
    left: u16,
}

impl Spin {
    /// Of a new connection: it may be over after one answer.
    pub const NEW: Spin = Spin {
        recent: 0,
        misses: 0,
        rest: 0,
        left: REST_MIN as u16,
    };

    /// As it is kept. Bits: `left` 0 to 12, `rest` 13 to 16, `misses` 17 and 18, `recent` 19 to 31.
    pub const fn to_word(self) -> u32 {
        self.left as u32
            | (self.rest as u32) << 13
            | (self.misses as u32) << 17
            | (self.recent as u32) << 19
    }

    /// The inverse of [`Self::to_word`].
    pub const fn from_word(word: u32) -> Self {
        Spin {
            left: (word & 0x1fff) as u16,
            rest: (word >> 13 & 0xf) as u8,
            misses: (word >> 17 & 3) as u8,
            recent: (word >> 19) as u16,
        }
    }

    /// Before a wait: for how many microseconds to spin, 0 for not at all, and the state after that. `both`: the other end spins, or
    /// just did.
    pub const fn plan(self, both: bool, max_us: u32) -> (u32, Self) {
        if max_us == 0 {
            return (0, self);
        }
        if self.recent != 0 {
            let twice = (self.recent as u32).div_ceil(4);
            let us = if twice < LEAST_US { LEAST_US } else { twice };
            return (if us > max_us { max_us } else { us }, self);
        }
        if self.left == 0 {
            return (max_us, self);
        }
        let sooner = if both { self.left / 8 } else { 0 };
        let left = self.left.wrapping_sub(1).saturating_sub(sooner);
        (0, Spin { left, ..self })
    }

    /// The answer came after `us` microseconds of spinning.
    pub const fn hit(self, us: u32) -> Self {
        // Ten bits of microseconds are more than any budget that is spun without being asked for.
        let us = if us > 1000 { 1000 } else { us };
        let now = us.wrapping_mul(8).wrapping_add(4);
        let recent = match self.recent {
            0 => now,
            recent => (recent as u32)
                .wrapping_mul(3)
                .wrapping_add(now)
                .div_ceil(4),
        };
        Spin {
            recent: recent as u16,
            misses: 0,
            rest: 0,
            left: 0,
        }
    }

    /// No answer came while it spun.
    pub const fn miss(self) -> Self {
        let misses = self.misses.wrapping_add(1);
        if (misses as u32) < MISSES {
            return Spin { misses, ..self };
        }
        let more = if (REST_MIN << self.rest) < REST_MAX {
            1
        } else {
            0
        };
        Spin {
            recent: 0,
            misses: 0,
            rest: self.rest.wrapping_add(more),
            left: (REST_MIN << self.rest) as u16,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAX: u32 = 50;

    /// Waits `waits` times for answers that take `us` while it spins; returns the time spun and the waits that were caught.
    fn wait(spin: &mut Spin, waits: u32, us: u32) -> (u32, u32) {
        let (mut spun, mut caught) = (0, 0);
        for _ in 0..waits {
            let (budget, next) = spin.plan(false, MAX);
            *spin = match budget {
                0 => next,
                budget if us < budget => next.hit(us),
                _ => next.miss(),
            };
            spun += us.min(budget);
            caught += u32::from(budget > us);
        }
        (spun, caught)
    }

    #[test]
    fn fast_answers_are_caught() {
        for us in [0, 1, 5, 20] {
            let (_, caught) = wait(&mut { Spin::NEW }, 1000, us);
            assert!(caught >= 1000 - REST_MIN, "{caught} of {us} us");
        }
    }

    #[test]
    fn slow_answers_cost_next_to_nothing() {
        let (spun, caught) = wait(&mut { Spin::NEW }, 100_000, 60);
        assert_eq!(caught, 0);
        assert!(
            spun < 40 * MISSES * MAX,
            "spun for {spun} us of 100000 waits"
        );
    }

    /// Also when the other end is always seen to spin, for answers that are never that slow.
    #[test]
    fn others_do_not_make_it_spin() {
        let (mut spin, mut spun) = (Spin::NEW, 0);
        for _ in 0..100_000 {
            let (budget, next) = spin.plan(true, MAX);
            spin = if budget == 0 { next } else { next.miss() };
            spun += budget;
        }
        assert!(spun < 300_000, "spun for {spun} us of 100000 waits");
    }

    #[test]
    fn no_connection_spins_at_first() {
        assert_eq!(wait(&mut { Spin::NEW }, REST_MIN, 1), (0, 0));
    }

    #[test]
    fn a_slow_answer_among_fast_ones_is_forgiven() {
        let mut spin = Spin::NEW;
        wait(&mut spin, 100, 2);
        wait(&mut spin, MISSES - 1, 1000);
        assert_eq!(wait(&mut spin, 10, 2).1, 10);
    }

    #[test]
    fn answers_that_become_slow_are_not_waited_for() {
        let mut spin = Spin::NEW;
        wait(&mut spin, 100, 2);
        let (spun, _) = wait(&mut spin, 15, 1000);
        assert!(spun <= 20 * MISSES, "{spun}");
    }

    #[test]
    fn off_is_off() {
        let known = Spin::NEW.hit(1);
        for spin in [Spin::NEW, known] {
            assert_eq!(spin.plan(true, 0), (0, spin));
        }
    }

    /// Ends that wait for each other, each answer taking `awake` when its end spins and `asleep` when it has to be woken.
    fn ping_pong(rounds: u32, awake: u32, asleep: u32) -> u32 {
        let mut ends = [Spin::NEW; 2];
        let mut spins = [false; 2];
        let mut caught = 0;
        for turn in 0..2 * rounds as usize {
            let (own, other) = (turn % 2, (turn + 1) % 2);
            let (budget, next) = ends[own].plan(spins[other], MAX);
            // What the other end is found doing when the request comes.
            let us = if spins[other] { awake } else { asleep };
            let hit = budget > us;
            ends[own] = match budget {
                0 => next,
                _ if hit => next.hit(us),
                _ => next.miss(),
            };
            spins[own] = hit;
            caught += u32::from(hit);
        }
        caught
    }

    #[test]
    fn both_ends_learn_together() {
        assert!(ping_pong(1000, 3, 40) > 1900);
        assert_eq!(ping_pong(1000, 60, 200), 0);
    }

    proptest! {
        #[test]
        fn never_longer_than_allowed(
            steps in prop::collection::vec((any::<bool>(), 0..3u32, 0..2000u32), 0..200),
            max in 0..1000u32,
        ) {
            let mut spin = Spin::NEW;
            for (both, what, us) in steps {
                prop_assert_eq!(Spin::from_word(spin.to_word()), spin);
                let (budget, next) = spin.plan(both, max);
                prop_assert!(budget <= max);
                spin = match what {
                    0 => next,
                    1 => next.hit(us),
                    _ => next.miss(),
                };
            }
        }
    }
}
