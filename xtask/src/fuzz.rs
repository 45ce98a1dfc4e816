// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask fuzz`: every target of `fuzz/` for some seconds.
//!
//! The directory is as cargo-fuzz wants it, but that needs a nightly compiler. What it would pass to rustc is passed here to the stable one,
//! with `RUSTC_BOOTSTRAP=1`, which lets it take `-Z` options.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::tally::Tally;
use crate::ui::{self, Step};
use crate::{checkout, host, sys};

/// Debian packages: libFuzzer is C++.
const PACKAGES: &[&str] = &["g++", "libc6-dev"];

/// With a target, build scripts are not instrumented.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// How libFuzzer sees where an input goes. As cargo-fuzz has it.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 --cfg fuzzing";

/// Runs the targets whose name contains `filter`; the inputs that found something new are kept for the next time.
///
/// # Errors
/// When they cannot be built.
pub fn run(seconds: u32, filter: Option<&str>) -> Result<Tally> {
    host::need(PACKAGES)?;
    let dir = checkout::dir().join("fuzz");
    let targets = targets(&dir, filter)?;
    let programs = build(&dir)?;
    let mut tally = Tally::default();
    for target in targets {
        tally += run_one(&dir, &programs, &target, seconds)?;
    }
    Ok(tally)
}

/// Compiles the targets, which belong to no workspace, without instrumentation: one test.
///
/// # Errors
/// When what they need cannot be installed.
pub fn check() -> Result<Tally> {
    host::need(PACKAGES)?;
    let step = Step::start("compiling the fuzz targets");
    let mut check = cargo();
    check
        .current_dir(checkout::dir().join("fuzz"))
        .args(["check", "--quiet", "--locked"]);
    if let Err(error) = sys::output(&mut check) {
        ui::line(format_args!("error: {error:#}"));
        return Ok(Tally::failed_with(format_args!("error: {error:#}")));
    }
    step.done("");
    Ok(Tally::ONE_PASSED)
}

fn targets(dir: &Path, filter: Option<&str>) -> Result<Vec<String>> {
    let sources = dir.join("fuzz_targets");
    let entries =
        fs::read_dir(&sources).with_context(|| format!("failed to read {}", sources.display()))?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| Some(entry.path().file_stem()?.to_str()?.to_owned()))
        .filter(|name| filter.is_none_or(|filter| name.contains(filter)))
        .collect();
    names.sort();
    if names.is_empty() {
        bail!("failed to find a fuzz target with such a name");
    }
    Ok(names)
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// rustc's AddressSanitizer, where its runtime is installed: distributions leave it out.
fn sanitizer() -> Result<&'static str> {
    let sysroot = sys::output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let libraries = Path::new(sysroot.trim()).join(format!("lib/rustlib/{TARGET}/lib"));
    let has_runtime = fs::read_dir(libraries)
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().ends_with("_rt.asan.a"));
    if !has_runtime {
        ui::line(
            "this rustc has no AddressSanitizer: without it (what is fuzzed has no unsafe code)",
        );
        return Ok("");
    }
    Ok("-Zsanitizer=address")
}

/// Returns where the programs are.
fn build(dir: &Path) -> Result<PathBuf> {
    let flags = format!("{COVERAGE} {}", sanitizer()?);
    let target = dir.join("target");
    let log = tempfile::NamedTempFile::new()?;
    let mut step = Step::start("building the fuzz targets");
    let mut build = cargo();
    build
        .current_dir(dir)
        .args(["build", "--release", "--locked", "--target", TARGET])
        .arg("--target-dir")
        .arg(&target)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", flags.trim());
    sys::run_logged(&mut build, log.path(), &mut step)?;
    step.done("");
    Ok(target.join(TARGET).join("release"))
}

fn run_one(dir: &Path, programs: &Path, target: &str, seconds: u32) -> Result<Tally> {
    let (corpus, artifacts) = (
        dir.join("corpus").join(target),
        dir.join("artifacts").join(target),
    );
    for made in [&corpus, &artifacts] {
        fs::create_dir_all(made).with_context(|| format!("failed to create {}", made.display()))?;
    }
    let log = artifacts.join("log");
    let mut step = Step::start(format!("fuzzing {target}"));
    let mut fuzz = Command::new(programs.join(target));
    fuzz.arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .args(["-timeout=10", "-rss_limit_mb=1024", "-print_final_stats=1"])
        .arg(&corpus)
        .args(Some(dir.join("seeds").join(target)).filter(|seeds| seeds.exists()));
    let result = sys::run_logged(&mut fuzz, &log, &mut step);
    let runs = inputs(&fs::read_to_string(&log).unwrap_or_default());
    match result {
        Ok(()) if runs > 0 => {
            step.done(format_args!("{runs} inputs"));
            Ok(Tally::ONE_PASSED)
        }
        Ok(()) => bail!("failed to find how many inputs {target} has tried"),
        Err(error) => {
            drop(step);
            ui::line(format_args!("{target}: {error:#}"));
            ui::line(format_args!("the input is in {}", artifacts.display()));
            Ok(Tally::failed_with(format_args!("{target}: {error:#}")))
        }
    }
}

/// From libFuzzer's final statistics.
fn inputs(log: &str) -> u64 {
    let mut lines = log.lines();
    lines
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))
        .and_then(|number| number.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_counted_from_the_statistics() {
        let log = "Done 7 runs in 1 second(s)\nstat::number_of_executed_units: 5532\nstat::average_exec_per_sec:     922\n";
        assert_eq!(inputs(log), 5532);
        assert_eq!(inputs("==1== ERROR: libFuzzer: deadly signal\n"), 0);
    }

    /// cargo-fuzz goes by the manifest, this by the directory: both have to know all of them.
    #[test]
    fn every_target_is_in_the_manifest() {
        let dir = checkout::dir().join("fuzz");
        let manifest = fs::read_to_string(dir.join("Cargo.toml")).unwrap();
        let targets = targets(&dir, None).unwrap();
        for target in &targets {
            assert!(manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")));
        }
        assert_eq!(manifest.matches("[[bin]]").count(), targets.len());
    }
}
