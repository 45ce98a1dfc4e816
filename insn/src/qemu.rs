// SPDX-License-Identifier: GPL-2.0-only
//! QEMU's plugin interface, as far as it is used here (include/qemu/qemu-plugin.h of QEMU; Debian packages no header).
//!
//! Everything but `qemu_plugin_insn_data` has been the same since version 1 of the interface (QEMU 6 to 8). That one copies into a
//! buffer of ours since version 3 (QEMU 9.1).

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

/// Names a loaded plugin.
pub type Id = u64;
/// Called back with the virtual processor and the data that were given.
pub type VcpuCallback = extern "C" fn(c_uint, *mut c_void);
/// The callback touches no register of the guest.
pub const NO_REGS: c_int = 0;
/// `QEMU_PLUGIN_MEM_RW`.
pub const READS_AND_WRITES: c_int = 3;
/// The longest x86 instruction.
pub const LONGEST: usize = 15;

/// `qemu_info_t`.
#[repr(C)]
pub struct Info {
    /// name of the guest's architecture
    pub target_name: *const c_char,
    /// lowest version of the interface
    pub version_min: c_int,
    /// this QEMU's version of the interface
    pub version_cur: c_int,
    /// false for user-mode emulation
    pub system_emulation: bool,
    /// processors at start
    pub smp_vcpus: c_int,
    /// processors with those that may be plugged in later
    pub max_vcpus: c_int,
}

/// A translation block.
#[repr(C)]
pub struct Tb([u8; 0]);
/// An instruction of a translation block.
#[repr(C)]
pub struct Insn([u8; 0]);

unsafe extern "C" {
    /// Has every translation announced.
    pub fn qemu_plugin_register_vcpu_tb_trans_cb(id: Id, callback: extern "C" fn(Id, *mut Tb));
    /// Has every execution of a block reported; to be called while it is announced, as all below.
    pub fn qemu_plugin_register_vcpu_tb_exec_cb(
        tb: *mut Tb,
        callback: VcpuCallback,
        flags: c_int,
        data: *mut c_void,
    );
    /// Has every execution of an instruction reported.
    pub fn qemu_plugin_register_vcpu_insn_exec_cb(
        insn: *mut Insn,
        callback: VcpuCallback,
        flags: c_int,
        data: *mut c_void,
    );
    /// Has every access to memory of an instruction reported: what it is, and its address in the guest.
    pub fn qemu_plugin_register_vcpu_mem_cb(
        insn: *mut Insn,
        callback: extern "C" fn(c_uint, u32, u64, *mut c_void),
        flags: c_int,
        which: c_int,
        data: *mut c_void,
    );
    /// How many instructions a block has.
    pub fn qemu_plugin_tb_n_insns(tb: *const Tb) -> usize;
    /// One of them.
    pub fn qemu_plugin_tb_get_insn(tb: *const Tb, index: usize) -> *mut Insn;
    /// Its address in the guest.
    pub fn qemu_plugin_insn_vaddr(insn: *const Insn) -> u64;
    /// Its length in bytes.
    pub fn qemu_plugin_insn_size(insn: *const Insn) -> usize;
    /// Up to version 2 it takes the first argument only and returns a pointer to the bytes; from version 3 on it copies them to the
    /// second and returns how many. In the calling convention of x86-64 and arm64, a function does not notice arguments that it does
    /// not take, and both results come in the same register.
    fn qemu_plugin_insn_data(insn: *const Insn, to: *mut c_void, length: usize) -> usize;
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// The version of the interface that we claim to be written for; QEMU reads it before it calls anything of ours.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static qemu_plugin_version: AtomicI32 = AtomicI32::new(1);

/// QEMU 9 and later refuses 1, older ones refuse 2; what we use is the same in both. Runs when the plugin is loaded.
extern "C" fn claim_version() {
    // SAFETY: a null handle (RTLD_DEFAULT) searches the program and its libraries; the name is a C string.
    let since_2 = unsafe { dlsym(std::ptr::null_mut(), c"qemu_plugin_num_vcpus".as_ptr()) };
    if !since_2.is_null() {
        qemu_plugin_version.store(2, Relaxed);
    }
}

#[used]
#[unsafe(link_section = ".init_array")]
static CLAIM_VERSION: extern "C" fn() = claim_version;

/// This QEMU's version of the interface, set in `qemu_plugin_install`.
pub static API: AtomicI32 = AtomicI32::new(1);

/// The bytes of an instruction: its length and a buffer that begins with them.
///
/// # Safety
/// `insn` comes from the translation that is being announced.
pub unsafe fn bytes_of(insn: *const Insn) -> (usize, [u8; LONGEST]) {
    let mut bytes = [0; LONGEST];
    // SAFETY: the caller's promise.
    let size = unsafe { qemu_plugin_insn_size(insn) }.min(LONGEST);
    // SAFETY: the caller's promise; the buffer has room for `size` bytes.
    let result = unsafe { qemu_plugin_insn_data(insn, bytes.as_mut_ptr().cast(), size) };
    if API.load(Relaxed) < 3 && result != 0 {
        let from = std::ptr::with_exposed_provenance::<u8>(result);
        // SAFETY: this version returned a pointer to the instruction's bytes, of which there are `size`.
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), size) };
    }
    (size, bytes)
}
