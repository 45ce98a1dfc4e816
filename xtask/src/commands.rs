// SPDX-License-Identifier: GPL-2.0-only
//! What `cargo xtask` can do, one function each.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::boots::Boots;
use crate::debug_kernel::{self, Checkers, DebugKernel};
use crate::guest::{self, Boot, Outcome};
use crate::payload::{self, Job, Payload};
use crate::qemu::{Disks, Machine};
use crate::rootfs::{self, Flavour, Rootfs};
use crate::tally::Tally;
use crate::ui::{self, Step};
use crate::{VmOptions, accel, cache, checkout, fuzz, host, matrix};

/// The test programs, and what their logs are called; two run at a time. The first takes longest.
const GUEST_TESTS: [(&str, &str); 5] = [
    ("test-v4", "tcp-splice-tests loopback/v4/"),
    ("test-others", "tcp-splice-tests --skip loopback/"),
    (
        "test-loopback",
        "tcp-splice-tests --skip loopback/v4/ loopback/",
    ),
    ("conformance", "tcp-splice-conformance"),
    ("fuzz", "tcp-splice-conformance fuzz"),
];

/// What runs with a filter, in one boot.
const FILTERED_TESTS: [&str; 3] = [
    "tcp-splice-tests",
    "tcp-splice-conformance",
    "tcp-splice-conformance fuzz",
];

/// What touches lifetimes and locks, in one boot: where a checker has most to look at for its time. Over loopback, since it is the module
/// that is looked at. Each program loads and unloads the module; the group that does nothing else takes four minutes there.
const QUICK_TESTS: [&str; 12] = [
    "tcp-splice-tests loopback/v4/close/",
    "tcp-splice-tests loopback/v4/reset/",
    "tcp-splice-tests loopback/v4/drain/",
    "tcp-splice-tests loopback/v4/takeover/",
    "tcp-splice-tests loopback/v4/threads/",
    "tcp-splice-tests loopback/v4/start/",
    "tcp-splice-tests loopback/v4/list/",
    "tcp-splice-tests loopback/v4/lend/",
    "tcp-splice-tests loopback/v4/memory/",
    "tcp-splice-tests loopback/v4/faults/",
    "tcp-splice-tests --skip storm loopback/v4/delay/",
    "tcp-splice-conformance loopback/v4/ends/ loopback/v4/gone/ loopback/v4/threads/ loopback/v4/processes/",
];

/// What has several threads at work on one connection, in one boot: where KCSAN has most to look at for its time.
const KCSAN_TESTS: [&str; 7] = [
    "tcp-splice-tests loopback/v4/threads/",
    "env TCP_SPLICE_SECONDS=60 tcp-splice-tests loopback/v4/stall/",
    "tcp-splice-tests loopback/v4/storm/",
    "tcp-splice-tests loopback/v4/takeover/",
    "tcp-splice-tests loopback/v4/stream/",
    "tcp-splice-tests loopback/v4/drain/",
    "tcp-splice-tests loopback/v4/list/",
];

/// In the end, on a kernel with KCSAN: how often it has looked.
const SHOW_KCSAN: &str = "trap 'cat /sys/kernel/debug/kcsan 2>&-' EXIT";

/// A guest under emulation on a busy machine says hello within seconds; this is for the worst.
const HELLO: Duration = Duration::from_secs(300);

/// Every suite twice takes longer than anything else that is run in a guest.
const COMPAT_SECONDS: u64 = 3000;

/// Every cell in every way and round takes as long as measurements are, whatever runs them.
const BENCH_SECONDS: u64 = 5400;

/// MiB: a hundred thousand spliced connections have to exist.
const COSTS_MEMORY: u32 = 8192;
/// Making so many takes its time in emulation.
const COSTS_SECONDS: u64 = 3600;

/// Boots before giving up. Emulation on several threads sometimes loses to the kernel patching its own code while it starts ("Oops:
/// int3"). Nothing of ours is loaded before the guest's first program says hello, so nothing of ours can be hidden by this.
const BOOT_TRIES: u32 = 3;

