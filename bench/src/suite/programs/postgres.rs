// SPDX-License-Identifier: GPL-2.0-only
//! PostgreSQL, and pgbench that asks for single rows.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nix::unistd::{User, chown};
use tcp_splice_world::program::run;

use super::{Asked, Files, Told, found};
use crate::place::Stage;
use crate::suite::way::Way;

const PORT: &str = "18432";
/// Bytes that a request and its answer have at least.
const BYTES: u64 = 60;
/// It refuses to run as root.
const USER: &str = "postgres";

/// Settings of a server that keeps nothing and may be reached by anybody who gets there.
const SETTINGS: [&str; 5] = [
    "fsync=off",
    "autovacuum=off",
    "max_wal_size=64MB",
    "shared_buffers=64MB",
    "listen_addresses=*",
];

/// Makes a database and starts its server on CPU 0.
pub fn serve(stage: &mut Stage, files: &Files) -> Result<()> {
    let data = files.dir(&directory(stage))?;
    make(&data)?;
    let (data, server) = (data.display().to_string(), found("postgres")?);
    let mut argv = as_user();
    argv.extend([&server, "-D", &data, "-p", PORT, "-k", &data]);
    for setting in &SETTINGS {
        argv.extend(["-c", setting]);
    }
    stage.serve("0", PORT, &argv)?;
    fill(stage)
}

fn directory(stage: &Stage) -> String {
    format!("postgres-{}", stage.place.name())
}

/// Processes of the server's user.
fn as_user() -> Vec<&'static str> {
    let user = [
        "setpriv",
        "--reuid",
        USER,
        "--regid",
        USER,
        "--clear-groups",
    ];
    user.to_vec()
}

fn make(data: &Path) -> Result<()> {
    let user = User::from_name(USER)?.with_context(|| format!("there is no user {USER}"))?;
    chown(data, Some(user.uid), Some(user.gid)).context("failed to give a directory away")?;
    let (initdb, dir) = (found("initdb")?, data.display().to_string());
    let mut argv = as_user();
    argv.extend([&initdb, "-D", &dir, "-A", "trust", "-N", "--locale", "C"]);
    run(&argv)?;
    let anybody = "local all all trust\nhost all all all trust\n";
    let file = data.join("pg_hba.conf");
    fs::write(&file, anybody).with_context(|| format!("failed to write {}", file.display()))
}

fn fill(stage: &Stage) -> Result<()> {
    let pgbench = found("pgbench")?;
    let argv = [&pgbench, "-h", &stage.host, "-p", PORT, "-U", USER];
    let argv = [&argv[..], &["-i", "-q", USER]].concat();
    stage.client(&argv).map(drop)
}

/// Rows of 320 letters that it makes itself.
pub fn answers(stage: &Stage, files: &Files, way: Way) -> Result<Vec<u8>> {
    const ROWS: usize = 200;
    let query = format!("select repeat(md5(i::text), 10) from generate_series(1, {ROWS}) i");
    let (psql, host) = (found("psql")?, host(stage, files, way)?);
    let to = ["-h", &host, "-p", PORT, "-U", USER];
    let argv = [&[&psql[..]][..], &to, &["-X", "-A", "-t", "-c", &query]].concat();
    let text = stage.client(&argv)?;
    let rows = text.lines().filter(|line| line.len() == 320).count();
    ensure!(rows == ROWS, "{rows} of {ROWS} rows");
    Ok(text.into_bytes())
}

/// The server as libpq finds it; its socket is in its directory.
fn host(stage: &Stage, files: &Files, way: Way) -> Result<String> {
    Ok(match way {
        Way::Unix => files.dir(&directory(stage))?.display().to_string(),
        _ => stage.host.clone(),
    })
}

/// Requests where no rate is known yet.
const FIRST: f64 = 300.0;
/// Requests of a client, at least. By time there may be none at all: making the connections takes longer than they do.
const LEAST: f64 = 25.0;

/// Asks for about a second.
pub fn ask(asked: &Asked) -> Result<Told> {
    let each = asked.known.unwrap_or(FIRST) / asked.clients as f64;
    let (clients, each) = (
        asked.clients.to_string(),
        each.max(LEAST).round().to_string(),
    );
    let pgbench = found("pgbench")?;
    let host = host(asked.stage, asked.files, asked.way)?;
    let to = ["-h", &host, "-p", PORT, "-U", USER];
    let load = [
        "-n", "-S", "-M", "prepared", "-c", &clients, "-t", &each, USER,
    ];
    let argv = [&["taskset", "-c", "1", &pgbench][..], &to, &load].concat();
    let text = asked.stage.client(&argv)?;
    understood(&text).with_context(|| format!("failed to understand pgbench: {text:?}"))
}

fn understood(text: &str) -> Result<Told> {
    let after = |prefix: &str| -> Result<f64> {
        let found = text.lines().find_map(|line| line.strip_prefix(prefix));
        let word = found.and_then(|rest| rest.split([' ', '/']).next());
        let word = word.with_context(|| format!("no line begins with {prefix:?}"))?;
        Ok(word.parse()?)
    };
    // It may say how many of how many.
    let count = after("number of transactions actually processed: ");
    let requests = count? as u64;
    Ok(Told {
        rate: after("tps = ")?,
        requests,
        bytes: requests * BYTES,
        times: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn understands_pgbench() {
        let text = "number of transactions actually processed: 120/120\nnumber of failed transactions: 0 (0.000%)\n\
            latency average = 0.8 ms\ntps = 118.5 (without initial connection time)\n";
        let told = understood(text).unwrap();
        assert_eq!((told.rate, told.requests), (118.5, 120));
        assert!(understood("tps = x\n").is_err());
    }
}
