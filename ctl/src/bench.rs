// SPDX-License-Identifier: GPL-2.0-only
//! Handing over to the program that measures.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Error, Result, anyhow};

/// The program: beside this tool where `make install` puts both, else in PATH.
const PROGRAM: &str = "tcp-splice-bench";

/// Becomes the benchmark, with its own options; comes back only if that fails. The benchmark finds this tool first of all by its name.
pub fn become_it(options: &[OsString]) -> Result<()> {
    let tool = env::current_exe().context("failed to find this tool's own file")?;
    let dir = tool.parent().unwrap_or(Path::new("/"));
    let mut command = Command::new(program(dir));
    command.arg("suite").args(options);
    if let Some(path) = path_with(dir, &env::var_os("PATH").unwrap_or_default()) {
        command.env("PATH", path);
    }
    Err(failure(command.exec()))
}

fn program(dir: &Path) -> PathBuf {
    let beside = dir.join(PROGRAM);
    if beside.is_file() {
        beside
    } else {
        PathBuf::from(PROGRAM)
    }
}

/// None if the directory's name cannot stand in PATH.
fn path_with(dir: &Path, path: &OsStr) -> Option<OsString> {
    let dirs = [dir.to_owned()].into_iter().chain(env::split_paths(path));
    env::join_paths(dirs).ok()
}

fn failure(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => anyhow!(
            "failed to find {PROGRAM} beside this tool or in PATH: build it with make, and install it with make install"
        ),
        _ => Error::new(error).context(format!("failed to run {PROGRAM}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_beside_the_tool_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert_eq!(program(dir), Path::new(PROGRAM));
        std::fs::write(dir.join(PROGRAM), "").unwrap();
        assert_eq!(program(dir), dir.join(PROGRAM));
    }

    #[test]
    fn the_tool_is_found_by_name() {
        let path = path_with(Path::new("/a"), OsStr::new("/b:/c"));
        assert_eq!(path.as_deref(), Some(OsStr::new("/a:/b:/c")));
    }

    #[test]
    fn what_is_not_there_is_said_to_come_from_make() {
        let missing = failure(io::Error::from(io::ErrorKind::NotFound));
        assert!(missing.to_string().contains("make install"));
        let denied = failure(io::Error::from(io::ErrorKind::PermissionDenied));
        assert!(!denied.to_string().contains("make install"));
    }
}
