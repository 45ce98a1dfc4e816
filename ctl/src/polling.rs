// SPDX-License-Identifier: GPL-2.0-only
//! `net.core.busy_poll`: without it the kernel does not spin in epoll, poll and select, whatever a policy says.
//!
//! It holds for the whole machine, so it is raised only while a policy with a budget is in force, and put back afterwards. What it was
//! before stands in a map that is pinned beside the policy. If somebody else changes it meanwhile, it is theirs.

use std::fs::{self, File};
use std::io;

use anyhow::{Context, Result, ensure};
use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType};
use serde::Serialize;

const SYSCTL: &str = "/proc/sys/net/core/busy_poll";
const NAME: &str = "tcp_splice_poll";
const KEY: [u8; 4] = [0; 4];
/// The kernel looks at neither signals nor the caller's timeout while it spins in epoll_wait(), so a longer budget is recv()'s alone.
pub const MOST_US: u32 = 10_000;

/// What is noted while the sysctl is ours, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Note {
    before: u32,
    set: u32,
}

/// The sysctl as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Polling {
    /// For how long epoll, poll and select spin, in microseconds.
    pub us: u32,
    /// What `disable` puts back; `None` when the value is somebody else's.
    pub before_us: Option<u32>,
}

/// What has to become of the sysctl, which is `now`, under a policy with a budget of `wanted`; and of the note.
fn plan(now: u32, note: Option<Note>, wanted: u32) -> (u32, Option<Note>) {
    let note = note.filter(|note| note.set == now);
    let before = note.map_or(now, |note| note.before);
    let set = before.max(wanted.min(MOST_US));
    (set, (set != before).then_some(Note { before, set }))
}

/// Fails early when the sysctl cannot be set for a budget of `wanted`, or put back.
pub fn check(pin: &str, wanted: u32) -> Result<()> {
    let noted = noted(pin)?.is_some();
    if read()?.is_none() {
        ensure!(!noted, "{}", elsewhere());
        return Ok(());
    }
    if wanted == 0 && !noted {
        return Ok(());
    }
    let file = File::options().write(true).open(SYSCTL);
    file.map(drop).with_context(failure)
}

fn failure() -> String {
    format!("failed to set {SYSCTL}, without which programs do not spin in epoll, poll and select")
}

/// What was set can only be put back where it can be seen.
fn elsewhere() -> String {
    format!(
        "failed to put back {SYSCTL}, which is not in this network namespace: run this in the initial one (nsenter --net=/proc/1/ns/net)"
    )
}

/// Sets the sysctl for a policy with a budget of `wanted` microseconds; 0, or no policy, puts it back. `pin` is where the note is. What there is to
/// say of it: it is the whole machine's.
pub fn settle(pin: &str, wanted: u32) -> Result<Option<String>> {
    let old = noted(pin)?;
    let Some(now) = read()? else {
        ensure!(old.is_none(), "{}", elsewhere());
        return Ok(said(None, 0, wanted));
    };
    let (set, note) = plan(now, old, wanted);
    if note == old && set == now {
        return Ok(None);
    }
    // A note that does not fit what is set is passed over. So each step may be the last, should this be interrupted: what was there before is
    // back before its note goes, and noted before it is replaced.
    let before = note.map_or(set, |note| note.before);
    if before != now {
        write(before)?;
    }
    if old.is_some() {
        fs::remove_file(pin).with_context(|| format!("failed to remove pin {pin}"))?;
    }
    if let Some(note) = note {
        write_note(pin, note)?;
        write(note.set)?;
    }
    Ok(said(Some(now), set, wanted))
}

/// Of a sysctl that was `now`, and is `set`; `None`: that cannot be seen, although a budget of `wanted` microseconds needs it.
fn said(now: Option<u32>, set: u32, wanted: u32) -> Option<String> {
    match now {
        Some(now) if now == set => None,
        Some(now) => Some(format!("net.core.busy_poll: {now} us before, {set} us now")),
        None if wanted == 0 => None,
        None => Some(
            "net.core.busy_poll is not to be seen from this network namespace: where it is 0, programs spin in recv(), and not in epoll, poll and select"
                .to_owned(),
        ),
    }
}

