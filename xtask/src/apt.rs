// SPDX-License-Identifier: GPL-2.0-only
//! The machine's apt configuration: which Debian mirror it uses, and through which proxy.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::sys;

/// The Debian archive this machine installs from, if its apt configuration names one.
pub fn mirror() -> Option<String> {
    source_files(Path::new("/etc/apt"))
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .find_map(|text| debian_uri(&text).and_then(|uri| resolve(&uri)))
}

/// apt options that say how to reach the mirror (proxy, certificates).
pub fn options() -> Vec<String> {
    let dump = sys::output(Command::new("apt-config").arg("dump")).unwrap_or_default();
    transport_options(&dump)
}

fn source_files(etc: &Path) -> Vec<PathBuf> {
    let mut files = vec![etc.join("sources.list")];
    if let Ok(entries) = fs::read_dir(etc.join("sources.list.d")) {
        let mut more: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        more.retain(|path| {
            path.extension()
                .is_some_and(|e| e == "list" || e == "sources")
        });
        more.sort();
        files.extend(more);
    }
    files
}

/// A `mirror+file:` URI names a file with one mirror per line: takes the first.
fn resolve(uri: &str) -> Option<String> {
    let Some(path) = uri.strip_prefix("mirror+file:") else {
        return Some(uri.to_owned());
    };
    let text = fs::read_to_string(path).ok()?;
    let first = text
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with('#'))?;
    first.split_whitespace().next().map(str::to_owned)
}

/// The first URI in a sources file (either format) that looks like the main Debian archive.
fn debian_uri(text: &str) -> Option<String> {
    one_line_uris(text)
        .chain(deb822_uris(text))
        .find(|uri| is_debian_archive(uri))
}

fn is_debian_archive(uri: &str) -> bool {
    let known = ["http://", "https://", "mirror+file:"]
        .iter()
        .any(|scheme| uri.starts_with(scheme));
    let path = uri.trim_end_matches('/');
    known && (path.ends_with("/debian") || path.ends_with("/debian.list"))
}

/// `deb [options] URI suite component...`
fn one_line_uris(text: &str) -> impl Iterator<Item = String> {
    text.lines().filter_map(|line| {
        let rest = line.trim().strip_prefix("deb ")?.trim_start();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']')?.1,
            None => rest,
        };
        rest.split_whitespace().next().map(str::to_owned)
    })
}

/// Stanzas of `Field: value` lines; values may go on in indented lines.
fn deb822_uris(text: &str) -> impl Iterator<Item = String> {
    text.split("\n\n").flat_map(|stanza| {
        let enabled = !field(stanza, "Enabled").eq_ignore_ascii_case("no");
        let binary = field(stanza, "Types")
            .split_whitespace()
            .any(|word| word == "deb");
        let uris = if enabled && binary {
            field(stanza, "URIs")
        } else {
            String::new()
        };
        uris.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    })
}

fn field(stanza: &str, name: &str) -> String {
    let mut value = String::new();
    let mut inside = false;
    for line in stanza.lines().filter(|line| !line.starts_with('#')) {
        if line.starts_with([' ', '\t']) {
            if inside {
                value.push_str(line);
            }
            continue;
        }
        let Some((key, rest)) = line.split_once(':') else {
            continue;
        };
        inside = key.eq_ignore_ascii_case(name);
        if inside {
            value.push_str(rest);
        }
    }
    value.trim().to_owned()
}

/// Keeps the lines of `apt-config dump` about http and https.
fn transport_options(dump: &str) -> Vec<String> {
    let wanted = ["Acquire::http::", "Acquire::https::", "Acquire::Retries "];
    dump.lines()
        .filter(|line| wanted.iter().any(|prefix| line.starts_with(prefix)))
        .filter(|line| !line.ends_with("\"\";"))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deb822_main_archive_is_found() {
        let text = "Types: deb\nURIs: https://other.example/node\nSuites: x\n\n\
            Types: deb\n# URIs: http://old.example/debian\nURIs: http://mirror.example/debian/\n\
            Suites: bookworm bookworm-updates\nComponents: main\n";
        assert_eq!(
            debian_uri(text).as_deref(),
            Some("http://mirror.example/debian/")
        );
    }

    #[test]
    fn deb822_disabled_or_source_only_is_passed_over() {
        let off = "Enabled: no\nTypes: deb\nURIs: http://mirror.example/debian\n";
        let source = "Types: deb-src\nURIs: http://mirror.example/debian\n";
        assert_eq!(debian_uri(off), None);
        assert_eq!(debian_uri(source), None);
    }

    #[test]
    fn deb822_value_may_go_on_in_the_next_line() {
        let text =
            "Types: deb\nURIs:\n http://one.example/x\n http://two.example/debian\nSuites: a\n";
        assert_eq!(
            debian_uri(text).as_deref(),
            Some("http://two.example/debian")
        );
    }

    #[test]
    fn one_line_format_with_options_and_comments() {
        let text = "# deb http://no.example/debian x main\n\
            deb-src http://no.example/debian x main\n\
            deb http://security.example/debian-security x main\n\
            deb [arch=amd64 signed-by=/k.gpg] https://yes.example/debian bookworm main\n";
        assert_eq!(
            debian_uri(text).as_deref(),
            Some("https://yes.example/debian")
        );
    }

    #[test]
    fn local_and_foreign_archives_are_passed_over() {
        assert_eq!(debian_uri("deb cdrom:[Debian]/debian x main\n"), None);
        assert_eq!(debian_uri("deb file:/srv/debian x main\n"), None);
        assert_eq!(
            debian_uri("deb http://archive.example/ubuntu noble main\n"),
            None
        );
    }

    #[test]
    fn transport_options_are_kept() {
        let dump = "APT \"\";\nAcquire::http::Proxy \"http://p.example:3142\";\nAcquire::https::CaInfo \"\";\n";
        assert_eq!(
            transport_options(dump),
            ["Acquire::http::Proxy \"http://p.example:3142\";"]
        );
    }
}
