// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask matrix`: builds for every kernel that Debian offers, tests on those that it has the images of, and keeps the table in
//! docs/kernels.md.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::offers::{self, Kernel};
use crate::rootfs::{self, Rootfs};
use crate::ui;
use crate::{VmOptions, cache, checkout, commands};

const TABLE_BEGINS: &str = "<!-- cargo xtask matrix --keep -->\n";
const TABLE_ENDS: &str = "<!-- end of the table -->";
const HEADER: &str = "\
| suite | kernel | compilers | what it has | module | tests |
|---|---|---|---|---|---|
";

/// What to do for which kernels.
#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    vm: VmOptions,
    /// Only kernels whose version or suite contains this
    #[arg(long)]
    only: Option<String>,
    /// Build the module, without booting
    #[arg(long)]
    build_only: bool,
    /// Put the outcome into the table of docs/kernels.md
    #[arg(long)]
    keep: bool,
    /// Remove the root file systems made for this when done: some gigabytes for each suite
    #[arg(long)]
    purge: bool,
    /// Run only tests whose name contains this
    filter: Option<String>,
}

/// The root file system that has the one kernel whose version contains `part`, with that kernel chosen.
///
/// # Errors
/// When no kernel, or more than one, is meant, or the root file system cannot be made.
pub fn rootfs_of(part: &str) -> Result<Rootfs> {
    let kernels = offers::kernels()?;
    let kernel = choose(&kernels, part)?;
    Ok(rootfs::with_kernels(&of_root(&kernels, kernel.root))?.with_kernel(&kernel.kver))
}

/// The kernel of exactly this version, or the one whose version contains `part`. Where several do, a cloud kernel among them is meant, since
/// that is the one made for guests.
fn choose<'a>(kernels: &'a [Kernel], part: &'a str) -> Result<&'a Kernel> {
    if let Some(exact) = kernels.iter().find(|kernel| kernel.kver == part) {
        if !exact.boots {
            bail!("failed to choose a kernel: there is no image of {part}, only its headers");
        }
        return Ok(exact);
    }
    let all: Vec<_> = matching(kernels, Some(part))
        .filter(|kernel| kernel.boots)
        .collect();
    let is_cloud = |kernel: &&Kernel| kernel.kver.contains("-cloud-");
    let cloud: Vec<_> = all.iter().copied().filter(is_cloud).collect();
    match (&all[..], &cloud[..]) {
        ([kernel], _) | (_, [kernel]) => Ok(*kernel),
        ([], _) => bail!(
            "failed to choose a kernel: none of these has {part} in its version or suite: {}",
            names(kernels.iter().filter(|kernel| kernel.boots))
        ),
        _ => bail!(
            "failed to choose a kernel: {part} means {} of them: {}",
            all.len(),
            names(all.iter().copied())
        ),
    }
}

fn names<'a>(kernels: impl Iterator<Item = &'a Kernel>) -> String {
    let names: Vec<_> = kernels.map(|kernel| kernel.kver.as_str()).collect();
    names.join(", ")
}

fn matching<'a>(kernels: &'a [Kernel], part: Option<&'a str>) -> impl Iterator<Item = &'a Kernel> {
    kernels.iter().filter(move |kernel| {
        part.is_none_or(|part| kernel.kver.contains(part) || kernel.suite.contains(part))
    })
}

fn of_root(kernels: &[Kernel], root: &str) -> Vec<Kernel> {
    let mut here: Vec<_> = kernels
        .iter()
        .filter(|kernel| kernel.root == root)
        .cloned()
        .collect();
    // The last one's suite is where the root's second list of packages comes from: sid's own comes by itself.
    here.sort_by_key(|kernel| kernel.suite != kernel.root);
    here
}

/// Builds and tests; the last line is the sum, a kernel that fails counts as one failed test.
///
/// # Errors
/// When a root file system cannot be made, or anything failed.
pub fn run(options: &Options) -> Result<()> {
    let kernels = offers::kernels()?;
    let mut rows = BTreeMap::new();
    let mut table = String::new();
    let mut failed = 0;
    for root in roots(&kernels, options.only.as_deref()) {
        let here = of_root(&kernels, root);
        let rootfs = rootfs::with_kernels(&here)?;
        for kernel in matching(&here, options.only.as_deref()) {
            let row = one(options, &rootfs, kernel);
            failed += u32::from(row.failed);
            println!("{HEADER}{}", row.text);
            rows.insert(kernel.kver.clone(), row.text);
            table = in_table(&kernels, &rows, options.keep)?;
        }
        if options.purge {
            cache::remove(&rootfs.dir)?;
        }
    }
    if rows.is_empty() {
        bail!("failed to find a kernel to build for");
    }
    println!("{table}");
    if failed > 0 {
        bail!("failed for {failed} of {} kernels", rows.len());
    }
    Ok(())
}