/// What such a loss looks like. The module cannot cause it: nothing in it patches code, and BUG() is another instruction.
const LOST_INT3: &str = "Oops: int3";

/// Runs of a test program before such a loss counts as a failure.
const LOST_TRIES: u32 = 3;

/// A shell or a command in the guest.
///
/// # Errors
/// When the guest does not boot, the command fails or the kernel complains.
pub fn vm(options: &VmOptions, command: &[String]) -> Result<()> {
    let job = if command.is_empty() {
        Job::Shell
    } else {
        Job::Command(command)
    };
    let outcome = prepare(options, Flavour::Usual)?.boot(options, &job, "vm", true)?;
    guest::verdict_of(&outcome.complaints)
}

/// Host tests, then guest tests; the last line is the sum.
///
/// # Errors
/// When a test fails or cannot be run.
pub fn test(options: &VmOptions, filter: Option<&str>) -> Result<()> {
    let mut tally = host_tests(filter)?;
    tally += vm_tests(options, filter).unwrap_or_else(|error| {
        ui::line(format_args!("error: {error:#}"));
        Tally::failed_with(format_args!("error: {error:#}"))
    });
    summary(&tally)
}

/// Host tests only.
///
/// # Errors
/// When a test fails or cannot be run.
pub fn test_host() -> Result<()> {
    summary(&host_tests(None)?)
}

/// Guest tests only; `quick`: only those that the kernel's checkers have most to say about.
///
/// # Errors
/// When a test fails or cannot be run.
pub fn test_vm(options: &VmOptions, quick: bool, filter: Option<&str>) -> Result<()> {
    if quick {
        let prepared = prepare(options, Flavour::Usual)?;
        let tests: &[&str] = match options.checkers() {
            Some(Checkers::Kcsan) => &KCSAN_TESTS,
            _ => &QUICK_TESTS,
        };
        let script = format!("{SHOW_KCSAN}\n{}", payload::each(tests, None));
        return summary(&vm_test(&prepared, options, "quick", script, true)?);
    }
    summary(&vm_tests(options, filter)?)
}

/// Says again what failed, and the sum last.
fn summary(tally: &Tally) -> Result<()> {
    if !tally.told.is_empty() {
        println!("what failed:\n{}\n", tally.told.join("\n\n"));
    }
    println!("{tally}");
    if tally.failed > 0 || tally.passed == 0 {
        std::process::exit(1);
    }
    Ok(())
}

/// The benchmark in the guest.
///
/// # Errors
/// When it fails or the kernel complains.
pub fn demo(options: &VmOptions, more: &[String]) -> Result<()> {
    measured(options, Flavour::Usual, "demo", &["run"], more)
}

/// The benchmark suite in the guest.
///
/// # Errors
/// When it fails or the kernel complains.
pub fn bench(options: &VmOptions, more: &[String]) -> Result<()> {
    let options = VmOptions {
        time_limit: options.time_limit.max(BENCH_SECONDS),
        ..options.clone()
    };
    let suite = ["suite", "--all-programs", "--host", &host::line()];
    measured(&options, Flavour::Bench, "bench", &suite, more)
}

/// What connections cost, in a guest with room for many of them.
///
/// # Errors
/// When it fails or the kernel complains.
pub fn costs(options: &VmOptions, boots: u32, more: &[String]) -> Result<()> {
    let options = VmOptions {
        memory: options.memory.max(COSTS_MEMORY),
        time_limit: options.time_limit.max(COSTS_SECONDS),
        ..options.clone()
    };
    let mut all = Boots::default();
    for boot in 1..=boots {
        let host = host::line();
        let mut costs = vec!["costs", "--host", &host];
        if boots > 1 {
            costs.extend(["--only", "connections"]);
        }
        measured(&options, Flavour::Usual, "costs", &costs, more)?;
        if boots > 1 {
            let results = checkout::dir().join("results/costs");
            let kept = results.join(format!("costs-{boot}.json"));
            fs::rename(results.join("costs.json"), &kept)
                .with_context(|| format!("failed to keep {}", kept.display()))?;
            all.add(&kept)?;
        }
    }
    if boots > 1 {
        println!("{}", all.table());
    }
    Ok(())
}

