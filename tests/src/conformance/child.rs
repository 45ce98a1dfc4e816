// SPDX-License-Identifier: GPL-2.0-only
//! Runs one case in a process of its own and brings its trace back.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, dup2_stderr, dup2_stdout, setpgid};
use tcp_splice_world::link::Link;
use tcp_splice_world::picture::picture;
use tcp_splice_world::sys;

use crate::case::Need;
use crate::run::{Over, Run};
use crate::trace::FAULT;

/// After this time a case counts as hung.
const LIMIT: Duration = Duration::from_secs(60);

/// How long to wait for output before looking whether the process has ended, in milliseconds.
const GLANCE: u16 = 50;

/// Runs `body` and returns the lines of its trace. Call only while this process has one thread.
pub fn trace_of(
    body: &dyn Fn(&Run) -> Result<()>,
    need: Need,
    link: &Link,
    over: Over,
    counted: bool,
) -> Vec<String> {
    let trace = trace(body, need, link, over, counted);
    trace.unwrap_or_else(|error| vec![format!("{FAULT}{error:#}")])
}

fn trace(
    body: &dyn Fn(&Run) -> Result<()>,
    need: Need,
    link: &Link,
    over: Over,
    counted: bool,
) -> Result<Vec<String>> {
    let (out, into) = nix::unistd::pipe().context("failed to make a pipe")?;
    let link = link.clone();
    let child = sys::fork(|| {
        let ready = || -> Result<()> {
            setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
            dup2_stdout(&into)?;
            dup2_stderr(&into)?;
            Ok(())
        };
        ready().is_ok() && here(body, need, link, over, counted)
    })?;
    drop(into);
    let text = follow(out, child, Instant::now() + LIMIT)?;
    let _ = killpg(child, Signal::SIGKILL);
    Ok(text.lines().map(str::to_owned).collect())
}

/// The child's side.
fn here(
    body: &dyn Fn(&Run) -> Result<()>,
    need: Need,
    link: Link,
    over: Over,
    counted: bool,
) -> bool {
    let work = || -> Result<()> {
        let run = Run::new(link, over, counted)?;
        let result = body(&run);
        if let Err(error) = &result {
            run.fault(format_args!("{error:#}"));
            return Ok(());
        }
        run.prove(need)
    };
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => println!("{FAULT}{error:#}"),
        Err(_) => println!("{FAULT}panicked"),
    }
    true
}

/// Collects what the child writes until it has ended.
fn follow(out: OwnedFd, child: Pid, deadline: Instant) -> Result<String> {
    fcntl(&out, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let mut file = File::from(out);
    let mut text = Vec::new();
    loop {
        let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(GLANCE))?;
        let nobody_writes = file.read_to_end(&mut text).is_ok();
        let status = waitpid(child, Some(WaitPidFlag::WNOHANG))?;
        if status != WaitStatus::StillAlive {
            let _ = file.read_to_end(&mut text);
            if !matches!(status, WaitStatus::Exited(_, 0)) {
                text.extend(format!("{FAULT}process ended: {status:?}\n").bytes());
            }
            break;
        }
        if Instant::now() > deadline {
            let picture = picture(child.as_raw() as u32);
            killpg(child, Signal::SIGKILL)?;
            waitpid(child, None)?;
            text.extend(format!("{FAULT}hung\n{picture}").bytes());
            break;
        }
        if nobody_writes {
            sleep(Duration::from_millis(1));
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}
