// SPDX-License-Identifier: GPL-2.0-only
//! One boot of the guest, from the start of QEMU to the judgement.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::console::Console;
use crate::qemu::{Accel, Channels, Machine};
use crate::ui::{self, Step};
use crate::verdict::Verdict;
use crate::{klog, sys};

/// How often the channels are looked at.
const POLL: Duration = Duration::from_millis(50);
/// How long the guest may take to switch off after its last word.
const SWITCH_OFF: Duration = Duration::from_secs(5);

/// How one boot is to go.
pub struct Boot<'a> {
    /// what to boot
    pub machine: &'a Machine,
    /// how
    pub accel: Accel,
    /// image with the job
    pub payload: &'a Path,
    /// where channels and files end up; has to exist
    pub dir: &'a Path,
    /// true for a shell on this terminal
    pub shell: bool,
    /// the guest has to say hello within this time
    pub hello_limit: Duration,
    /// and to have finished within this time; `None` for a shell
    pub time_limit: Option<Duration>,
    /// false to keep the guest's console and output to oneself
    pub loud: bool,
}

/// What came out of a boot.
pub struct Outcome {
    /// what the guest said
    pub verdict: Verdict,
    /// reasons to call it a failure, the exit status among them
    pub complaints: Vec<String>,
    /// what the command printed (not for a shell)
    pub output: String,
    /// directory with what the guest left in /results
    pub results: PathBuf,
}

impl Outcome {
    /// True if the guest said hello.
    pub fn booted(&self) -> bool {
        self.verdict.hello.is_some()
    }
}

struct Running<'a> {
    boot: &'a Boot<'a>,
    channels: Channels<'a>,
    qemu: Child,
    console: Console,
    begun: Instant,
    step: Option<Step>,
}

impl Boot<'_> {
    /// Boots, waits for the end, judges.
    ///
    /// # Errors
    /// When QEMU cannot be started or a file cannot be read. A guest that fails is an [`Outcome`].
    pub fn run(&self) -> Result<Outcome> {
        let channels = Channels(self.dir);
        let mut command = self
            .machine
            .command(self.accel, self.payload, &channels, self.shell);
        if !self.shell {
            command.stdin(Stdio::null()).stdout(Stdio::piped());
        }
        if !self.loud {
            command.stderr(Stdio::null());
        }
        let step = self.loud.then(|| {
            Step::start(format!(
                "booting the guest ({}, {} cpus)",
                self.accel, self.machine.cpus
            ))
        });
        let mut qemu = command
            .spawn()
            .context("failed to start qemu-system-x86_64")?;
        let printer = qemu
            .stdout
            .take()
            .map(|stdout| print_output(stdout, self.loud));
        let console = Console::new(channels.console(), self.loud && !self.shell);
        let mut running = Running {
            boot: self,
            channels,
            qemu,
            console,
            begun: Instant::now(),
            step,
        };
        let ended = running.wait();
        let _ = running.qemu.kill();
        let _ = running.qemu.wait();
        running.console.finish();
        let output = printer
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default();
        running.judge(ended?, output)
    }
}

