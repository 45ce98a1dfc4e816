// SPDX-License-Identifier: GPL-2.0-only
//! Which pages a window touches: how often a page of code or data is touched for the first time since the address space changed. For each such
//! touch, whoever forgets all translations at that moment has to look for the page: an emulator, or a processor without PCID.

use std::collections::HashMap;
use std::ffi::{c_uint, c_void};
use std::fmt::Write as _;
use std::ptr::{null_mut, without_provenance_mut};
use std::sync::{Mutex, PoisonError};

use crate::qemu::{self, Insn};

/// Bits of an address within a page.
const PAGE_SHIFT: u32 = 12;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Code,
    Data,
}

#[derive(Default)]
struct Pages {
    /// changes of the address space so far
    space: u64,
    /// in which each page was touched last
    touched: HashMap<(u64, Kind), u64>,
    /// what was touched last of all, which most of the time is touched again
    last: Option<(u64, Kind)>,
    /// first touches since the window began, by the address of the code that touched
    first: HashMap<(u64, Kind), u64>,
}

impl Pages {
    fn touch(&mut self, address: u64, kind: Kind, by: u64) {
        let page = (address >> PAGE_SHIFT, kind);
        if self.last.replace(page) == Some(page) {
            return;
        }
        if self.touched.insert(page, self.space) != Some(self.space) {
            *self.first.entry((by, kind)).or_default() += 1;
        }
    }

    fn change_space(&mut self) {
        self.space += 1;
        self.last = None;
    }
}

static PAGES: Mutex<Option<Pages>> = Mutex::new(None);

fn with(act: impl FnOnce(&mut Pages)) {
    let mut pages = PAGES.lock().unwrap_or_else(PoisonError::into_inner);
    act(pages.get_or_insert_default());
}

/// A block at this address is executed.
pub fn executed(address: u64) {
    with(|pages| pages.touch(address, Kind::Code, address));
}

extern "C" fn accessed(_vcpu: c_uint, _info: u32, address: u64, by: *mut c_void) {
    with(|pages| pages.touch(address, Kind::Data, by.addr() as u64));
}

extern "C" fn changed(_vcpu: c_uint, _data: *mut c_void) {
    with(Pages::change_space);
}

/// Is this a `mov` to CR3?
fn changes_space(bytes: &[u8]) -> bool {
    let bytes = bytes
        .strip_prefix(&[0x41])
        .or_else(|| bytes.strip_prefix(&[0x40]))
        .unwrap_or(bytes);
    matches!(bytes, [0x0f, 0x22, 0xd8..=0xdf])
}

/// Has the accesses of an instruction reported, and whether it changes the address space.
///
/// # Safety
/// `insn` comes from the translation that is being announced.
pub unsafe fn watch(insn: *mut Insn) {
    // SAFETY: the caller's promise.
    let (size, bytes) = unsafe { qemu::bytes_of(insn) };
    // SAFETY: as above; the callbacks live as long as the program.
    unsafe {
        if changes_space(&bytes[..size]) {
            qemu::qemu_plugin_register_vcpu_insn_exec_cb(insn, changed, qemu::NO_REGS, null_mut());
        }
        qemu::qemu_plugin_register_vcpu_mem_cb(
            insn,
            accessed,
            qemu::NO_REGS,
            qemu::READS_AND_WRITES,
            without_provenance_mut(qemu::qemu_plugin_insn_vaddr(insn) as usize),
        );
    }
}

/// First touches since the last call: for each kind and piece of code a line `code` or `data`, address, how many.
pub fn take() -> String {
    let mut text = String::new();
    with(|pages| {
        for ((by, kind), times) in pages.first.drain() {
            let kind = match kind {
                Kind::Code => "code",
                Kind::Data => "data",
            };
            let _ = writeln!(text, "{kind} {by:x} {times}");
        }
    });
    text
}