/// A part of tcp-splice-bench in the guest, with its results in results/NAME.
fn measured(
    options: &VmOptions,
    flavour: Flavour,
    name: &str,
    part: &[&str],
    more: &[String],
) -> Result<()> {
    let prepared = prepare(options, flavour)?;
    let accel = prepared.accel(options)?;
    let options = VmOptions {
        accel: Some(accel),
        ..options.clone()
    };
    let accel = format!("TCP_SPLICE_ACCEL={accel}");
    let bench = ["env", &accel, "tcp-splice-bench"];
    let words = bench.iter().chain(part).chain(&["--out", "/results"]);
    let mut command: Vec<_> = words.map(|word| (*word).to_owned()).collect();
    command.extend(more.iter().cloned());
    let outcome = prepared.boot(&options, &Job::Command(&command), name, true)?;
    guest::verdict_of(&outcome.complaints)
}

/// Other people's suites in the guest, over plain TCP and spliced.
///
/// # Errors
/// When a suite differs, cannot be run, or the kernel complains.
pub fn compat(options: &VmOptions, more: &[String]) -> Result<()> {
    let options = VmOptions {
        time_limit: options.time_limit.max(COMPAT_SECONDS),
        ..options.clone()
    };
    let prepared = prepare(&options, Flavour::Compat)?;
    let suites = ["tcp-splice-compat", "--out", "/results"];
    let command: Vec<_> = suites
        .into_iter()
        .map(str::to_owned)
        .chain(more.iter().cloned())
        .collect();
    let outcome = prepared.boot(&options, &Job::Command(&command), "compat", true)?;
    guest::verdict_of(&outcome.complaints)
}

/// Fuzz targets, on the host; the last line is the sum.
///
/// # Errors
/// When they cannot be built, or one finds something.
pub fn fuzz(seconds: u32, filter: Option<&str>) -> Result<()> {
    summary(&crate::fuzz::run(seconds, filter)?)
}

/// Bugs for the checkers; the last line is the sum.
///
/// # Errors
/// When a guest cannot be made, or a checker finds nothing.
pub fn checkers(options: &VmOptions, filter: Option<&str>) -> Result<()> {
    summary(&crate::checkers::run(options, filter)?)
}

/// Root file system and build, without booting.
///
/// # Errors
/// When something cannot be made.
pub fn build(options: &VmOptions) -> Result<()> {
    prepare(options, Flavour::Usual).map(drop)
}

/// Removes the cache.
///
/// # Errors
/// When it cannot be removed.
pub fn purge() -> Result<()> {
    cache::remove(&cache::dir()?)
}

/// Everything that a boot needs.
pub struct Prepared {
    rootfs: Rootfs,
    debug: Option<DebugKernel>,
    payload: Payload,
}

/// Makes everything that a boot needs.
///
/// # Errors
/// When something cannot be made.
pub fn prepare(options: &VmOptions, flavour: Flavour) -> Result<Prepared> {
    host::need(host::VM_PACKAGES)?;
    let rootfs = match &options.kernel {
        Some(part) => matrix::rootfs_of(part)?,
        None => rootfs::get(flavour)?,
    };
    let debug = options.checkers();
    let debug = debug
        .map(|checkers| debug_kernel::get(&rootfs, checkers))
        .transpose()?;
    prepare_on(rootfs, debug)
}

/// Makes what a boot needs besides its root file system and kernel.
///
/// # Errors
/// When something cannot be made.
pub fn prepare_on(rootfs: Rootfs, debug: Option<DebugKernel>) -> Result<Prepared> {
    let payload = payload::build(&rootfs, debug.as_ref())?;
    Ok(Prepared {
        rootfs,
        debug,
        payload,
    })
}

impl Prepared {
    /// What the module found out about this kernel when it was built for it.
    pub fn probes(&self) -> String {
        matrix::probes(&self.payload.src)
    }