/// The table of docs/kernels.md with these rows, which it keeps if asked to: a run of hours may be ended by hand.
fn in_table(kernels: &[Kernel], rows: &BTreeMap<String, String>, keep: bool) -> Result<String> {
    let file = checkout::dir().join("docs/kernels.md");
    let doc =
        fs::read_to_string(&file).with_context(|| format!("failed to read {}", file.display()))?;
    let doc = with_rows(&doc, kernels, rows)?;
    if keep {
        fs::write(&file, &doc).with_context(|| format!("failed to write {}", file.display()))?;
    }
    Ok(table_of(&doc)?.to_owned())
}

fn roots<'a>(kernels: &'a [Kernel], only: Option<&'a str>) -> Vec<&'static str> {
    let mut roots: Vec<_> = matching(kernels, only).map(|kernel| kernel.root).collect();
    roots.dedup();
    roots
}

struct Row {
    text: String,
    failed: bool,
}

/// Builds for one kernel, and tests there.
fn one(options: &Options, rootfs: &Rootfs, kernel: &Kernel) -> Row {
    ui::line(format_args!("Linux {} of {}", kernel.kver, kernel.suite));
    let rootfs = rootfs.with_kernel(&kernel.kver);
    let compilers = compilers(&rootfs);
    let (module, has, tests) = match commands::prepare_on(rootfs, None) {
        Err(error) => {
            ui::line(format_args!("error: {error:#}"));
            ("**fails**".to_owned(), String::new(), None)
        }
        Ok(prepared) => {
            let has = prepared.probes();
            let tests = (kernel.boots && !options.build_only)
                .then(|| commands::tests_on(&prepared, &options.vm, options.filter.as_deref()));
            ("builds".to_owned(), has, tests)
        }
    };
    let failed = module != "builds"
        || tests
            .as_ref()
            .is_some_and(|tests| !tests.as_ref().is_ok_and(|t| t.failed == 0 && t.passed > 0));
    let tests = match tests {
        None if kernel.boots => "not run".to_owned(),
        None => "no image of it".to_owned(),
        Some(Err(error)) => {
            ui::line(format_args!("error: {error:#}"));
            "**cannot be run**".to_owned()
        }
        Some(Ok(tally)) => {
            let which = options.filter.as_deref();
            which.map_or_else(|| tally.to_string(), |part| format!("`{part}`: {tally}"))
        }
    };
    Row {
        text: format!(
            "| {} | {} | {compilers} | {has} | {module} | {tests} |\n",
            kernel.suite, kernel.kver
        ),
        failed,
    }
}

/// The compilers that build a module there: the kernel's for C, the suite's for Rust.
fn compilers(rootfs: &Rootfs) -> String {
    let config = rootfs
        .root()
        .join(format!("usr/src/linux-headers-{}/.config", rootfs.kver));
    let config = fs::read_to_string(config).unwrap_or_default();
    let gcc = config
        .lines()
        .find_map(|line| line.strip_prefix("CONFIG_CC_VERSION_TEXT=\""))
        .and_then(|text| text.split([' ', '"']).next())
        .unwrap_or("unknown");
    let status = fs::read_to_string(rootfs.root().join("var/lib/dpkg/status")).unwrap_or_default();
    let rustc = version_of(&status, "rustc").unwrap_or("unknown");
    let rustc = rustc.split('+').next().unwrap_or(rustc);
    format!(
        "{}, rustc {rustc}",
        gcc.trim_start_matches("x86_64-linux-gnu-")
    )
}

/// The version of an installed package.
fn version_of<'a>(status: &'a str, package: &str) -> Option<&'a str> {
    let name = format!("Package: {package}");
    let mut stanzas = status.split("\n\n");
    let stanza = stanzas.find(|stanza| stanza.lines().any(|line| line == name))?;
    stanza
        .lines()
        .find_map(|line| line.strip_prefix("Version: "))
}

/// What the probes found, in the words of kmod/probes.c: the names with 1.
pub fn probes(src: &Path) -> String {
    let header: PathBuf = src.join("kmod/api.h");
    let header = fs::read_to_string(header).unwrap_or_default();
    let found = header.lines().filter_map(|line| {
        line.strip_prefix("#define TS_HAVE_")?
            .strip_suffix(" 1")
            .map(str::to_lowercase)
    });
    found.collect::<Vec<_>>().join(", ")
}

