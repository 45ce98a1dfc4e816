// SPDX-License-Identifier: GPL-2.0-only
//! A QEMU plugin that counts the instructions of an emulated x86-64 guest, and writes the sums down whenever the guest executes a marker.
//!
//! `-plugin libtcp_splice_insn.so,out=FILE[,profile=FILE]`. The markers are `xchg bx, bx` (begin) and `xchg cx, cx` (end), which do nothing and which
//! no compiler emits. Each adds a line to FILE: `begin` or `end`, all processors' instructions, turns of repeated string instructions.
//!
//! A repeated string instruction (`rep movsb`) counts as one, as in a processor's own counter, although the emulator executes each turn
//! as if it was one; its further turns are counted apart.
//!
//! The profile says where the instructions are: at each end it gets a line `window` and then, for each piece of code that was executed since the
//! begin, a line `instructions`: its address and its instructions, each as often as it was executed. Lines `code` and `data` have the address of a piece
//! of code, and how many pages it was the first to touch after a change of the address space, by being executed or by an access.

mod pages;
mod places;
mod qemu;

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fs::File;
use std::io::Write;
use std::ptr::without_provenance_mut;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use qemu::{Id, Info, Insn, Tb};

/// Encoded as assemblers do; the guest's side is bench/src/instructions/marker.rs.
const BEGIN: [u8; 3] = [0x66, 0x87, 0xdb];
const END: [u8; 3] = [0x66, 0x87, 0xc9];

/// Processors that are counted.
const VCPUS: usize = 64;

/// Counts of one processor. Only its own thread writes them, so no read-modify-write has to be atomic.
#[repr(align(128))]
struct Counts {
    instructions: AtomicU64,
    turns: AtomicU64,
    /// the repeated string instruction with which the last block ended, or 0
    repeating: AtomicU64,
}

static COUNTS: [Counts; VCPUS] = [const {
    Counts {
        instructions: AtomicU64::new(0),
        turns: AtomicU64::new(0),
        repeating: AtomicU64::new(0),
    }
}; VCPUS];

static OUT: Mutex<Option<File>> = Mutex::new(None);

/// What executing a block means for the counts, packed into the pointer that QEMU keeps for us: bits 0 to 15 are its number of
/// instructions, bits 32 to 63 a part of the address of its last one where that is a repeated string instruction.
#[derive(Clone, Copy)]
struct Block(usize);

impl Block {
    /// The last instruction is a repeated string instruction.
    const REPEATS: usize = 1 << 16;

    /// # Safety
    /// `tb` is the translation that is being announced.
    unsafe fn of(tb: *const Tb) -> Self {
        // SAFETY: the caller's promise.
        let length = unsafe { qemu::qemu_plugin_tb_n_insns(tb) };
        // SAFETY: as above; a block has a last instruction.
        let last = unsafe { qemu::qemu_plugin_tb_get_insn(tb, length - 1) };
        // SAFETY: it comes from this translation.
        let (size, bytes) = unsafe { qemu::bytes_of(last) };
        if !repeated(&bytes[..size]) {
            return Self(length);
        }
        // SAFETY: it comes from this translation.
        let address = unsafe { qemu::qemu_plugin_insn_vaddr(last) } as usize;
        Self(length | Self::REPEATS | address << 32)
    }

    fn count(self, counts: &Counts) {
        let add = |counter: &AtomicU64, more: u64| {
            counter.store(counter.load(Relaxed).wrapping_add(more), Relaxed);
        };
        let length = (self.0 & 0xffff) as u64;
        if self.0 & Self::REPEATS == 0 {
            counts.repeating.store(0, Relaxed);
            return add(&counts.instructions, length);
        }
        // A further turn begins with the instruction, which ends the block that it is in.
        let id = (self.0 >> 16) as u64;
        if length == 1 && counts.repeating.load(Relaxed) == id {
            return add(&counts.turns, 1);
        }
        counts.repeating.store(id, Relaxed);
        add(&counts.instructions, length);
    }
}

/// Is this a string instruction with a repeat prefix?
fn repeated(bytes: &[u8]) -> bool {
    let is_prefix = |byte: u8| matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf2 | 0xf3);
    let prefixes = bytes.iter().take_while(|byte| is_prefix(**byte)).count();
    let (prefixes, rest) = bytes.split_at(prefixes);
    let string = matches!(rest, [0x6c..=0x6f | 0xa4..=0xa7 | 0xaa..=0xaf]);
    string && prefixes.iter().any(|byte| matches!(byte, 0xf2 | 0xf3))
}

extern "C" fn executed(vcpu: c_uint, block: *mut c_void) {
    if let Some(counts) = COUNTS.get(vcpu as usize) {
        Block(block.addr()).count(counts);
    }
}

