// SPDX-License-Identifier: GPL-2.0-only
//! The built tool as a user meets it, as far as no kernel module is needed.

use std::process::{Command, Output};

fn ctl(line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tcp-splice-ctl"));
    command.args(line.split_whitespace());
    command.output().expect("the tool runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn wrong_usage_gets_one_line_and_exit_code_2() {
    for line in [
        "enable",
        "enable --cgroup /sys/fs/cgroup --ports 0",
        "enable --cgroup /sys/fs/cgroup --ports 70000",
        "enable --cgroup /sys/fs/cgroup --ports a,,b",
        "enable --cgroup /sys/fs/cgroup --ring-kbytes 16385",
        "enable --cgroup /sys/fs/cgroup --busy-poll-us 1000001",
        "status --loud",
        "enlable",
    ] {
        let output = ctl(line);
        assert_eq!(output.status.code(), Some(2), "{line}");
        assert_eq!(text(&output.stdout), "", "{line}");
        let error = text(&output.stderr);
        assert!(
            error.starts_with("tcp-splice-ctl: ") && error.lines().count() == 1,
            "{line}: {error}"
        );
    }
}

#[test]
fn a_failure_gets_one_line_and_exit_code_1() {
    let output = ctl("enable --cgroup /proc");
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    let known = error.contains("must be run as root")
        || error.contains("/proc is not a cgroup v2 directory");
    assert!(known && error.lines().count() == 1, "{error}");
}

#[test]
fn help_and_version_go_to_stdout() {
    for line in [
        "--help",
        "-h",
        "--version",
        "enable --help",
        "status --help",
        "help disable",
    ] {
        let output = ctl(line);
        assert_eq!(output.status.code(), Some(0), "{line}");
        assert!(
            !output.stdout.is_empty() && output.stderr.is_empty(),
            "{line}"
        );
    }
}

#[test]
fn manual_pages_and_completions_can_be_made() {
    let dir = tempfile::tempdir().expect("a directory for pages");
    let dir = dir.path();
    assert!(ctl(&format!("man {}", dir.display())).status.success());
    let page = std::fs::read_to_string(dir.join("tcp-splice-ctl-enable.1")).expect("a page");
    assert!(page.contains("loopback"));
    assert!(text(&ctl("completions bash").stdout).contains("tcp-splice-ctl"));
}