    fn machine(&self, options: &VmOptions) -> Machine {
        let (kernel, initrd, disks) = match &self.debug {
            Some(kernel) => (kernel.image(), None, Disks::Virtio),
            None => (
                self.rootfs.vmlinuz.clone(),
                self.rootfs.initrd(),
                Disks::Nvme,
            ),
        };
        Machine {
            kernel,
            initrd,
            base: self.rootfs.image(),
            disks,
            counter: options.counter.clone(),
            cpus: options.cpus,
            memory: options.memory,
            append: match &self.debug {
                Some(kernel) => format!("{} {}", kernel.checkers.words(), options.append),
                None => options.append.clone(),
            },
        }
    }

    fn accel(&self, options: &VmOptions) -> Result<crate::qemu::Accel> {
        match options.accel {
            Some(accel) => Ok(accel),
            None => accel::choose(&self.machine(options), &self.payload),
        }
    }

    /// Boots with this job; logs go to results/log, the guest's files to results/NAME.
    pub fn boot(&self, options: &VmOptions, job: &Job, name: &str, loud: bool) -> Result<Outcome> {
        let machine = self.machine(options);
        let accel = self.accel(options)?;
        let shell = matches!(job, Job::Shell);
        let mut tries = 0;
        let (dir, outcome) = loop {
            let dir = tempfile::Builder::new()
                .prefix("boot-")
                .tempdir_in(cache::dir()?)?;
            let image = self.payload.image(dir.path(), job)?;
            let boot = Boot {
                machine: &machine,
                accel,
                payload: &image,
                dir: dir.path(),
                shell,
                hello_limit: HELLO,
                time_limit: (!shell).then_some(Duration::from_secs(options.time_limit)),
                loud,
            };
            let outcome = boot.run()?;
            tries += 1;
            if outcome.verdict.hello.is_some() || tries == BOOT_TRIES {
                break (dir, outcome);
            }
            for complaint in &outcome.complaints {
                ui::line(format_args!("guest: {complaint}"));
            }
            ui::line("the guest did not reach its first program: booting it again");
        };
        let results = checkout::dir().join("results");
        guest::keep_logs(dir.path(), &results.join("log"), name)?;
        bring_back(&outcome.results, &results.join(name))?;
        Ok(outcome)
    }
}

/// Moves what the guest left into `target`, file by file, and says so.
fn bring_back(from: &Path, target: &Path) -> Result<()> {
    for entry in fs::read_dir(from)?.flatten() {
        fs::create_dir_all(target)
            .with_context(|| format!("failed to create {}", target.display()))?;
        let to = target.join(entry.file_name());
        let mut copy = Command::new("cp");
        crate::sys::output(copy.args(["-r", "-T"]).arg(entry.path()).arg(&to))?;
        ui::line(format_args!("from the guest: {}", to.display()));
    }
    Ok(())
}

/// Each program in a boot of its own, so that what a lost boot costs is small, and two at a time, since a test waits half of its time. With a
/// filter all in one, since little is run.
fn vm_tests(options: &VmOptions, filter: Option<&str>) -> Result<Tally> {
    tests_on(&prepare(options, Flavour::Usual)?, options, filter)
}

/// The same in a guest that is prepared.
pub fn tests_on(prepared: &Prepared, options: &VmOptions, filter: Option<&str>) -> Result<Tally> {
    if filter.is_some() {
        let script = payload::each(&FILTERED_TESTS, filter);
        return vm_test(prepared, options, "test", script, true);
    }
    let options = VmOptions {
        accel: Some(prepared.accel(options)?),
        ..options.clone()
    };
    let options = &options;
    let queue = Mutex::new(GUEST_TESTS.into_iter());
    let work = |loud: bool| -> Result<Tally> {
        let mut tally = Tally::default();
        loop {
            let next = queue.lock().expect("a test thread panicked").next();
            let Some((name, program)) = next else {
                return Ok(tally);
            };
            ui::line(format_args!("running {program}"));
            tally += vm_test(prepared, options, name, program.to_owned(), loud)?;
        }
    };
    let work = &work;
    std::thread::scope(|scope| {
        let other = scope.spawn(|| work(false));
        let mut tally = work(true)?;
        tally += other.join().expect("a test thread panicked")?;
        Ok(tally)
    })
}

