// SPDX-License-Identifier: GPL-2.0-only
//! The project, built inside the root file system, and the image that carries it into the guest.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::debug_kernel::DebugKernel;
use crate::rootfs::Rootfs;
use crate::ui::Step;
use crate::{buildlog, cache, checkout, sys};

const BUILD: &str = include_str!("../host/build.sh");
const INIT: &str = include_str!("../guest/init.sh");

/// Settings of the host that the build inside needs to reach the crate registry as the host does.
const PASSED_ON: &[&str] = &[
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "all_proxy",
];
const PASSED_ON_PREFIXES: &[&str] = &[
    "CARGO_SOURCE_",
    "CARGO_REGISTR",
    "CARGO_HTTP_",
    "CARGO_NET_",
];

/// The built project, what is to be laid over the guest's root. Locked against other runs.
pub struct Payload {
    out: PathBuf,
    /// the copy of the checkout in which it was built
    pub src: PathBuf,
    _lock: cache::Lock,
}

/// Builds the checkout inside the root file system, for its own kernel or for the debug kernel.
///
/// # Errors
/// When the build fails or warns; the error carries the end of its log.
pub fn build(rootfs: &Rootfs, debug: Option<&DebugKernel>) -> Result<Payload> {
    let kver = debug.map_or(&rootfs.kver, |kernel| &kernel.kver);
    let tree = debug
        .map(|kernel| kernel.tree.as_path())
        .unwrap_or(Path::new(""));
    let checkout = checkout::dir();
    let name_of = |tree: &Path| {
        let parts = [&checkout, &rootfs.dir, tree].map(|path| path.to_string_lossy());
        format!("build-{}", cache::key(&parts.each_ref().map(AsRef::as_ref)))
    };
    let name = name_of(tree);
    let cache = cache::dir()?;
    // The programs do not depend on the kernel: they are built once for all.
    let target = cache.join(name_of(Path::new(""))).join("src/target");
    let lock = cache::lock(&cache, &name)?;
    let work = cache.join(&name);
    let cargo_home = cache.join("cargo");
    for dir in [&work.join("src"), &cargo_home, &target] {
        fs::create_dir_all(dir).with_context(|| format!("failed to create {}", dir.display()))?;
    }
    checkout::copy_to(&work.join("src"), &work.join("copied"))?;
    fs::write(cargo_home.join("config.toml"), cargo_config())?;
    let script = work.join("build.sh");
    fs::write(&script, BUILD).with_context(|| format!("failed to write {}", script.display()))?;

    let mut step = Step::start(format!(
        "building module, tool, tests and benchmarks for {} in the root file system",
        kver
    ));
    let mut command = sys::privileged_script(&script);
    command
        .args([&rootfs.root(), &work, &cargo_home, &target])
        .arg(kver)
        .arg(tree)
        .args(passed_on());
    let log = work.join("build.log");
    sys::run_logged(&mut command, &log, &mut step)?;
    let log = fs::read_to_string(log)?;
    let complaints = buildlog::complaints(&log);
    if !complaints.is_empty() {
        // Built again next time, so that the same complaints come again.
        cache::remove(&work.join("src/kmod"))?;
        bail!(
            "failed to build without warnings:\n{}",
            complaints.join("\n")
        );
    }
    step.done("");
    Ok(Payload {
        out: work.join("out"),
        src: work.join("src"),
        _lock: lock,
    })
}

fn passed_on() -> impl Iterator<Item = String> {
    std::env::vars()
        .filter(|(name, _)| {
            PASSED_ON.contains(&name.as_str())
                || PASSED_ON_PREFIXES
                    .iter()
                    .any(|prefix| name.starts_with(prefix))
        })
        .map(|(name, value)| format!("{name}={value}"))
}

/// What the host's own cargo configuration says about registries and the network.
fn cargo_config() -> String {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let read = |home: PathBuf| {
        ["config.toml", "config"]
            .iter()
            .find_map(|name| fs::read_to_string(home.join(name)).ok())
    };
    home.and_then(read)
        .map(|text| network_tables(&text))
        .unwrap_or_default()
}