/// The sysctl; `None` on a kernel, or in a network namespace, without it.
pub fn inspect(pin: &str) -> Result<Option<Polling>> {
    let Some(us) = read()? else { return Ok(None) };
    let note = noted(pin)?.filter(|note| note.set == us);
    Ok(Some(Polling {
        us,
        before_us: note.map(|note| note.before),
    }))
}

fn read() -> Result<Option<u32>> {
    let text = match fs::read_to_string(SYSCTL) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.with_context(|| format!("failed to read {SYSCTL}"))?,
    };
    let us = text.trim().parse();
    us.map(Some)
        .with_context(|| format!("failed to understand {SYSCTL}"))
}

fn write(us: u32) -> Result<()> {
    fs::write(SYSCTL, us.to_string()).with_context(failure)
}

fn noted(pin: &str) -> Result<Option<Note>> {
    if !fs::exists(pin).with_context(|| format!("failed to examine pin {pin}"))? {
        return Ok(None);
    }
    let value = MapHandle::from_pinned_path(pin).and_then(|map| map.lookup(&KEY, MapFlags::ANY));
    let value = value.with_context(|| format!("failed to read pin {pin}"))?;
    let words: Option<[u8; 8]> = value.and_then(|value| value.try_into().ok());
    ensure!(
        words.is_some(),
        "{pin} is not what this tool has pinned: remove it"
    );
    Ok(words.map(Note::from_bytes))
}

fn write_note(pin: &str, note: Note) -> Result<()> {
    let write = || -> libbpf_rs::Result<()> {
        let options = libbpf_sys::bpf_map_create_opts {
            sz: size_of::<libbpf_sys::bpf_map_create_opts>() as libbpf_sys::size_t,
            ..Default::default()
        };
        let mut map = MapHandle::create(MapType::Array, Some(NAME), 4, 8, 1, &options)?;
        map.update(&KEY, &note.to_bytes(), MapFlags::ANY)?;
        map.pin(pin)
    };
    write().with_context(|| format!("failed to note the value of {SYSCTL} in pin {pin}"))
}

impl Note {
    fn to_bytes(self) -> [u8; 8] {
        let words = u64::from(self.before) | u64::from(self.set) << 32;
        words.to_ne_bytes()
    }

    fn from_bytes(bytes: [u8; 8]) -> Self {
        let words = u64::from_ne_bytes(bytes);
        Self {
            before: words as u32,
            set: (words >> 32) as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Option<Note> = Some(Note { before: 0, set: 50 });

    #[test]
    fn is_raised_and_put_back() {
        assert_eq!(plan(0, None, 50), (50, OURS));
        assert_eq!(plan(50, OURS, 50), (50, OURS));
        assert_eq!(plan(50, OURS, 20), (20, Some(Note { before: 0, set: 20 })));
        assert_eq!(plan(50, OURS, 0), (0, None));
        assert_eq!(plan(0, None, 0), (0, None));
        let most = Note {
            before: 0,
            set: MOST_US,
        };
        assert_eq!(plan(0, None, MOST_US + 1), (MOST_US, Some(most)));
    }

    #[test]
    fn what_somebody_else_set_is_theirs() {
        for now in [0, 20, 100] {
            assert_eq!(plan(now, OURS, 0), (now, None), "changed meanwhile");
        }
        assert_eq!(plan(100, None, 50), (100, None), "more than is wanted");
        let raised = Note {
            before: 20,
            set: 50,
        };
        assert_eq!(plan(20, None, 50), (50, Some(raised)));
        assert_eq!(plan(50, Some(raised), 0), (20, None));
        assert_eq!(
            plan(0, Some(raised), 50),
            (50, OURS),
            "an interrupted raise"
        );
    }

    #[test]
    fn what_is_changed_is_said() {
        let text = "net.core.busy_poll: 0 us before, 50 us now";
        assert_eq!(said(Some(0), 50, 50).as_deref(), Some(text));
        assert_eq!(said(Some(50), 50, 50), None);
        assert_eq!(said(None, 0, 0), None);
        assert!(said(None, 0, 50).is_some());
    }

    #[test]
    fn note_survives_the_way_into_the_kernel_and_back() {
        let note = Note {
            before: 7,
            set: u32::MAX,
        };
        assert_eq!(Note::from_bytes(note.to_bytes()), note);
    }
}
