// SPDX-License-Identifier: GPL-2.0-only
//! Do the checkers check? Each is given something to find in a boot of its own (kmod/provoke.c), in which nothing else fails, and has to make
//! that boot a failure.

use anyhow::{Result, ensure};

use crate::commands::{self, Prepared};
use crate::debug_kernel::Checkers;
use crate::payload::Job;
use crate::rootfs::Flavour;
use crate::tally::Tally;
use crate::{VmOptions, ui};

/// A bug and the checker that is there for it.
struct Bug {
    /// As provoke.c calls it.
    name: &'static str,
    finds: &'static str,
    /// In a line that makes the run a failure.
    says: &'static str,
    /// What has to be run before, so that it need not be waited for as long as usual.
    before: &'static str,
}

const fn bug(name: &'static str, finds: &'static str, says: &'static str) -> Bug {
    Bug {
        name,
        finds,
        says,
        before: "true",
    }
}

const DEBUG: &[Bug] = &[
    bug("use_after_free", "KASAN", "BUG: KASAN: "),
    bug("use_after_free_in_rust", "KASAN", "BUG: KASAN: "),
    bug("shift", "UBSAN", "UBSAN: shift-out-of-bounds"),
    bug(
        "lock_order",
        "PROVE_LOCKING",
        "possible circular locking dependency",
    ),
    bug(
        "sleep_in_atomic",
        "DEBUG_ATOMIC_SLEEP",
        "sleeping function called from invalid context",
    ),
    bug(
        "preemptible",
        "DEBUG_PREEMPT",
        "BUG: using smp_processor_id() in preemptible",
    ),
    bug("unprotected", "PROVE_RCU", "suspicious RCU usage"),
    bug("freed_timer", "DEBUG_OBJECTS", "ODEBUG: free active"),
    bug("list", "DEBUG_LIST", "list_del corruption"),
    bug("refcount", "refcount_t", "refcount_t: addition on 0"),
    bug("warning", "WARN_ON", "WARNING: "),
    bug("leak", "kmemleak", "unreferenced object 0x"),
    Bug {
        before: "echo 5 >/proc/sys/kernel/hung_task_timeout_secs",
        ..bug("hung_task", "hung task", "blocked for more than")
    },
    Bug {
        before: "echo 2 >/proc/sys/kernel/watchdog_thresh",
        ..bug("soft_lockup", "soft lockup", "soft lockup")
    },
];

const KCSAN: &[Bug] = &[
    bug("race", "KCSAN", "BUG: KCSAN: data-race in ts_"),
    bug(
        "race_in_rust",
        "KCSAN",
        "BUG: KCSAN: data-race in tcp_splice_provoke_write",
    ),
];

/// What the guest does. The bug is not waited for longer than a checker needs: one of them is a call that never ends. kmemleak, which takes half a
/// minute when the guest ends, is not found there but for its own.
fn script(bug: &Bug) -> String {
    let at_the_end = if bug.finds == "kmemleak" {
        "true"
    } else {
        "umount -l /sys/kernel/debug"
    };
    format!(
        "modprobe tcp_splice && {before} || exit\n\
         {at_the_end}\n\
         (echo {name} >/sys/module/tcp_splice/parameters/provoke; echo done >/tmp/provoked) &\n\
         for _ in $(seq 300); do [ ! -e /tmp/provoked ] || exit 0; sleep 0.2; done",
        before = bug.before,
        name = bug.name,
    )
}

/// The checkers of one kernel.
fn check(options: &VmOptions, checkers: Checkers, bugs: &[&Bug]) -> Result<Tally> {
    let mut tally = Tally::default();
    if bugs.is_empty() {
        return Ok(tally);
    }
    let options = options.with(checkers);
    let prepared = commands::prepare(&options, Flavour::Usual)?;
    for bug in bugs {
        tally += match find(&prepared, &options, bug) {
            Ok(line) => {
                ui::line(format_args!("{} found {}: {line}", bug.finds, bug.name));
                Tally::ONE_PASSED
            }
            Err(error) => {
                ui::line(format_args!("{}, {}: {error:#}", bug.finds, bug.name));
                Tally::failed_with(format_args!("{}, {}: {error:#}", bug.finds, bug.name))
            }
        };
    }
    Ok(tally)
}

/// The line that says so.
fn find(prepared: &Prepared, options: &VmOptions, bug: &Bug) -> Result<String> {
    let job = [script(bug)];
    let name = format!("checkers-{}", bug.name);
    let outcome = prepared.boot(options, &Job::Command(&job), &name, false)?;
    ensure!(outcome.booted(), "the guest did not boot");
    let status = outcome.verdict.exit.map_or(0, |(status, _)| status);
    ensure!(status == 0, "the guest's command exited with {status}");
    let found = outcome
        .complaints
        .iter()
        .find(|complaint| complaint.starts_with("kernel log: ") && complaint.contains(bug.says));
    found.cloned().ok_or_else(|| {
        anyhow::anyhow!("nobody said {:?}, only: {:?}", bug.says, outcome.complaints)
    })
}

/// All whose name contains `filter`.
///
/// # Errors
/// When a kernel cannot be built, or cannot be booted at all.
pub fn run(options: &VmOptions, filter: Option<&str>) -> Result<Tally> {
    let chosen = |bugs: &'static [Bug]| -> Vec<&Bug> {
        let wanted = |bug: &&Bug| filter.is_none_or(|part| bug.name.contains(part));
        bugs.iter().filter(wanted).collect()
    };
    let mut tally = check(options, Checkers::Debug, &chosen(DEBUG))?;
    tally += check(options, Checkers::Kcsan, &chosen(KCSAN))?;
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::{DEBUG, KCSAN};

    const PROVOKE: &str = include_str!("../../kmod/provoke.c");

    #[test]
    fn each_bug_is_there() {
        let there = PROVOKE.matches("static void ts_provoke_").count();
        let bugs = || DEBUG.iter().chain(KCSAN);
        assert_eq!(there, bugs().count());
        for bug in bugs() {
            assert!(
                PROVOKE.contains(&format!("TS_BUG({})", bug.name)),
                "{}",
                bug.name
            );
        }
    }
}
