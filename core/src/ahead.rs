// SPDX-License-Identifier: GPL-2.0-only
//! Whether to wake the other end before there is anything for it: *wake-ahead*.
//!
//! In a request and response exchange the client sleeps, in recv() or in a poller, while the server reads the request; a moment
//! later the server answers and wakes it. Most of that wake-up's time passes on the client's idle processor. Waking it when the
//! request has been read lets both run at once: AF_UNIX does so by accident, since its receive frees the sender's buffer and that
//! wakes whoever sleeps on the socket.
//!
//! It is a guess, and guessing wrong costs the sleeper a useless wake-up. So each wrong guess of a lane doubles the number of
//! chances that are let pass, up to [`PENALTY_MAX`]; each right one forgives.
//!
//! The state is one word that both ends change without a lock; a lost change costs a guess.

/// Chances let pass at most after a wrong guess.
pub const PENALTY_MAX: u32 = 1 << 10;

const SKIP_MASK: u32 = 0xffff;
const PENALTY_SHIFT: u32 = 16;

/// The end that has read something: wake the other one now? Also the state after that.
pub const fn guess(state: u32) -> (bool, u32) {
    if state & SKIP_MASK == 0 {
        (true, state)
    } else {
        (false, state.wrapping_sub(1))
    }
}

/// The woken end found nothing and sleeps again.
pub const fn wrong(state: u32) -> u32 {
    let penalty = state >> PENALTY_SHIFT;
    let more = if penalty == 0 {
        1
    } else {
        penalty.wrapping_mul(2)
    };
    let more = if more > PENALTY_MAX {
        PENALTY_MAX
    } else {
        more
    };
    (more << PENALTY_SHIFT) | more
}

/// The woken end found what it waited for.
pub const fn right(_state: u32) -> u32 {
    0
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn right_guesses_go_on() {
        let mut state = 0;
        for _ in 0..10 {
            let (wake, next) = guess(state);
            assert!(wake);
            state = right(next);
        }
    }

    #[test]
    fn wrong_guesses_become_rare() {
        let (mut state, mut wakes) = (0, 0);
        for _ in 0..100_000 {
            let (wake, next) = guess(state);
            wakes += u32::from(wake);
            state = if wake { wrong(next) } else { next };
        }
        assert!(wakes < 120, "{wakes} useless wake-ups in 100000 chances");
        assert!(state >> PENALTY_SHIFT == PENALTY_MAX);
    }

    #[test]
    fn one_right_guess_forgives() {
        let state = wrong(wrong(wrong(0)));
        assert!(!guess(state).0);
        assert!(guess(right(state)).0);
    }
}