/// Keeps the tables of a cargo configuration that say where crates come from; a host's compilers,
/// wrappers and flags would not work inside.
fn network_tables(text: &str) -> String {
    let wanted = ["source", "registry", "registries", "http", "net"];
    let mut keep = false;
    let mut kept = String::new();
    for line in text.lines() {
        if let Some(header) = line.trim_start().strip_prefix('[') {
            let table = header
                .trim_start_matches('[')
                .split(['.', ']'])
                .next()
                .unwrap_or_default();
            keep = wanted.contains(&table.trim());
        }
        if keep {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// What the guest is to do.
pub enum Job<'a> {
    /// run this command, its output goes to the host
    Command(&'a [String]),
    /// a shell on the console
    Shell,
}

impl Payload {
    /// Writes the image for one boot into `dir` and returns its path.
    ///
    /// # Errors
    /// When a file cannot be written or mke2fs fails.
    pub fn image(&self, dir: &Path, job: &Job) -> Result<PathBuf> {
        let tree = dir.join("payload");
        fs::create_dir_all(tree.join("job"))?;
        sys::output(
            Command::new("cp")
                .arg("-a")
                .arg(&self.out)
                .arg(tree.join("root")),
        )?;
        fs::write(tree.join("init"), INIT)?;
        fs::set_permissions(tree.join("init"), fs::Permissions::from_mode(0o755))?;
        match job {
            Job::Command(words) => fs::write(tree.join("job/command"), shell_line(words))?,
            Job::Shell => {
                fs::write(tree.join("job/terminal"), terminal())?;
                fs::write(
                    tree.join("job/welcome"),
                    include_str!("../guest/welcome.txt"),
                )?;
            }
        }
        let image = dir.join("payload.img");
        let used = sys::output(Command::new("du").arg("-sm").arg(&tree))?;
        let used: u64 = used
            .split_whitespace()
            .next()
            .and_then(|word| word.parse().ok())
            .unwrap_or(256);
        let mut mke2fs = Command::new("mke2fs");
        mke2fs.env("PATH", path_with_sbin());
        mke2fs.args([
            "-q",
            "-t",
            "ext4",
            "-O",
            "^has_journal",
            "-E",
            "root_owner=0:0",
            "-d",
        ]);
        sys::output(
            mke2fs
                .arg(&tree)
                .arg(&image)
                .arg(format!("{}M", used + used / 4 + 16)),
        )?;
        fs::remove_dir_all(&tree)?;
        Ok(image)
    }
}

fn path_with_sbin() -> String {
    format!(
        "{}:/usr/sbin:/sbin",
        std::env::var("PATH").unwrap_or_default()
    )
}

/// A script that runs each of these programs, whatever the others do, and fails if one of them does.
pub fn each(programs: &[&str], argument: Option<&str>) -> String {
    let mut script = String::from("failed=0\n");
    for program in programs {
        let argument = argument.map(quoted).unwrap_or_default();
        script += &format!("{program} {argument} || failed=$?\n");
    }
    script + "exit $failed"
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// The words as one line for sh, each quoted; a single word is a script of its own.
fn shell_line(words: &[String]) -> String {
    if let [script] = words {
        return format!("{script}\n");
    }
    let quoted: Vec<_> = words.iter().map(|word| quoted(word)).collect();
    format!("exec {}\n", quoted.join(" "))
}

/// The size and type of the host's terminal, for the guest's shell.
fn terminal() -> String {
    let term = std::env::var("TERM").unwrap_or_default();
    let known = BTreeSet::from([
        "xterm",
        "xterm-256color",
        "screen",
        "screen-256color",
        "tmux-256color",
        "vt100",
    ]);
    let term = if known.contains(term.as_str()) {
        term
    } else {
        "linux".to_owned()
    };
    let size = rustix::termios::tcgetwinsize(std::io::stdin());
    let stty = size.map_or_else(
        |_| String::new(),
        |s| format!("rows {} columns {}", s.ws_row, s.ws_col),
    );
    format!("GUEST_TERM='{term}' STTY='{stty}'\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_the_shell() {
        let words = ["echo", "a b", "it's"].map(str::to_owned);
        assert_eq!(shell_line(&words), "exec 'echo' 'a b' 'it'\\''s'\n");
    }

    #[test]
    fn each_program_runs_and_any_can_fail() {
        let script = each(&["a", "b"], Some("x y"));
        assert_eq!(
            script,
            "failed=0\na 'x y' || failed=$?\nb 'x y' || failed=$?\nexit $failed"
        );
    }

    #[test]
    fn a_single_word_is_a_script() {
        assert_eq!(
            shell_line(&["lsmod; uname -a".to_owned()]),
            "lsmod; uname -a\n"
        );
    }

    #[test]
    fn only_network_tables_of_cargo_configuration_are_kept() {
        let text = "[build]\nrustc-wrapper = \"x\"\n[source.crates-io]\nreplace-with = \"m\"\n\
            [target.x86_64]\nlinker = \"l\"\n[registries.m]\nindex = \"i\"\n";
        assert_eq!(
            network_tables(text),
            "[source.crates-io]\nreplace-with = \"m\"\n[registries.m]\nindex = \"i\"\n"
        );
    }
}