/// Writes the sums down; `kind` is 0 for begin, 1 for end.
extern "C" fn marked(_vcpu: c_uint, kind: *mut c_void) {
    let name = if kind.is_null() { "begin" } else { "end" };
    let sum = |of: fn(&Counts) -> &AtomicU64| -> u64 {
        COUNTS.iter().map(|counts| of(counts).load(Relaxed)).sum()
    };
    let line = format!(
        "{name} {} {}\n",
        sum(|counts| &counts.instructions),
        sum(|counts| &counts.turns)
    );
    let mut out = OUT.lock().unwrap_or_else(PoisonError::into_inner);
    let written = out.as_mut().map(|file| file.write_all(line.as_bytes()));
    if let Some(Err(error)) = written {
        eprintln!("tcp_splice_insn: failed to write a marker: {error}");
    }
    places::marked(!kind.is_null());
}

extern "C" fn translated(_id: Id, tb: *mut Tb) {
    // SAFETY: QEMU announces this block.
    let block = unsafe { Block::of(tb) };
    // SAFETY: QEMU announces this block; the callback lives as long as the program.
    unsafe {
        qemu::qemu_plugin_register_vcpu_tb_exec_cb(
            tb,
            executed,
            qemu::NO_REGS,
            without_provenance_mut(block.0),
        );
    }
    // A further turn alone is no instruction of its own.
    if block.0 & !(usize::MAX << 32) != 1 | Block::REPEATS {
        // SAFETY: QEMU announces this block, which has that many instructions.
        unsafe { places::watch(tb, block.0 & 0xffff) };
    }
    for index in 0..block.0 & 0xffff {
        // SAFETY: the block has that many instructions.
        let insn = unsafe { qemu::qemu_plugin_tb_get_insn(tb, index) };
        watch(insn);
    }
}

/// Has markers reported.
fn watch(insn: *mut Insn) {
    // SAFETY: it comes from the block that is being announced.
    let (size, bytes) = unsafe { qemu::bytes_of(insn) };
    let kind = match bytes[..size] {
        [a, b, c] if [a, b, c] == BEGIN => 0,
        [a, b, c] if [a, b, c] == END => 1,
        _ => return,
    };
    // SAFETY: it comes from the block that is being announced; the callback lives as long as the program.
    unsafe {
        qemu::qemu_plugin_register_vcpu_insn_exec_cb(
            insn,
            marked,
            qemu::NO_REGS,
            without_provenance_mut(kind),
        );
    }
}

/// Called by QEMU when it has loaded the plugin.
///
/// # Safety
/// As QEMU promises: `info` is valid, `argv` has `argc` C strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: Id,
    info: *const Info,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    // SAFETY: the caller's promise.
    let info = unsafe { &*info };
    let arguments = (0..usize::try_from(argc).unwrap_or(0)).map(|index| {
        // SAFETY: the caller's promise.
        let argument = unsafe { CStr::from_ptr(*argv.add(index)) };
        argument.to_string_lossy().into_owned()
    });
    if let Err(reason) = set_up(info, arguments) {
        eprintln!("tcp_splice_insn: {reason}");
        return -1;
    }
    // SAFETY: the id is ours; the callback lives as long as the program.
    unsafe { qemu::qemu_plugin_register_vcpu_tb_trans_cb(id, translated) };
    0
}

fn set_up(info: &Info, arguments: impl Iterator<Item = String>) -> Result<(), String> {
    // SAFETY: QEMU's name of the guest's architecture is a C string.
    let target = unsafe { CStr::from_ptr(info.target_name) }.to_string_lossy();
    if target != "x86_64" || !info.system_emulation {
        return Err(format!(
            "failed to find markers in {target}: only whole x86_64 guests have them"
        ));
    }
    if info.version_cur < 1 {
        return Err(format!(
            "failed to use version {} of the plugin interface: it takes 1 or later",
            info.version_cur
        ));
    }
    if usize::try_from(info.max_vcpus).is_ok_and(|most| most > VCPUS) {
        return Err(format!("failed to count more than {VCPUS} processors"));
    }
    qemu::API.store(info.version_cur, Relaxed);
    let mut out = None;
    for argument in arguments {
        match argument.split_once('=') {
            Some(("out", path)) => out = Some(create(path)?),
            Some(("profile", path)) => places::write_to(create(path)?),
            _ => {
                return Err(format!(
                    "failed to understand {argument:?}: there are out=FILE and profile=FILE"
                ));
            }
        }
    }
    let file = out.ok_or("failed to find out=FILE among the arguments")?;
    *OUT.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
    Ok(())
}

fn create(path: &str) -> Result<File, String> {
    File::create(path).map_err(|error| format!("failed to create {path}: {error}"))
}
