// SPDX-License-Identifier: GPL-2.0-only
//! What a case saw, one line for each observation, in words that can be compared and read.

use std::fmt::Display;
use std::io;

use nix::errno::Errno;

/// What the lines begin with that make a case fail even if the other run has them too.
pub const FAULT: &str = "! ";

/// What lines about times begin with.
pub const TIME: &str = "~ ";

/// Longest text that is shown as it is.
const SHOWN: usize = 48;

/// The name of an error.
pub fn error(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => format!("{:?}", Errno::from_raw(number)),
        None => format!("{:?}", error.kind()),
    }
}

/// A result, or the name of its error.
pub fn outcome<T: Display, E: Into<io::Error>>(result: Result<T, E>) -> String {
    match result {
        Ok(value) => value.to_string(),
        Err(cause) => error(&cause.into()),
    }
}

/// A success without a value, or the name of the error.
pub fn done<E: Into<io::Error>>(result: Result<(), E>) -> String {
    outcome(result.map(|()| "done"))
}

/// How many bytes, and which: short printable ones as they are, others by a hash.
pub fn bytes(bytes: &[u8]) -> String {
    let plain = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
    if bytes.len() <= SHOWN && bytes.iter().all(plain) {
        return format!("{} {:?}", bytes.len(), String::from_utf8_lossy(bytes));
    }
    format!("{} #{:08x}", bytes.len(), hash(bytes))
}

/// FNV-1a, folded.
fn hash(bytes: &[u8]) -> u32 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, step);
    (hash ^ (hash >> 32)) as u32
}

/// Names of the bits in `value`, joined; unknown ones in hexadecimal.
fn names(value: i64, table: &[(i64, &str)]) -> String {
    let mut left = value;
    let mut words = Vec::new();
    for (bit, name) in table {
        if value & bit == *bit {
            words.push((*name).to_owned());
            left &= !bit;
        }
    }
    if left != 0 {
        words.push(format!("{left:#x}"));
    }
    if words.is_empty() {
        return "nothing".to_owned();
    }
    words.join("|")
}

/// Events of poll(2) and epoll(7), whose low bits have the same meaning.
pub fn events(value: i32) -> String {
    const TABLE: &[(i64, &str)] = &[
        (0x1, "IN"),
        (0x2, "PRI"),
        (0x4, "OUT"),
        (0x8, "ERR"),
        (0x10, "HUP"),
        (0x20, "NVAL"),
        (0x40, "RDNORM"),
        (0x80, "RDBAND"),
        (0x100, "WRNORM"),
        (0x200, "WRBAND"),
        (0x400, "MSG"),
        (0x2000, "RDHUP"),
    ];
    names(value.into(), TABLE)
}

/// Flags that recvmsg(2) gives back.
pub fn message_flags(value: i32) -> String {
    const TABLE: &[(i64, &str)] = &[
        (libc::MSG_OOB as i64, "OOB"),
        (libc::MSG_CTRUNC as i64, "CTRUNC"),
        (libc::MSG_TRUNC as i64, "TRUNC"),
        (libc::MSG_EOR as i64, "EOR"),
        (libc::MSG_ERRQUEUE as i64, "ERRQUEUE"),
        (libc::MSG_CMSG_CLOEXEC as i64, "CMSG_CLOEXEC"),
    ];
    names(value.into(), TABLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_can_be_read() {
        assert_eq!(bytes(b"hello"), "5 \"hello\"");
        assert!(bytes(&[0; 100]).starts_with("100 #"));
        assert_ne!(bytes(&[0; 100]), bytes(&[1; 100]));
        assert_eq!(events(0x2005), "IN|OUT|RDHUP");
        assert_eq!(events(0), "nothing");
        let failed: Result<usize, Errno> = Err(Errno::EPIPE);
        assert_eq!(outcome(failed), "EPIPE");
    }
}
