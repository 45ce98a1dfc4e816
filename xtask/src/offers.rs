// SPDX-License-Identifier: GPL-2.0-only
//! Which kernels Debian offers, in which suite.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::ui::Step;
use crate::{apt, cache, sys};

/// Suites that have kernels, and the one whose compilers their headers ask for. Of a kernel that several have, the first counts.
const SUITES: [(&str, &str); 4] = [
    ("trixie-backports", "trixie"),
    ("forky", "forky"),
    ("sid", "sid"),
    ("experimental", "sid"),
];

/// The first kernel that the module is for.
const FIRST: (u32, u32) = (6, 15);

/// A kernel that modules can be built for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// what `uname -r` says there
    pub kver: String,
    /// the suite that it comes from
    pub suite: &'static str,
    /// the suite of the root file system that it runs in
    pub root: &'static str,
    /// true if the suite has its image too, not only its headers
    pub boots: bool,
}

/// All kernels from [`FIRST`] on whose headers the suites have, by suite, oldest first.
///
/// # Errors
/// When apt cannot fetch its lists.
pub fn kernels() -> Result<Vec<Kernel>> {
    let dir = cache::dir()?.join("apt");
    let _lock = cache::lock(&cache::dir()?, "apt")?;
    let config = write_config(&dir)?;
    let mut step = Step::start("looking for the kernels that Debian offers");
    sys::run_logged(
        apt_command("apt-get", &config).arg("update"),
        &dir.join("update.log"),
        &mut step,
    )?;
    let names = sys::output(apt_command("apt-cache", &config).args(["pkgnames", "linux-"]))?;
    let names = names
        .lines()
        .filter(|name| kver_of(name).is_some_and(|kver| series(kver) >= Some(FIRST)));
    let policy = sys::output(apt_command("apt-cache", &config).arg("madison").args(names))?;
    let kernels = parse(&policy);
    if kernels.is_empty() {
        bail!("failed to find any kernel in the lists of apt");
    }
    step.done(format_args!("{} kernels", kernels.len()));
    Ok(kernels)
}

/// apt with lists of its own, beside the machine's. Lists of suites that go on without end may be older here than they say they may be.
fn write_config(dir: &Path) -> Result<std::path::PathBuf> {
    for sub in ["etc/apt.conf.d", "lists/partial", "archives/partial"] {
        fs::create_dir_all(dir.join(sub))
            .with_context(|| format!("failed to create {}", dir.display()))?;
    }
    let mirror = apt::mirror().context(
        "failed to find a mirror of Debian in apt's sources: the list of kernels comes from there",
    )?;
    let sources: String = SUITES
        .iter()
        .map(|(suite, _)| {
            format!("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg arch=amd64] {mirror} {suite} main\n")
        })
        .collect();
    fs::write(dir.join("etc/sources.list"), sources)?;
    fs::write(dir.join("status"), "")?;
    let path = |name: &str| dir.join(name).display().to_string();
    let settings = [
        ("Dir::Etc", path("etc")),
        ("Dir::State", path("")),
        ("Dir::State::lists", path("lists")),
        ("Dir::State::status", path("status")),
        ("Dir::Cache", path("")),
        ("APT::Architecture", "amd64".to_owned()),
        ("APT::Sandbox::User", String::new()),
        ("Acquire::Check-Valid-Until", "false".to_owned()),
        ("Acquire::Languages", "none".to_owned()),
    ];
    let mut text: String = settings
        .iter()
        .map(|(name, value)| format!("{name} \"{value}\";\n"))
        .collect();
    for option in apt::options() {
        text += &option;
        text.push('\n');
    }
    let config = dir.join("apt.conf");
    fs::write(&config, text).with_context(|| format!("failed to write {}", config.display()))?;
    Ok(config)
}

fn apt_command(program: &str, config: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("APT_CONFIG", config);
    command
}

