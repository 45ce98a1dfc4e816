// SPDX-License-Identifier: GPL-2.0-only
//! System calls in the exact form that a case needs, beyond those of `tcp_splice_world::sys`.

mod message;

use std::io::{Error, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use libc::c_int;

pub use message::{Control, Message, recvmmsg, recvmsg, send_vectors, sendmmsg, sendmsg};

/// Turns a negative result into the error it stands for.
fn checked(result: isize) -> Result<usize> {
    usize::try_from(result).map_err(|_| Error::last_os_error())
}

/// Makes a descriptor of a non-negative result.
fn descriptor(result: isize) -> Result<OwnedFd> {
    let number = checked(result)?;
    let number = RawFd::try_from(number).map_err(|_| Error::from_raw_os_error(libc::EOVERFLOW))?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// poll(2) of one descriptor within `wait` milliseconds.
pub fn poll(socket: &impl AsRawFd, events: i16, wait: c_int) -> Result<i16> {
    let mut entry = libc::pollfd {
        fd: socket.as_raw_fd(),
        events,
        revents: 0,
    };
    // SAFETY: one entry, alive during the call.
    checked(unsafe { libc::poll(&raw mut entry, 1, wait) } as isize)?;
    Ok(entry.revents)
}

/// getsockopt(2) of at most `length` bytes.
pub fn get_bytes(
    socket: &impl AsRawFd,
    level: c_int,
    name: c_int,
    length: usize,
) -> Result<Vec<u8>> {
    let mut value = vec![0_u8; length];
    let mut length = length as libc::socklen_t;
    let start = value.as_mut_ptr().cast();
    // SAFETY: `value` has `length` bytes.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, start, &raw mut length) };
    checked(result as isize)?;
    value.truncate(length as usize);
    Ok(value)
}

/// getsockopt(2) of an int.
pub fn get(socket: &impl AsRawFd, level: c_int, name: c_int) -> Result<i32> {
    let value = get_bytes(socket, level, name, 4)?;
    let mut bytes = [0; 4];
    bytes[..value.len()].copy_from_slice(&value);
    Ok(i32::from_ne_bytes(bytes))
}

/// setsockopt(2) of any bytes.
pub fn set_bytes(socket: &impl AsRawFd, level: c_int, name: c_int, value: &[u8]) -> Result<()> {
    let (start, length) = (value.as_ptr().cast(), value.len() as libc::socklen_t);
    // SAFETY: `start` and `length` describe `value`.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, start, length) };
    checked(result as isize).map(drop)
}

/// ioctl(2) that gives an int.
pub fn ioctl(socket: &impl AsRawFd, request: libc::Ioctl) -> Result<i32> {
    let mut value: c_int = 0;
    // SAFETY: callers name requests that write one int.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw mut value) };
    checked(result as isize)?;
    Ok(value)
}

/// fcntl(2) with an int.
pub fn fcntl(socket: &impl AsRawFd, command: c_int, value: c_int) -> Result<i32> {
    // SAFETY: callers name commands that take an int.
    let result = unsafe { libc::fcntl(socket.as_raw_fd(), command, value) };
    checked(result as isize).map(|value| value as i32)
}

/// mmap(2) of `length` bytes of a descriptor, for reading; the address, which is never unmapped.
pub fn map(socket: &impl AsRawFd, length: usize) -> Result<*mut u8> {
    let nowhere = std::ptr::null_mut();
    let (protection, flags) = (libc::PROT_READ, libc::MAP_SHARED);
    // SAFETY: a new mapping disturbs no other.
    let start = unsafe { libc::mmap(nowhere, length, protection, flags, socket.as_raw_fd(), 0) };
    if start == libc::MAP_FAILED {
        return Err(Error::last_os_error());
    }
    Ok(start.cast())
}

/// A classic BPF program on the socket that lets at most `length` bytes of each packet through (0 drops it).
pub fn attach_filter(socket: &impl AsRawFd, length: u32) -> Result<()> {
    let ret = (libc::BPF_RET | libc::BPF_K) as u16;
    let mut program = libc::sock_filter {
        code: ret,
        jt: 0,
        jf: 0,
        k: length,
    };
    let value = libc::sock_fprog {
        len: 1,
        filter: &raw mut program,
    };
    let size = size_of_val(&value) as libc::socklen_t;
    let (level, name) = (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER);
    let start = (&raw const value).cast();
    // SAFETY: `value` points at `program`, both alive during the call.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, start, size) };
    checked(result as isize).map(drop)
}

/// bpf(2): a sockmap with one place.
pub fn sockmap() -> Result<OwnedFd> {
    const MAP_CREATE: c_int = 0;
    const SOCKMAP: u32 = 15;
    let attributes: [u32; 18] = {
        let mut words = [0; 18];
        // type, key size, value size, entries
        words[..4].copy_from_slice(&[SOCKMAP, 4, 4, 1]);
        words
    };
    let size = size_of_val(&attributes);
    // SAFETY: `attributes` has `size` bytes; unused ones are 0.
    let result = unsafe { libc::syscall(libc::SYS_bpf, MAP_CREATE, attributes.as_ptr(), size) };
    descriptor(result as isize)
}

/// bpf(2): puts `socket` into the first place of a sockmap.
pub fn sockmap_insert(map: &OwnedFd, socket: &impl AsRawFd) -> Result<()> {
    const MAP_UPDATE_ELEM: c_int = 2;
    let (key, value) = (0, socket.as_raw_fd());
    let address = |word: *const i32| word.expose_provenance() as u64;
    let (at, from) = (address(&raw const key), address(&raw const value));
    let attributes: [u64; 4] = [map.as_raw_fd() as u64, at, from, 0];
    let size = size_of_val(&attributes);
    // SAFETY: `attributes` points at a key and a value of 4 bytes each, alive during the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, MAP_UPDATE_ELEM, attributes.as_ptr(), size) };
    checked(result as isize).map(drop)
}
