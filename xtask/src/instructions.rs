// SPDX-License-Identifier: GPL-2.0-only
//! Instructions of one message: boots the guest in emulation with a plugin that counts, joins its counts with the guest's list of
//! windows, and compares the figures with those kept in the repository.

mod baseline;
mod figures;
mod profile;
mod table;
mod windows;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::payload::Job;
use crate::qemu::Counter;
use crate::rootfs::Flavour;
use crate::tally::Tally;
use crate::ui::{self, Step};
use crate::{VmOptions, cache, checkout, commands, guest, sys};
use figures::Figures;

/// The figures that are kept, from the top of the checkout.
const BASELINE: &str = "bench/instructions.json";

/// Batch processes do not interrupt each other when they wake up, so that each runs until it has to wait, and the order is the same in
/// every window.
const BENCH: [&str; 9] = [
    "chrt",
    "--batch",
    "0",
    "env",
    "TCP_SPLICE_ACCEL=tcg",
    "tcp-splice-bench",
    "instructions",
    "--out",
    "/results",
];

/// The module's code is at one place only while it stays loaded: it is loaded anew in each round.
const PROFILE: [&str; 3] = ["--symbols", "--rounds", "1"];

/// What every change is likely to move, once: for CI, which has no time for the rest.
const QUICK: [&str; 17] = [
    "--without-pipes",
    "--rounds",
    "1",
    "--only",
    "round trip, 1 B",
    "--only",
    "round trip, 64 B",
    "--only",
    "round trip, 16 KiB",
    "--only",
    "round trip, 64 KiB",
    "--only",
    "connection, 64 B",
    "--only",
    "poll and recv",
    "--only",
    "KiB of stream, 16 KiB",
];

/// What to do with the figures.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Keep the figures in the repository, instead of comparing with those there
    #[arg(long, conflicts_with = "more")]
    accept: bool,
    /// Also write down which functions the instructions are in, and which pages they touch first, to results/instructions/profile.txt; in one round
    #[arg(long, conflicts_with = "accept")]
    profile: bool,
    /// Count a few messages only, in one round
    #[arg(long, conflicts_with = "accept")]
    quick: bool,
    /// More arguments for `tcp-splice-bench instructions`
    #[arg(last = true)]
    more: Vec<String>,
}

/// Counts, prints, compares.
///
/// # Errors
/// When the guest fails, or a spliced figure is worse than the one kept.
pub fn run(options: &Options) -> Result<()> {
    let figures = count(options)?;
    let kept = checkout::dir().join(BASELINE);
    if options.accept {
        println!("{}", table::of(&figures, None));
        figures.save(&kept)?;
        ui::line(format_args!("kept: {}", kept.display()));
        return Ok(());
    }
    let baseline = kept.exists().then(|| Figures::load(&kept)).transpose()?;
    println!("{}", table::of(&figures, baseline.as_ref()));
    let Some(baseline) = baseline else {
        ensure!(!options.quick, "failed to find figures to compare with");
        ui::line("nothing to compare with: --accept keeps these figures");
        return Ok(());
    };
    for remark in baseline::remarks(&figures, &baseline) {
        println!("{remark}");
    }
    baseline::judge(&figures, &baseline)?;
    if options.quick {
        // CI adds it to the sums of tests; who fails without one counts as one.
        println!("{}", Tally::ONE_PASSED);
    }
    Ok(())
}

/// Boots, counts, and leaves everything in results/instructions.
fn count(options: &Options) -> Result<Figures> {
    let dir = cache::temporary("counts")?;
    let out = dir.path().join("counts");
    let vm = VmOptions::counting(Counter {
        plugin: plugin()?,
        out: out.clone(),
        profile: options.profile.then(|| dir.path().join("profile")),
    });
    let mut command = BENCH.map(str::to_owned).to_vec();
    if options.profile {
        command.extend(PROFILE.map(str::to_owned));
    }
    if options.quick {
        command.extend(QUICK.map(str::to_owned));
    }
    command.extend(options.more.iter().cloned());
    let outcome = commands::prepare(&vm, Flavour::Usual)?.boot(
        &vm,
        &Job::Command(&command),
        "instructions",
        true,
    )?;
    guest::verdict_of(&outcome.complaints)?;
    let results = checkout::dir().join("results/instructions");
    let windows = fs::read_to_string(results.join("windows.json"))
        .context("failed to read the guest's windows")?;
    let counts = fs::read_to_string(&out).context("failed to read the plugin's counts")?;
    fs::write(results.join("counts.txt"), &counts).context("failed to keep the plugin's counts")?;
    let figures = windows::join(&windows, &counts, qemu_version()?)?;
    figures.save(&results.join("instructions.json"))?;
    if options.profile {
        let read = |path: PathBuf| {
            fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))
        };
        let places = read(dir.path().join("profile"))?;
        let symbols = read(results.join("symbols"))?;
        let to = results.join("profile.txt");
        fs::write(&to, profile::of(&windows, &places, &symbols)?)
            .with_context(|| format!("failed to write {}", to.display()))?;
        ui::line(format_args!("functions: {}", to.display()));
    }
    Ok(figures)
}

/// Builds the plugin for this machine's QEMU.
fn plugin() -> Result<PathBuf> {
    let step = Step::start("building the plugin that counts instructions");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(checkout::dir());
    cargo.args(["build", "--release", "--locked", "-p", "tcp-splice-insn"]);
    cargo.arg("--target-dir").arg("target");
    sys::output(&mut cargo).context("failed to build the plugin")?;
    step.done("");
    Ok(checkout::dir().join("target/release/libtcp_splice_insn.so"))
}

/// As QEMU says it: `7.2.22`.
fn qemu_version() -> Result<String> {
    let text = sys::output(Command::new("qemu-system-x86_64").arg("--version"))?;
    let mut words = text.split_whitespace();
    words
        .find(|word| word.starts_with(|first: char| first.is_ascii_digit()))
        .map(str::to_owned)
        .context("failed to find QEMU's version")
}