impl Running<'_> {
    /// Waits for the guest's end; returns a complaint if that did not come by itself.
    fn wait(&mut self) -> Result<Option<String>> {
        let mut last_word = None;
        loop {
            let gone = self.qemu.try_wait()?;
            self.console.follow();
            let verdict = self.verdict();
            if verdict.hello.is_some() {
                self.announce(&verdict);
            }
            if let Some(status) = gone {
                return Ok((!status.success()).then(|| format!("qemu ended with {status}")));
            }
            if verdict.ended && last_word.get_or_insert_with(Instant::now).elapsed() > SWITCH_OFF {
                return Ok(None);
            }
            if let Some(complaint) = self.too_late(&verdict) {
                return Ok(Some(complaint));
            }
            std::thread::sleep(POLL);
        }
    }

    fn verdict(&self) -> Verdict {
        Verdict::read(&fs::read_to_string(self.channels.verdict()).unwrap_or_default())
    }

    fn announce(&mut self, verdict: &Verdict) {
        if let (Some(step), Some((kernel, _))) = (self.step.take(), &verdict.hello) {
            step.done(format_args!("Linux {kernel}"));
        }
    }

    fn too_late(&self, verdict: &Verdict) -> Option<String> {
        let elapsed = self.begun.elapsed();
        if verdict.hello.is_none() && elapsed > self.boot.hello_limit {
            return Some(format!(
                "the guest did not say hello within {} s",
                self.boot.hello_limit.as_secs()
            ));
        }
        let limit = self.boot.time_limit.filter(|limit| elapsed > *limit)?;
        Some(format!(
            "the guest was not finished within its time limit of {} s",
            limit.as_secs()
        ))
    }

    fn judge(self, ended: Option<String>, output: String) -> Result<Outcome> {
        let verdict = self.verdict();
        let back = self.boot.dir.join("back");
        fs::create_dir_all(back.join("results"))?;
        let mut complaints: Vec<_> = ended.into_iter().collect();
        if verdict.ended {
            let mut tar = Command::new("tar");
            tar.arg("-C")
                .arg(&back)
                .args(["--no-same-owner", "-xf"])
                .arg(self.channels.files());
            sys::output(&mut tar).context("failed to unpack the guest's files")?;
        }
        match verdict.exit {
            None => complaints.push("the guest gave no verdict".into()),
            Some((_, tainted)) => complaints.extend(klog::unexpected_taint(tainted)),
        }
        if let Some((status, _)) = verdict
            .exit
            .filter(|(status, _)| *status != 0 && !self.boot.shell)
        {
            complaints.push(format!("the command exited with {status}"));
        }
        complaints.extend(kernel_trouble(&back, &self.channels));
        Ok(Outcome {
            verdict,
            complaints,
            output,
            results: back.join("results"),
        })
    }
}

/// Trouble in the kernel's log as the guest sent it, or as the console showed it, or of kmemleak.
fn kernel_trouble(back: &Path, channels: &Channels) -> Vec<String> {
    let read =
        |path: PathBuf| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let mut lines = klog::trouble(&read(back.join("dmesg.txt")));
    if lines.is_empty() {
        lines = klog::trouble(&read(channels.console()));
    }
    lines.extend(klog::trouble(&read(back.join("kmemleak.txt"))));
    let foreign = klog::foreign_races(&read(channels.console()));
    if foreign > 0 {
        ui::line(format_args!(
            "{foreign} races in the kernel's own code, which do not count"
        ));
    }
    let more = lines.len().saturating_sub(20);
    lines.truncate(20);
    if more > 0 {
        lines.push(format!("{more} more lines like these"));
    }
    lines
        .into_iter()
        .map(|line| format!("kernel log: {line}"))
        .collect()
}

/// Passes the guest's output on as it comes, and keeps it.
fn print_output(mut stdout: ChildStdout, loud: bool) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        let mut chunk = [0; 8192];
        while let Ok(length @ 1..) = stdout.read(&mut chunk) {
            let Some(new) = chunk.get(..length) else {
                break;
            };
            kept.extend_from_slice(new);
            if loud {
                let mut out = std::io::stdout().lock();
                let _ = out.write_all(new).and_then(|()| out.flush());
            }
        }
        String::from_utf8_lossy(&kept).into_owned()
    })
}

/// Keeps a copy of the logs of a boot in `dir` as `NAME.console.log` and `NAME.dmesg.log`.
///
/// # Errors
/// When the directory cannot be made.
pub fn keep_logs(boot_dir: &Path, dir: &Path, name: &str) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("failed to create {}", dir.display()))?;
    let logs = [
        ("console.log", "console.log"),
        ("back/dmesg.txt", "dmesg.log"),
        ("back/kmemleak.txt", "kmemleak.log"),
    ];
    for (from, to) in logs {
        let from = boot_dir.join(from);
        if from.exists() {
            let _ = fs::copy(from, dir.join(format!("{name}.{to}")));
        }
    }
    Ok(())
}

/// An error made of all complaints, if there are any.
///
/// # Errors
/// When there are complaints.
pub fn verdict_of(complaints: &[String]) -> Result<()> {
    if complaints.is_empty() {
        return Ok(());
    }
    for complaint in complaints {
        ui::line(format_args!("guest: {complaint}"));
    }
    bail!(
        "failed in the guest: {}",
        complaints.first().map_or("", String::as_str)
    )
}
