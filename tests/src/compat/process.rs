// SPDX-License-Identifier: GPL-2.0-only
//! Running the suites' programs: logged, within a time limit, and with nothing of them left behind.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// The kernel's programs are in the first of these.
const PATH: &str = "/usr/lib/tcp-splice-compat:/usr/sbin:/usr/bin:/sbin:/bin";

/// How often a program is looked at.
const POLL: Duration = Duration::from_millis(10);
/// How long a program may take to die of SIGABRT before it is killed.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How often a program that takes long is mentioned.
const HEARTBEAT: Duration = Duration::from_secs(60);

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// `None`: by its time limit
    pub status: Option<ExitStatus>,
    /// what it printed
    pub output: String,
}

/// A program that runs, in a process group of its own; dropping it ends the whole group.
#[derive(Debug)]
pub struct Running {
    child: Child,
    log: File,
    begin: u64,
}

impl Running {
    /// Starts `argv` in `directory`; its output is appended to the file `log`.
    pub fn start(argv: &[&str], directory: &Path, log: &Path) -> Result<Self> {
        let append = || {
            let mut options = File::options();
            let file = options.create(true).read(true).append(true).open(log);
            file.with_context(|| format!("failed to open {}", log.display()))
        };
        let file = append()?;
        let begin = file.metadata()?.len();
        let child = Command::new(argv[0])
            .args(&argv[1..])
            .env("PATH", PATH)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(append()?)
            .stderr(append()?)
            .process_group(0)
            .spawn()
            .with_context(|| format!("failed to start {}", argv[0]))?;
        Ok(Self {
            child,
            log: file,
            begin,
        })
    }

    /// Waits for the end, at most until `deadline`; `what` is said every minute.
    pub fn wait(mut self, deadline: Instant, what: &str) -> Result<Ended> {
        let begun = Instant::now();
        let mut said = begun;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break Some(status);
            }
            if Instant::now() > deadline {
                self.abort()?;
                break None;
            }
            if said.elapsed() > HEARTBEAT {
                said = Instant::now();
                println!("  {what}: {} s", begun.elapsed().as_secs());
            }
            sleep(POLL);
        };
        let mut output = Vec::new();
        self.log.seek(SeekFrom::Start(self.begin))?;
        self.log.read_to_end(&mut output)?;
        let output = String::from_utf8_lossy(&output).into_owned();
        Ok(Ended { status, output })
    }

    /// Where the threads are in the kernel goes to the log; SIGABRT lets the program tell where they are in it.
    fn abort(&mut self) -> Result<()> {
        use std::io::Write;
        let threads = fs::read_dir(format!("/proc/{}/task", self.child.id()));
        for thread in threads.into_iter().flatten().flatten() {
            let read = |name| fs::read_to_string(thread.path().join(name)).unwrap_or_default();
            let (call, stack) = (read("syscall"), read("stack"));
            let name = thread.file_name();
            writeln!(self.log, "thread {name:?}: syscall {call}{stack}")?;
        }
        let _ = killpg(self.group(), Signal::SIGABRT);
        let deadline = Instant::now() + LAST_WORDS;
        while self.child.try_wait()?.is_none() && Instant::now() < deadline {
            sleep(POLL);
        }
        Ok(())
    }

    fn group(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = killpg(self.group(), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}