/// The document with these rows in its table, in the order of the kernels. Rows of kernels that are no longer offered stay, last.
fn with_rows(doc: &str, kernels: &[Kernel], rows: &BTreeMap<String, String>) -> Result<String> {
    let (before, table, after) = parts(doc)?;
    let mut all: BTreeMap<&str, &str> = table
        .split_inclusive('\n')
        .skip(2)
        .filter_map(|row| Some((row.split(" | ").nth(1)?, row)))
        .collect();
    all.extend(rows.iter().map(|(kver, row)| (kver.as_str(), row.as_str())));
    let mut new = String::from(HEADER);
    for kernel in kernels {
        new += all.remove(kernel.kver.as_str()).unwrap_or_default();
    }
    all.values().for_each(|row| new += row);
    Ok(format!("{before}{new}{after}"))
}

fn table_of(doc: &str) -> Result<&str> {
    parts(doc).map(|(_, table, _)| table)
}

fn parts(doc: &str) -> Result<(&str, &str, &str)> {
    let place = "failed to find the place of the table in docs/kernels.md";
    let begin = doc.find(TABLE_BEGINS).context(place)? + TABLE_BEGINS.len();
    let rest = doc.get(begin..).context(place)?;
    let end = rest.find(TABLE_ENDS).context(place)?;
    let (table, after) = rest.split_at(end);
    Ok((doc.get(..begin).context(place)?, table, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(kver: &str, suite: &'static str, root: &'static str) -> Kernel {
        Kernel {
            kver: kver.to_owned(),
            suite,
            root,
            boots: true,
        }
    }

    #[test]
    fn rows_are_put_in_their_places_and_others_stay() -> Result<()> {
        let kernels = [kernel("7.2", "sid", "sid"), kernel("7.3", "sid", "sid")];
        let doc = format!(
            "text\n{TABLE_BEGINS}{HEADER}| x | 7.0 | gone |\n| sid | 7.3 | old |\n{TABLE_ENDS}\nmore\n"
        );
        let rows = BTreeMap::from([
            ("7.2".to_owned(), "| sid | 7.2 | new |\n".to_owned()),
            ("7.3".to_owned(), "| sid | 7.3 | new |\n".to_owned()),
        ]);
        let doc = with_rows(&doc, &kernels, &rows)?;
        assert_eq!(
            doc,
            format!(
                "text\n{TABLE_BEGINS}{HEADER}| sid | 7.2 | new |\n| sid | 7.3 | new |\n| x | 7.0 | gone |\n{TABLE_ENDS}\nmore\n"
            )
        );
        assert!(with_rows("no table", &kernels, &rows).is_err());
        Ok(())
    }

    #[test]
    fn document_has_a_place_for_the_table() -> Result<()> {
        let doc = fs::read_to_string(checkout::dir().join("docs/kernels.md"))?;
        assert!(table_of(&doc)?.starts_with(HEADER));
        Ok(())
    }

    #[test]
    fn second_list_of_a_root_is_the_one_it_does_not_have() {
        let kernels = [
            kernel("7.2", "sid", "sid"),
            kernel("7.3", "experimental", "sid"),
            kernel("7.1", "forky", "forky"),
        ];
        let here = of_root(&kernels, "sid");
        assert_eq!(here.last().map(|kernel| kernel.suite), Some("experimental"));
        assert_eq!(here.len(), 2);
        assert_eq!(roots(&kernels, None), ["sid", "forky"]);
        assert_eq!(roots(&kernels, Some("forky")), ["forky"]);
    }

    #[test]
    fn one_kernel_is_chosen() {
        let mut kernels = [
            "7.2.12+deb14-amd64",
            "7.2.12+deb14-cloud-amd64",
            "7.2.12+deb14-rt-amd64",
            "7.3-amd64",
            "7.3-rt-amd64",
            "7.4-amd64",
        ]
        .map(|kver| kernel(kver, "sid", "sid"));
        kernels[5].boots = false;
        let chosen = |part| choose(&kernels, part).map(|kernel| kernel.kver.as_str());
        let is = |part, kver| assert_eq!(chosen(part).ok(), kver, "{part}");
        is("7.2.12+deb14-amd64", Some("7.2.12+deb14-amd64"));
        is("7.2.12+deb14-rt", Some("7.2.12+deb14-rt-amd64"));
        is("7.2", Some("7.2.12+deb14-cloud-amd64"));
        is("7.3-r", Some("7.3-rt-amd64"));
        for none in ["7.3", "7.4", "7.4-amd64", "8"] {
            is(none, None);
        }
        let error = chosen("7.3").map_err(|error| error.to_string());
        assert!(error.is_err_and(|text| text.ends_with("2 of them: 7.3-amd64, 7.3-rt-amd64")));
    }

    #[test]
    fn version_is_that_of_the_very_package() {
        let status =
            "Package: rustc-x\nVersion: 1\n\nPackage: rustc\nStatus: ok\nVersion: 1.85.1+dfsg1-1\n";
        assert_eq!(version_of(status, "rustc"), Some("1.85.1+dfsg1-1"));
        assert_eq!(version_of(status, "gcc"), None);
    }
}
