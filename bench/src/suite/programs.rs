// SPDX-License-Identifier: GPL-2.0-only
//! Real programs: which are there, their servers, and one measurement of each.

mod answers;
mod memcached;
mod nginx;
mod postgres;
mod redis;

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::cell::Program;
use super::results::{Figures, Times};
use super::team::Team;
use super::usage::Usage;
use super::way::Way;
use crate::place::Stage;

pub use answers::check;

/// Where programs are that are not in PATH everywhere; `*` is the newest version.
const ELSEWHERE: [&str; 2] = ["/usr/sbin", "/usr/lib/postgresql/*/bin"];

impl Program {
    /// The programs that it takes.
    fn needs(self) -> &'static [&'static str] {
        match self {
            Self::Redis => &["redis-server", "redis-benchmark"],
            Self::Nginx | Self::NginxProxy => &["nginx", "wrk"],
            Self::Postgres => &["initdb", "postgres", "pgbench", "psql"],
            Self::Memcached => &["memcached"],
            Self::EpollEcho | Self::SpliceProxy => &[],
        }
    }

    /// The first that is not installed.
    pub fn missing(self) -> Option<&'static str> {
        let mut needs = self.needs().iter();
        needs.find(|name| find(name).is_none()).copied()
    }

    /// The port whose connections are offered; none for all.
    pub fn port(self) -> Option<u16> {
        (self == Self::NginxProxy).then_some(nginx::ORIGIN)
    }
}

/// Where a program is.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let elsewhere = ELSEWHERE.iter().filter_map(|dir| newest(dir));
    env::split_paths(&path)
        .chain(elsewhere)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// The same, as a word of a command.
fn found(name: &str) -> Result<String> {
    let path = find(name).with_context(|| format!("failed to find {name}"))?;
    Ok(path.display().to_string())
}

fn newest(dir: &str) -> Option<PathBuf> {
    let Some((head, tail)) = dir.split_once("*/") else {
        return Some(PathBuf::from(dir));
    };
    let version = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
    let versions = fs::read_dir(head).ok()?.flatten().filter_map(version);
    Some(Path::new(head).join(versions.max()?.to_string()).join(tail))
}

/// Files of the servers, removed in the end.
#[derive(Debug)]
pub struct Files(TempDir);

impl Files {
    /// An empty directory that servers may enter, whoever they run as.
    pub fn new() -> Result<Self> {
        let dir = TempDir::with_prefix("tcp-splice-bench-").context("failed to make files")?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        Ok(Self(dir))
    }

    /// A directory in it, made if need be.
    fn dir(&self, name: &str) -> Result<PathBuf> {
        let path = self.0.path().join(name);
        fs::create_dir_all(&path).with_context(|| format!("failed to make {}", path.display()))?;
        Ok(path)
    }

    /// Where a server's socket of the file system is, or will be; any user may make it.
    fn socket(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir("sockets")?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o1777))?;
        Ok(dir.join(name))
    }
}

/// Starts what `program` needs at a place.
pub fn serve(program: Program, stage: &mut Stage, files: &Files) -> Result<()> {
    match program {
        Program::Redis => redis::serve(stage, files),
        Program::Nginx => nginx::serve_origin(stage, files),
        Program::Postgres => postgres::serve(stage, files),
        Program::Memcached => memcached::serve(stage, files),
        // They start with each measurement; the proxy's origin is nginx's.
        Program::NginxProxy | Program::EpollEcho | Program::SpliceProxy => Ok(()),
    }
}

/// What is known before a measurement.
#[derive(Debug)]
pub struct Asked<'a> {
    /// The servers' place.
    pub stage: &'a Stage,
    /// The servers' files.
    pub files: &'a Files,
    /// How the bytes travel; this is what has to be said of [`Way::Unix`] alone.
    pub way: Way,
    /// Connections.
    pub clients: usize,
    /// The rate that the same gave before.
    pub known: Option<f64>,
    /// How long programs of this one's own are to work.
    pub length: Duration,
}

impl Asked<'_> {
    fn is_unix(&self) -> bool {
        self.way == Way::Unix
    }
}

/// Measures a program; what it gives has the least number of bytes that the connections have carried.
pub fn measure(program: Program, asked: &Asked, usage: &Usage) -> Result<Figures> {
    let (stage, clients) = (asked.stage, asked.clients);
    let own = |team: Result<Team>| team?.measure(usage, asked.length);
    match program {
        Program::EpollEcho if asked.is_unix() => {
            own(Team::of_epoll_at(&asked.files.socket("echo")?, clients))
        }
        Program::EpollEcho => own(Team::of_epoll(stage, clients)),
        Program::SpliceProxy => own(Team::of_proxy(stage)),
        Program::Memcached => own(memcached::team(asked)),
        Program::Redis => foreign(usage, || redis::ask(asked)),
        Program::Nginx => foreign(usage, || nginx::ask(asked, nginx::ORIGIN)),
        Program::NginxProxy => {
            // It would keep its connections, which are what the policy of their time made of them.
            let _proxy = nginx::start_proxy(stage, asked.files)?;
            foreign(usage, || nginx::ask(asked, nginx::PROXY))
        }
        Program::Postgres => foreign(usage, || postgres::ask(asked)),
    }
}

/// What a client that is not ours has told.
#[derive(Debug)]
struct Told {
    /// in a second
    rate: f64,
    requests: u64,
    /// that they had at least, with their answers
    bytes: u64,
    times: Option<Times>,
}

/// Runs a client to its end; its start counts as processor time, too.
fn foreign(usage: &Usage, ask: impl FnOnce() -> Result<Told>) -> Result<Figures> {
    let before = usage.seconds()?;
    let told = ask()?;
    Ok(Figures {
        rate: told.rate,
        operations: told.requests,
        bytes: told.bytes,
        carried: told.bytes,
        cpu_seconds: usage.seconds()? - before,
        times: told.times,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_missing() {
        assert!(find("sh").is_some());
        assert_eq!(find("tcp-splice-no-such-program"), None);
        assert_eq!(Program::EpollEcho.missing(), None);
    }

    #[test]
    fn the_newest_version_is_a_number() {
        assert_eq!(newest("/usr/sbin"), Some(PathBuf::from("/usr/sbin")));
        let dir = TempDir::new().unwrap();
        for version in ["9", "17", "old"] {
            fs::create_dir_all(dir.path().join(version).join("bin")).unwrap();
        }
        let pattern = format!("{}/*/bin", dir.path().display());
        assert_eq!(newest(&pattern), Some(dir.path().join("17/bin")));
    }
}
