// SPDX-License-Identifier: GPL-2.0-only
//! Memory with a gap whose pages come when a test says so, by userfaultfd(2): a call that reaches it waits in a page fault.

use std::ffi::c_void;
use std::io::{Error, Result};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use libc::c_int;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Bytes of a page.
pub const PAGE: usize = 4096;

/// Memory of which a part is not there: whoever touches that waits in a page fault until [`Absent::fill`] or [`Absent::forbid`].
#[derive(Debug)]
pub struct Absent {
    start: *mut c_void,
    before: usize,
    gap: usize,
    length: usize,
    faults: OwnedFd,
}

// SAFETY: only an address and a descriptor, both of the process.
unsafe impl Send for Absent {}
// SAFETY: nothing is changed through a shared reference but by the kernel.
unsafe impl Sync for Absent {}

/// `struct uffdio_api` of linux/userfaultfd.h.
#[repr(C)]
struct FaultApi {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_range`.
#[repr(C)]
struct FaultRange {
    start: u64,
    length: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
struct FaultRegister {
    range: FaultRange,
    mode: u64,
    ioctls: u64,
}

/// `struct uffdio_copy`.
#[repr(C)]
struct FaultCopy {
    to: u64,
    from: u64,
    length: u64,
    mode: u64,
    copied: i64,
}

nix::ioctl_readwrite!(fault_api, 0xaa, 0x3f, FaultApi);
nix::ioctl_readwrite!(fault_register, 0xaa, 0x00, FaultRegister);
nix::ioctl_read!(fault_wake, 0xaa, 0x02, FaultRange);
nix::ioctl_readwrite!(fault_copy, 0xaa, 0x03, FaultCopy);

fn checked(result: isize) -> Result<usize> {
    usize::try_from(result).map_err(|_| Error::last_os_error())
}

impl Absent {
    /// `length` bytes, whole pages, none of which is there.
    pub fn new(length: usize) -> Result<Self> {
        Self::between(0, length, 0)
    }

    /// `before` bytes that are there (all 0), `gap` that are not, and `after` that are; whole pages each.
    pub fn between(before: usize, gap: usize, after: usize) -> Result<Self> {
        let length = before + gap + after;
        let (read_write, private) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: a new mapping disturbs no other.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, read_write, private, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        // SAFETY: the system call takes one int and gives a descriptor.
        let raw = checked(unsafe { libc::syscall(libc::SYS_userfaultfd, flags) } as isize)?;
        let absent = Self {
            start,
            before,
            gap,
            length,
            // SAFETY: just made, and nobody else has it.
            faults: unsafe { OwnedFd::from_raw_fd(raw as RawFd) },
        };
        let mut api = FaultApi {
            api: 0xaa,
            features: 0,
            ioctls: 0,
        };
        let mut register = FaultRegister {
            range: absent.range(),
            mode: 1,
            ioctls: 0,
        };
        let raw = absent.faults.as_raw_fd();
        // SAFETY: the structures are those of the calls; registering changes no memory.
        unsafe {
            fault_api(raw, &raw mut api)?;
            fault_register(raw, &raw mut register)?;
        }
        Ok(absent)
    }

    fn gap_start(&self) -> *mut c_void {
        self.start.wrapping_byte_add(self.before)
    }

    fn range(&self) -> FaultRange {
        FaultRange {
            start: self.gap_start() as u64,
            length: self.gap as u64,
        }
    }

    /// How many bytes it has in all.
    pub fn len(&self) -> usize {
        self.length
    }

    /// True when it has no byte.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Where the gap begins.
    pub fn gap_at(&self) -> usize {
        self.before
    }

    /// send(2) of all of it.
    pub fn send(&self, socket: &impl AsRawFd, flags: c_int) -> Result<usize> {
        // SAFETY: our own mapping; the kernel waits for its pages.
        checked(unsafe { libc::send(socket.as_raw_fd(), self.start, self.length, flags) })
    }

    /// recv(2) into it.
    pub fn recv(&self, socket: &impl AsRawFd, flags: c_int) -> Result<usize> {
        // SAFETY: our own mapping, of which no reference exists; the kernel waits for its pages.
        checked(unsafe { libc::recv(socket.as_raw_fd(), self.start, self.length, flags) })
    }

    /// What stands before the gap, the gap, and what stands behind it, each a part of its own.
    fn parts(&self) -> [libc::iovec; 3] {
        let after = self.length - self.before - self.gap;
        let places = [
            (0, self.before),
            (self.before, self.gap),
            (self.before + self.gap, after),
        ];
        places.map(|(at, length)| libc::iovec {
            iov_base: self.start.wrapping_byte_add(at),
            iov_len: length,
        })
    }

    /// writev(2) of all of it in three parts, of which the second is the gap.
    pub fn writev(&self, socket: &impl AsRawFd) -> Result<usize> {
        let parts = self.parts();
        // SAFETY: parts of our own mapping; the kernel waits for its pages.
        checked(unsafe { libc::writev(socket.as_raw_fd(), parts.as_ptr(), 3) })
    }

    /// readv(2) into the same parts.
    pub fn readv(&self, socket: &impl AsRawFd) -> Result<usize> {
        let parts = self.parts();
        // SAFETY: parts of our own mapping, of which no reference exists; the kernel waits for its pages.
        checked(unsafe { libc::readv(socket.as_raw_fd(), parts.as_ptr(), 3) })
    }

    /// True when somebody waits for the gap, and was not seen to wait before.
    pub fn is_missed(&self) -> Result<bool> {
        let mut fds = [PollFd::new(self.faults.as_fd(), PollFlags::POLLIN)];
        Ok(poll(&mut fds, PollTimeout::ZERO)? > 0)
    }

    /// Puts `bytes` into the gap, as many as it is long, and lets those go on that wait.
    pub fn fill(&self, bytes: &[u8]) -> Result<()> {
        assert_eq!(bytes.len(), self.gap);
        let mut copy = FaultCopy {
            to: self.gap_start() as u64,
            from: bytes.as_ptr() as u64,
            length: self.gap as u64,
            mode: 0,
            copied: 0,
        };
        // SAFETY: `bytes` is as long as the gap, of which no reference exists.
        unsafe { fault_copy(self.faults.as_raw_fd(), &raw mut copy)? };
        Ok(())
    }

    /// Takes the right to touch the gap away, and lets those go on that wait, who get EFAULT for it.
    pub fn forbid(&self) -> Result<()> {
        // SAFETY: our own mapping, of which no reference exists.
        checked(unsafe { libc::mprotect(self.gap_start(), self.gap, libc::PROT_NONE) } as isize)?;
        let mut range = self.range();
        // SAFETY: the structure is that of the call, which changes no memory.
        unsafe { fault_wake(self.faults.as_raw_fd(), &raw mut range)? };
        Ok(())
    }

    /// Puts `bytes` at `position`, where memory is there.
    pub fn put(&self, position: usize, bytes: &[u8]) {
        assert!(self.is_there(position, bytes.len()));
        let to = self.start.wrapping_byte_add(position).cast::<u8>();
        // SAFETY: within our own mapping, of which no reference exists, and not in the gap.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }

    /// The `length` bytes at `position`; the gap must have been filled if they are in it.
    pub fn get(&self, position: usize, length: usize) -> Vec<u8> {
        assert!(position + length <= self.length);
        let mut bytes = vec![0; length];
        let from = self.start.wrapping_byte_add(position).cast::<u8>();
        // SAFETY: within our own mapping; who asks for what is not there waits as the kernel does, and does no harm.
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), length) };
        bytes
    }

    fn is_there(&self, position: usize, length: usize) -> bool {
        let end = position + length;
        end <= self.before || (position >= self.before + self.gap && end <= self.length)
    }
}

impl Drop for Absent {
    fn drop(&mut self) {
        // SAFETY: our own mapping, no longer used.
        unsafe { libc::munmap(self.start, self.length) };
    }
}
