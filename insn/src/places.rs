// SPDX-License-Identifier: GPL-2.0-only
//! Where the instructions of a window are: a count for each block of code. And which pages it touches.

use std::ffi::{c_uint, c_void};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::ptr::from_ref;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use crate::pages;
use crate::qemu::{self, Tb};

/// A block, which QEMU may translate more than once.
struct Place {
    address: u64,
    instructions: u64,
    /// executions since the window began
    times: AtomicU64,
}

struct Profile {
    file: File,
    /// never freed, since QEMU keeps pointers to them
    places: Vec<&'static Place>,
}

static PROFILE: Mutex<Option<Profile>> = Mutex::new(None);

/// Has a profile made.
pub fn write_to(file: File) {
    let places = Vec::new();
    *PROFILE.lock().unwrap_or_else(PoisonError::into_inner) = Some(Profile { file, places });
}

extern "C" fn executed(_vcpu: c_uint, place: *mut c_void) {
    // SAFETY: `watch` gave a place that lives as long as the program.
    let place = unsafe { &*place.cast::<Place>() };
    place.times.fetch_add(1, Relaxed);
    pages::executed(place.address);
}

/// Counts a block from now on, if a profile is made.
///
/// # Safety
/// `tb` is the translation that is being announced, and has `instructions`.
pub unsafe fn watch(tb: *mut Tb, instructions: usize) {
    let mut profile = PROFILE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(profile) = profile.as_mut() else {
        return;
    };
    // SAFETY: the caller's promise; a block has a first instruction, and it comes from this translation.
    let address =
        unsafe { qemu::qemu_plugin_insn_vaddr(qemu::qemu_plugin_tb_get_insn(tb.cast_const(), 0)) };
    let place: &'static Place = Box::leak(Box::new(Place {
        address,
        instructions: instructions as u64,
        times: AtomicU64::new(0),
    }));
    profile.places.push(place);
    for index in 0..instructions {
        // SAFETY: the caller's promise.
        unsafe { pages::watch(qemu::qemu_plugin_tb_get_insn(tb.cast_const(), index)) };
    }
    // SAFETY: the caller's promise; the callback and the place live as long as the program.
    unsafe {
        qemu::qemu_plugin_register_vcpu_tb_exec_cb(
            tb,
            executed,
            qemu::NO_REGS,
            from_ref(place).cast_mut().cast(),
        );
    }
}

/// Begins a window, or ends it and writes it down.
pub fn marked(is_end: bool) {
    let mut profile = PROFILE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(Profile { file, places }) = profile.as_mut() else {
        return;
    };
    let mut text = String::from("window\n");
    for place in places {
        let times = place.times.swap(0, Relaxed);
        if times > 0 {
            let instructions = times * place.instructions;
            let _ = writeln!(text, "instructions {:x} {instructions}", place.address);
        }
    }
    text += &pages::take();
    // What was executed before a window is forgotten.
    if !is_end {
        return;
    }
    if let Err(error) = file.write_all(text.as_bytes()) {
        eprintln!("tcp_splice_insn: failed to write the profile: {error}");
    }
}
