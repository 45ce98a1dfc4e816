// SPDX-License-Identifier: GPL-2.0-only
//! Who looks at the sockets while the storm rages, and who drains them.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tcp_splice_world::netns::within_file;
use tcp_splice_world::policy::CTL;
use tcp_splice_world::program::run;

use super::board::Board;
use super::troupe::Troupe;
use crate::env::Env;

/// What the kernel tells of sockets.
const FILES: &[&str] = &[
    "/proc/net/tcp",
    "/proc/net/tcp6",
    "/proc/net/tcp_splice",
    "/proc/net/tcp_splice_stat",
];

/// What names of namespaces begin with that come and go.
pub const WORLDS: &str = "st";

/// And of sockets of the namespace that the thread is in.
const INSIDE: &[&str] = &["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];

/// Looks, and rests for twice as long as that took: others want the processor, too.
fn look_and_rest(look: impl FnOnce() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    look()?;
    sleep(2 * start.elapsed() + Duration::from_millis(5));
    Ok(())
}

/// Looks on until the board says stop. `comes_and_goes`: the module may not be there.
pub fn look_on(env: &Env, board: Board, troupe: &mut Troupe, comes_and_goes: bool) -> Result<()> {
    let ours = |path: &&&str| env.spliced() || !path.contains("splice");
    let files: Vec<&str> = FILES.iter().filter(ours).copied().collect();
    troupe.add("reader of files", || {
        while !board.stopped() {
            look_and_rest(|| {
                let mut paths = files.iter();
                paths.try_for_each(|path| read_all(path, comes_and_goes))?;
                look_inside(board)
            })?;
            board.looked();
        }
        Ok(())
    })?;
    let mut words = env.link.server_words();
    words.extend(["ss", "-tino"].map(str::to_owned));
    troupe.add("caller of programs", || {
        let ss: Vec<&str> = words.iter().map(String::as_str).collect();
        while !board.stopped() {
            look_and_rest(|| run(&ss).map(drop))?;
            if env.spliced() {
                look_and_rest(|| list(comes_and_goes))?;
            }
            board.ran();
        }
        Ok(())
    })
}

/// Into all namespaces that have a name just now, as those of [`crate::netns::World`].
fn look_inside(board: Board) -> Result<()> {
    let Ok(names) = fs::read_dir("/run/netns") else {
        return Ok(());
    };
    for name in names.flatten() {
        let Ok(file) = File::open(name.path()) else {
            continue;
        };
        let comes_and_goes = name.file_name().as_bytes().starts_with(WORLDS.as_bytes());
        // An error of its own: it may be one no more. What is read is an error of ours.
        let look = || {
            let mut paths = INSIDE.iter();
            Ok(paths.try_for_each(|path| read_all(path, false)))
        };
        if let Ok(read) = within_file(&file, look) {
            read?;
            if comes_and_goes {
                board.looked_inside();
            }
        }
    }
    Ok(())
}

/// In small pieces, so that much happens between them.
fn read_all(path: &str, comes_and_goes: bool) -> Result<()> {
    let mut file = match File::open(path) {
        Err(error) if comes_and_goes && error.kind() == ErrorKind::NotFound => return Ok(()),
        file => file.with_context(|| format!("failed to open {path}"))?,
    };
    let mut piece = [0; 700];
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            // A file of /proc whose module is gone meanwhile.
            Err(_) if comes_and_goes => return Ok(()),
            Err(error) => return Err(error).with_context(|| format!("failed to read {path}")),
        }
    }
}

fn list(comes_and_goes: bool) -> Result<()> {
    let text = match run(&[CTL, "list", "--json"]) {
        Err(_) if comes_and_goes => return Ok(()),
        text => text?,
    };
    let value: serde_json::Value =
        serde_json::from_str(&text).context("failed to parse the tool's list")?;
    ensure!(
        value.is_array() || value.is_object(),
        "the tool's list is {text}"
    );
    Ok(())
}

/// Lets all connections go, again and again; those that come later are spliced as before.
pub fn drain_often(board: Board, troupe: &mut Troupe) -> Result<()> {
    troupe.add("drainer", || {
        while !board.stopped() {
            sleep(Duration::from_millis(300));
            // Some are in the middle of a call that has to end first.
            if run(&[CTL, "drain", "--timeout", "1"]).is_ok() {
                board.meddled();
            }
        }
        Ok(())
    })
}
