// SPDX-License-Identifier: GPL-2.0-only
//! sendmsg(2), recvmsg(2) and their plurals, with vectors and control messages.

use std::io::Result;
use std::os::fd::AsRawFd;
use std::ptr;

use libc::{c_int, c_void, iovec, mmsghdr, msghdr};

use super::checked;

/// Room for control messages.
const ROOM: usize = 512;

/// A control message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// Its level.
    pub level: c_int,
    /// Its type.
    pub kind: c_int,
    /// Its bytes.
    pub data: Vec<u8>,
}

impl Control {
    /// One that carries a u32.
    pub fn word(level: c_int, kind: c_int, value: u32) -> Self {
        let data = value.to_ne_bytes().to_vec();
        Self { level, kind, data }
    }

    /// The first four bytes as a number.
    pub fn number(&self) -> Option<u32> {
        let first = self.data.first_chunk::<4>()?;
        Some(u32::from_ne_bytes(*first))
    }
}

/// What recvmsg(2) gave.
#[derive(Debug)]
pub struct Message {
    /// Number of bytes.
    pub count: usize,
    /// msg_flags.
    pub flags: c_int,
    /// The control messages.
    pub controls: Vec<Control>,
}

impl Message {
    /// The control message of this level and type.
    pub fn control(&self, level: c_int, kind: c_int) -> Option<&Control> {
        let fits = |control: &&Control| control.level == level && control.kind == kind;
        self.controls.iter().find(fits)
    }
}

fn empty() -> msghdr {
    // SAFETY: an all-zero msghdr is a valid empty one.
    unsafe { std::mem::zeroed() }
}

fn vectors(parts: &mut [&mut [u8]]) -> Vec<iovec> {
    let vector = |part: &mut &mut [u8]| iovec {
        iov_base: part.as_mut_ptr().cast(),
        iov_len: part.len(),
    };
    parts.iter_mut().map(vector).collect()
}

fn constant_vectors(parts: &[&[u8]]) -> Vec<iovec> {
    let vector = |part: &&[u8]| iovec {
        iov_base: part.as_ptr().cast_mut().cast(),
        iov_len: part.len(),
    };
    parts.iter().map(vector).collect()
}

/// recvmsg(2) into several buffers.
pub fn recvmsg(socket: &impl AsRawFd, parts: &mut [&mut [u8]], flags: c_int) -> Result<Message> {
    let mut vectors = vectors(parts);
    let mut room = [0_u64; ROOM / 8];
    let mut header = empty();
    header.msg_iov = vectors.as_mut_ptr();
    header.msg_iovlen = vectors.len();
    header.msg_control = room.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&room);
    // SAFETY: `header` points at `vectors`, which point at `parts`, and at `room`; all live until the call returns.
    let count = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) };
    Ok(Message {
        count: checked(count)?,
        flags: header.msg_flags,
        controls: controls(&header),
    })
}

/// The control messages that the kernel wrote.
fn controls(header: &msghdr) -> Vec<Control> {
    let mut list = Vec::new();
    // SAFETY: `header` was filled by recvmsg(2) and its control buffer is alive.
    let mut at = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !at.is_null() {
        // SAFETY: `at` is not null, so a whole header stands there.
        let (level, kind, length) =
            unsafe { ((*at).cmsg_level, (*at).cmsg_type, (*at).cmsg_len as usize) };
        // SAFETY: as above; CMSG_LEN is arithmetic only.
        let (data, head) = unsafe { (libc::CMSG_DATA(at), libc::CMSG_LEN(0) as usize) };
        let length = length.saturating_sub(head);
        // SAFETY: the kernel wrote `length` bytes of data behind the header.
        let data = unsafe { std::slice::from_raw_parts(data, length) }.to_vec();
        list.push(Control { level, kind, data });
        // SAFETY: as for CMSG_FIRSTHDR.
        at = unsafe { libc::CMSG_NXTHDR(header, at) };
    }
    list
}