/// The kernel whose headers or image a package is.
fn kver_of(package: &str) -> Option<&str> {
    let kver = package
        .strip_prefix("linux-headers-")
        .or_else(|| package.strip_prefix("linux-image-"))?;
    let begins = kver.starts_with(|c: char| c.is_ascii_digit());
    (begins && kver.ends_with("-amd64")).then_some(kver)
}

/// The first two numbers of a kernel's version.
fn series(kver: &str) -> Option<(u32, u32)> {
    let mut numbers = kver.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// For sorting: every number in it.
fn numbers(kver: &str) -> Vec<u32> {
    kver.split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

/// Reads lines of `apt-cache madison`: `package | version | URI suite/component amd64 Packages`.
fn parse(policy: &str) -> Vec<Kernel> {
    let lines: Vec<(&str, &str)> = policy
        .lines()
        .filter_map(|line| {
            let mut fields = line.split('|').map(str::trim);
            let (package, _, source) = (fields.next()?, fields.next()?, fields.next()?);
            let suite = source.split_whitespace().nth(1)?.split('/').next()?;
            Some((package, suite))
        })
        .collect();
    let mut kernels: Vec<Kernel> = Vec::new();
    for (suite, root) in SUITES {
        let has = |package: &str| lines.contains(&(package, suite));
        let mut here: Vec<_> = lines
            .iter()
            .filter(|(package, of)| *of == suite && package.starts_with("linux-headers-"))
            .filter_map(|(package, _)| kver_of(package))
            .filter(|kver| kernels.iter().all(|known| known.kver != **kver))
            .map(|kver| Kernel {
                kver: kver.to_owned(),
                suite,
                root,
                boots: has(&format!("linux-image-{kver}")),
            })
            .collect();
        here.sort_by_key(|kernel| (numbers(&kernel.kver), kernel.kver.clone()));
        here.dedup();
        kernels.extend(here);
    }
    kernels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_found_with_their_suite_and_whether_they_boot() {
        let policy = "\
linux-headers-7.2.12+deb13-cloud-amd64 | 7.2.12-1~bpo13+1 | http://m.example/debian trixie-backports/main amd64 Packages
linux-image-7.2.12+deb13-cloud-amd64 | 7.2.12-1~bpo13+1 | http://m.example/debian trixie-backports/main amd64 Packages
linux-headers-7.2.9+deb13-cloud-amd64 | 7.2.9-1~bpo13+1 | http://m.example/debian trixie-backports/main amd64 Packages
linux-headers-7.3-rt-amd64 | 7.3~rc7-1~exp1 | http://m.example/debian experimental/main amd64 Packages
linux-headers-7.3-rt-amd64 | 7.3~rc7-1~exp1 | http://m.example/debian sid/main amd64 Packages
linux-image-7.3-rt-amd64 | 7.3~rc7-1~exp1 | http://m.example/debian sid/main amd64 Packages
linux-image-6.16.3+deb13-amd64 | 6.16.3-1~bpo13+1 | http://m.example/debian trixie-backports/main amd64 Packages
";
        let found = parse(policy);
        let short: Vec<_> = found
            .iter()
            .map(|k| (k.kver.as_str(), k.suite, k.root, k.boots))
            .collect();
        assert_eq!(
            short,
            [
                (
                    "7.2.9+deb13-cloud-amd64",
                    "trixie-backports",
                    "trixie",
                    false
                ),
                (
                    "7.2.12+deb13-cloud-amd64",
                    "trixie-backports",
                    "trixie",
                    true
                ),
                ("7.3-rt-amd64", "sid", "sid", true),
            ]
        );
    }

    #[test]
    fn only_versioned_packages_are_kernels() {
        assert_eq!(kver_of("linux-headers-7.3-amd64"), Some("7.3-amd64"));
        for package in [
            "linux-headers-amd64",
            "linux-headers-7.3-common",
            "linux-source-7.3",
        ] {
            assert_eq!(kver_of(package), None);
        }
        assert_eq!(series("6.12.107+deb13-amd64"), Some((6, 12)));
        assert!(series("6.9-amd64") < Some(FIRST) && series("6.16.3-amd64") > Some(FIRST));
    }
}
