// SPDX-License-Identifier: GPL-2.0-only
//! Running other programs: logged, with the end of the log in the error, and as root where needed.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Once;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::ui::{self, Step};

/// True if this process may do everything itself.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A command that runs as root: itself for root, through sudo for others (which is said once).
pub fn privileged(program: &str) -> Command {
    static FIRST: Once = Once::new();
    if is_root() {
        return Command::new(program);
    }
    FIRST.call_once(ask_for_sudo);
    let mut sudo = Command::new("sudo");
    sudo.arg("--").arg(program);
    sudo
}

/// Says why, and has sudo ask for the password now, before a spinner would draw over the question.
fn ask_for_sudo() {
    if !have("sudo") {
        ui::line("there is no sudo on this machine: run this as root, or install sudo");
        return;
    }
    ui::line(
        "sudo is used to install packages, to make the root file system and to build inside it",
    );
    let _ = Command::new("sudo").arg("-v").status();
}

/// What unshare is told.
const IN_MOUNT_NAMESPACE: [&str; 4] = ["--mount", "--propagation", "private", "sh"];

/// A privileged shell script of ours in its own mount namespace: its mounts vanish with it.
pub fn privileged_script(script: &Path) -> Command {
    let mut command = privileged("unshare");
    command.args(IN_MOUNT_NAMESPACE).arg(script);
    command
}

/// The same with these `NAME=VALUE` in its environment, of which sudo passes nothing on.
pub fn privileged_script_with(settings: &[&str], script: &Path) -> Command {
    let mut command = privileged("env");
    command.args(settings).arg("unshare");
    command.args(IN_MOUNT_NAMESPACE).arg(script);
    command
}

/// Runs a command with its output in the file `log`; shows the last line as the step's detail.
///
/// # Errors
/// When it cannot be started or does not exit with 0; the error carries the end of the log.
pub fn run_logged(command: &mut Command, log: &Path, step: &mut Step) -> Result<()> {
    let name = describe(command);
    let file = File::create(log).with_context(|| format!("failed to create {}", log.display()))?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("failed to start {name}"))?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(Duration::from_millis(100));
        if let Some(line) = tail(log, 400).lines().last() {
            step.detail(line);
        }
    };
    if !status.success() {
        let end = tail(log, 4000);
        bail!(
            "failed to run {name} ({status}); the end of {}:\n{end}",
            log.display()
        );
    }
    Ok(())
}

/// Runs a command and returns what it printed.
///
/// # Errors
/// When it cannot be started or does not exit with 0.
pub fn output(command: &mut Command) -> Result<String> {
    let name = describe(command);
    let output = command
        .output()
        .with_context(|| format!("failed to start {name}"))?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        bail!(
            "failed to run {name} ({}): {}",
            output.status,
            reason.trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The last `bytes` of a file as text, nothing when it cannot be read.
pub fn tail(path: &Path, bytes: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
        let mut end = Vec::new();
        file.read_to_end(&mut end)?;
        Ok(end)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// True if a program of this name is in the PATH (or where administrators' programs are).
pub fn have(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(program).is_file())
}

fn describe(command: &Command) -> String {
    let name = |s: &OsStr| {
        Path::new(s)
            .file_name()
            .unwrap_or(s)
            .to_string_lossy()
            .into_owned()
    };
    let program = name(command.get_program());
    match command.get_args().find(|arg| Path::new(arg).is_absolute()) {
        Some(script) => format!("{program} … {}", name(script)),
        None => program,
    }
}
