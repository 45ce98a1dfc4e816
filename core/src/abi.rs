// SPDX-License-Identifier: GPL-2.0-only
//! Limits and names that the module shares with the policy program, the control tool and the tests.

/// Smallest ring, in KiB: one page.
pub const RING_KBYTES_MIN: u32 = 4;
/// Largest ring, in KiB.
pub const RING_KBYTES_MAX: u32 = 16384;
/// Ring size where neither the policy nor the module parameter says otherwise, in KiB.
pub const RING_KBYTES_DEFAULT: u32 = 64;
/// Flag of `bpf_tcp_splice_pair()`: only with an end in the same network namespace. Either end's policy may ask for that.
pub const PAIR_SAME_NETNS: u64 = 1;
/// Longest busy-poll budget of a connection, in microseconds.
pub const BUSY_POLL_US_MAX: u32 = 1_000_000;

/// Ring size for a request: `0` takes `default`, anything else must lie within the limits; rounded up to a power of two.
///
/// `None` when the request is out of range. A `default` out of range (the module parameter checks it, so it cannot be) is
/// brought back into it.
pub const fn ring_kbytes(request: u32, default: u32) -> Option<u32> {
    let kbytes = match request {
        0 if default < RING_KBYTES_MIN => RING_KBYTES_MIN,
        0 if default > RING_KBYTES_MAX => RING_KBYTES_MAX,
        0 => default,
        RING_KBYTES_MIN..=RING_KBYTES_MAX => request,
        _ => return None,
    };
    kbytes.checked_next_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_sizes_are_rounded_and_bounded() {
        for (request, default, want) in [
            (0, 64, Some(64)),
            (0, 65, Some(128)),
            (0, 1, Some(4)),
            (0, u32::MAX, Some(16384)),
            (3, 64, None),
            (4, 64, Some(4)),
            (5, 64, Some(8)),
            (100, 64, Some(128)),
            (16384, 64, Some(16384)),
            (16385, 64, None),
            (u32::MAX, 64, None),
        ] {
            assert_eq!(ring_kbytes(request, default), want, "{request} {default}");
        }
    }
}
