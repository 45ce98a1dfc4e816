// SPDX-License-Identifier: GPL-2.0-only
//! Running other programs: their output on success, their last words as an error otherwise.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result, bail};

use crate::sys;

/// Runs `argv` to its end and returns what it printed.
pub fn run(argv: &[&str]) -> Result<String> {
    let output = command(argv).stdin(Stdio::null()).output();
    finished(
        argv,
        output.with_context(|| format!("failed to run {}", argv[0]))?,
    )
}

/// As [`run`], with `input` to read.
pub fn run_with(argv: &[&str], input: &str) -> Result<String> {
    let mut command = command(argv);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let feed = |mut child: Child| {
        let mut stdin = child.stdin.take().expect("asked for a pipe");
        // A program that ends early says why itself.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        child.wait_with_output()
    };
    let output = command.spawn().and_then(feed);
    finished(
        argv,
        output.with_context(|| format!("failed to run {}", argv[0]))?,
    )
}

fn finished(argv: &[&str], output: Output) -> Result<String> {
    let text = String::from_utf8(output.stdout)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let said = format!("{} {}", text.trim(), errors.trim());
        bail!(
            "failed to run {:?}: {}: {}",
            argv.join(" "),
            output.status,
            said.trim()
        );
    }
    Ok(text)
}

/// True when `argv` ends with success.
pub fn succeeds(argv: &[&str]) -> bool {
    run(argv).is_ok()
}

/// A command from its words.
pub fn command(argv: &[&str]) -> Command {
    let mut command = Command::new(argv[0]);
    command.args(&argv[1..]);
    sys::let_have_sigchld(&mut command);
    command
}

/// A program that runs until this is dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    output: File,
}

impl Daemon {
    /// Starts `argv` in the background.
    pub fn start(argv: &[&str]) -> Result<Self> {
        let output = tempfile::tempfile().context("failed to make a temporary file")?;
        let child = command(argv)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output.try_clone()?)
            .spawn()
            .with_context(|| format!("failed to start {}", argv[0]))?;
        Ok(Self { child, output })
    }

    /// An error with the last words of a program that has ended by itself already.
    pub fn check(&mut self) -> Result<()> {
        let Some(status) = self.ended() else {
            return Ok(());
        };
        let mut said = Vec::new();
        self.output.rewind()?;
        self.output.read_to_end(&mut said)?;
        let said = String::from_utf8_lossy(&said);
        bail!("it ended: {status}: {}", said.trim())
    }

    fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        for _ in 0..400 {
            if self.ended().is_some() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
