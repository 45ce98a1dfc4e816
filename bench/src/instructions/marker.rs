// SPDX-License-Identifier: GPL-2.0-only
//! Instructions that do nothing, at which the plugin of the emulator (insn/src/lib.rs) writes its sums down.

use std::arch::asm;

/// A window begins: `xchg bx, bx`.
#[inline(never)]
pub fn begin() {
    // SAFETY: it exchanges a register with itself.
    unsafe { asm!(".byte 0x66, 0x87, 0xdb", options(nostack)) }
}

/// A window ends: `xchg cx, cx`.
#[inline(never)]
pub fn end() {
    // SAFETY: it exchanges a register with itself.
    unsafe { asm!(".byte 0x66, 0x87, 0xc9", options(nostack)) }
}