/// Not `loud`: what it printed comes when it has ended.
fn vm_test(
    prepared: &Prepared,
    options: &VmOptions,
    name: &str,
    script: String,
    loud: bool,
) -> Result<Tally> {
    let command = [script];
    let lost = |outcome: &Outcome| {
        let mut complaints = outcome.complaints.iter();
        complaints.any(|line| line.contains(LOST_INT3))
    };
    let boot = || prepared.boot(options, &Job::Command(&command), name, loud);
    let mut outcome = boot()?;
    for _ in 1..LOST_TRIES {
        if !lost(&outcome) {
            break;
        }
        ui::line(format_args!(
            "{name}: the emulated kernel tripped over its own code patching: running this again"
        ));
        outcome = boot()?;
    }
    if !loud {
        ui::line(format_args!(
            "what {program} printed:",
            program = command[0]
        ));
        println!("{}", outcome.output);
    }
    let mut tally = Tally::of_output(&outcome.output);
    let only_exit_status = outcome
        .complaints
        .iter()
        .all(|line| line.starts_with("the command exited"));
    for complaint in &outcome.complaints {
        ui::line(format_args!("{name}: {complaint}"));
    }
    if !(only_exit_status && (tally.failed > 0 || outcome.complaints.is_empty())) {
        let complaints = outcome.complaints.join("\n");
        tally += Tally::failed_with(format_args!("---- {name}, as a whole ----\n{complaints}"));
    }
    Ok(tally)
}

fn host_tests(filter: Option<&str>) -> Result<Tally> {
    host::need(host::TEST_PACKAGES)?;
    let mut tally = cargo_test("host tests", &["--workspace", "--release"], "", filter)?;
    for model in ["loom", "shuttle"] {
        if checkout::dir()
            .join(format!("core/tests/{model}.rs"))
            .exists()
        {
            let arguments = ["-p", "tcp-splice-core", "--release", "--test", model];
            tally += cargo_test(
                &format!("{model} models of the core"),
                &arguments,
                model,
                filter,
            )?;
        }
    }
    if filter.is_none() {
        tally += fuzz::check()?;
    }
    Ok(tally)
}

/// Runs `cargo test` with a `--cfg`, which gets a target directory of its own so that nothing is built twice.
fn cargo_test(what: &str, arguments: &[&str], cfg: &str, filter: Option<&str>) -> Result<Tally> {
    let mut step = Step::start(what);
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(checkout::dir())
        .args(["test", "--locked", "--no-fail-fast"])
        .args(arguments);
    cargo.args(filter);
    if !cfg.is_empty() {
        let target: PathBuf = checkout::dir().join("target").join(cfg);
        cargo
            .env("RUSTFLAGS", format!("--cfg {cfg}"))
            .env("CARGO_TARGET_DIR", target);
    }
    let (reader, writer) = rustix::pipe::pipe().context("failed to make a pipe")?;
    cargo
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    let mut child = cargo.spawn().context("failed to start cargo")?;
    drop(cargo);
    let mut output = String::new();
    for line in BufReader::new(fs::File::from(reader)).lines() {
        let line = line?;
        step.detail(&line);
        output.push_str(&line);
        output.push('\n');
    }
    let mut tally = Tally::of_output(&output);
    let status = child.wait()?;
    if !status.success() {
        ui::line(&output);
        if tally.failed == 0 {
            tally += Tally::failed_with(format_args!("{what}: cargo test failed: {status}"));
        }
        drop(step);
        return Ok(tally);
    }
    if tally.passed == 0 && filter.is_none() {
        bail!("failed to find any test in the output of cargo test");
    }
    step.done(&tally);
    Ok(tally)
}