/// sendmsg(2) of several buffers with control messages.
pub fn sendmsg(
    socket: &impl AsRawFd,
    parts: &[&[u8]],
    controls: &[Control],
    flags: c_int,
) -> Result<usize> {
    let mut vectors = constant_vectors(parts);
    let mut room = encoded(controls);
    let mut header = empty();
    header.msg_iov = vectors.as_mut_ptr();
    header.msg_iovlen = vectors.len();
    if !controls.is_empty() {
        header.msg_control = room.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(room.as_slice());
    }
    // SAFETY: `header` points at `vectors`, which point at `parts`, and at `room`; all live until the call returns.
    checked(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, flags) })
}

/// Control messages as sendmsg(2) wants them, aligned.
fn encoded(controls: &[Control]) -> Vec<u64> {
    let mut words = Vec::new();
    for control in controls {
        // The header is the length, then level and type in one word.
        // SAFETY: CMSG_LEN is arithmetic only.
        words.push(u64::from(unsafe {
            libc::CMSG_LEN(control.data.len() as u32)
        }));
        words.push(u64::from(control.level as u32) | u64::from(control.kind as u32) << 32);
        for chunk in control.data.chunks(8) {
            let mut bytes = [0; 8];
            bytes[..chunk.len()].copy_from_slice(chunk);
            words.push(u64::from_ne_bytes(bytes));
        }
    }
    words
}

/// writev(2)-like sendmsg(2) whose vectors are plain addresses and lengths, which the kernel may find bad.
pub fn send_vectors(
    socket: &impl AsRawFd,
    parts: &[(*const u8, usize)],
    flags: c_int,
) -> Result<usize> {
    let vector = |(start, length): &(*const u8, usize)| iovec {
        iov_base: start.cast_mut().cast::<c_void>(),
        iov_len: *length,
    };
    let mut vectors: Vec<iovec> = parts.iter().map(vector).collect();
    let mut header = empty();
    header.msg_iov = vectors.as_mut_ptr();
    header.msg_iovlen = vectors.len();
    // SAFETY: the kernel checks the memory it reads.
    checked(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, flags) })
}

/// recvmmsg(2) into one buffer for each message; the lengths of those that came.
pub fn recvmmsg(
    socket: &impl AsRawFd,
    buffers: &mut [Vec<u8>],
    flags: c_int,
) -> Result<Vec<usize>> {
    let mut vectors: Vec<iovec> = buffers
        .iter_mut()
        .map(|buffer| iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        })
        .collect();
    let mut headers = headers(&mut vectors);
    let count = headers.len() as u32;
    let (start, flags) = (headers.as_mut_ptr(), flags as _);
    // SAFETY: `headers` point at `vectors`, which point at `buffers`; all live until the call returns.
    let result =
        unsafe { libc::recvmmsg(socket.as_raw_fd(), start, count, flags, ptr::null_mut()) };
    Ok(lengths(&headers, checked(result as isize)?))
}

/// sendmmsg(2) of one buffer for each message; the lengths of those that went.
pub fn sendmmsg(socket: &impl AsRawFd, buffers: &[&[u8]], flags: c_int) -> Result<Vec<usize>> {
    let mut vectors = constant_vectors(buffers);
    let mut headers = headers(&mut vectors);
    let (start, count) = (headers.as_mut_ptr(), headers.len() as u32);
    // SAFETY: `headers` point at `vectors`, which point at `buffers`; all live until the call returns.
    let result = unsafe { libc::sendmmsg(socket.as_raw_fd(), start, count, flags as _) };
    Ok(lengths(&headers, checked(result as isize)?))
}

fn headers(vectors: &mut [iovec]) -> Vec<mmsghdr> {
    let header = |vector: &mut iovec| {
        let mut header = empty();
        header.msg_iov = vector;
        header.msg_iovlen = 1;
        mmsghdr {
            msg_hdr: header,
            msg_len: 0,
        }
    };
    vectors.iter_mut().map(header).collect()
}

fn lengths(headers: &[mmsghdr], count: usize) -> Vec<usize> {
    let done = headers.iter().take(count);
    done.map(|header| header.msg_len as usize).collect()
}
