// SPDX-License-Identifier: GPL-2.0-only
//! Runs one test in a child process, and ends it with a picture of where it hung.

use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tcp_splice_world::pace;
use tcp_splice_world::picture::picture;
use tcp_splice_world::policy;

use crate::env::Mode;
use crate::faults;
use crate::scenario::Scenario;

/// A test that can be run in a process of its own.
#[derive(Debug)]
pub struct Job {
    words: Vec<String>,
    limit: Duration,
    reconfigures: bool,
    shows: bool,
}

impl Job {
    /// The job that runs test `name`, and with `shows` prints what it says even when it passes.
    pub fn new(name: &str, scenario: &Scenario, mode: Mode, world: &str, shows: bool) -> Self {
        let mut words = vec!["--world", world, "--exec", name];
        if mode == Mode::Plain {
            words.push("--plain");
        }
        Self {
            words: words.into_iter().map(str::to_owned).collect(),
            limit: scenario.limit * pace::count(1, 3) as u32 + pace::allowance(),
            reconfigures: scenario.reconfigures,
            shows,
        }
    }

    /// Runs the test; the error is what its process said, or where its threads hung.
    pub fn run(&self) -> Result<(), String> {
        let outcome = self.attempt().map_err(|error| format!("{error:#}"));
        let said = match outcome {
            Ok(None) => return Ok(()),
            Ok(Some(said)) | Err(said) => said,
        };
        // Killed, it did not put an end to that itself.
        faults::stop();
        if self.reconfigures {
            if let Err(error) = policy::restore() {
                return Err(format!("{said}\nand the policy is broken now: {error:#}"));
            }
        }
        Err(said)
    }

    /// `None` when the test passed.
    fn attempt(&self) -> Result<Option<String>> {
        let mut output = tempfile::tempfile().context("failed to create a temporary file")?;
        let program = std::env::current_exe().context("failed to find this program")?;
        let mut child = Command::new(program)
            .args(&self.words)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output.try_clone()?)
            .process_group(0)
            .spawn()
            .context("failed to start the test's process")?;
        let verdict = self.wait(&mut child)?;
        let _ = killpg(group(&child), Signal::SIGKILL);
        output.rewind()?;
        let mut bytes = Vec::new();
        output.read_to_end(&mut bytes)?;
        let said = String::from_utf8_lossy(&bytes);
        if self.shows && verdict.is_none() {
            print!("{said}");
        }
        Ok(verdict.map(|verdict| format!("{verdict}\n{said}")))
    }

    fn wait(&self, child: &mut Child) -> Result<Option<String>> {
        let deadline = Instant::now() + self.limit;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok((!status.success()).then(|| format!("test process: {status}")));
            }
            if Instant::now() > deadline {
                let picture = picture(child.id());
                let _ = killpg(group(child), Signal::SIGKILL);
                child.wait()?;
                return Ok(Some(format!("hung for {:?}\n{picture}", self.limit)));
            }
            sleep(Duration::from_millis(2));
        }
    }
}

fn group(child: &Child) -> Pid {
    Pid::from_raw(child.id() as i32)
}
