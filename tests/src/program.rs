// SPDX-License-Identifier: GPL-2.0-only
//! Running other programs: their output on success, their last words as an error otherwise.

use std::io::Write;
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result, bail};

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
    command
}

/// A program that runs until this is dropped.
#[derive(Debug)]
pub struct Daemon(Child);

impl Daemon {
    /// Starts `argv` in the background, its output thrown away.
    pub fn start(argv: &[&str]) -> Result<Self> {
        let child = command(argv)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("failed to start {}", argv[0]))?;
        Ok(Self(child))
    }

    /// The exit status, if the program has ended by itself already.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.0.try_wait().ok().flatten()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.0.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        for _ in 0..400 {
            if self.ended().is_some() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
