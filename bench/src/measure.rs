// SPDX-License-Identifier: GPL-2.0-only
//! One measurement by netperf or redis-benchmark.

use anyhow::{Context, Result, bail, ensure};
use tcp_splice_world::counters::Counters;

use crate::cell::{Cell, Mode};
use crate::place::{NETPERF_PORT, REDIS_PORT, Stage};

/// How much one measurement does.
#[derive(Clone, Copy, Debug)]
pub enum Amount {
    /// About a second, where no rate is known yet.
    Second,
    /// As much as takes `seconds` at `rate`.
    Sized { rate: f64, seconds: f64 },
}

impl Amount {
    /// In the unit of the rate.
    fn count(self, first: f64) -> f64 {
        match self {
            Self::Second => first,
            Self::Sized { rate, seconds } => rate * seconds,
        }
    }
}

/// What came out.
#[derive(Debug)]
pub struct Outcome {
    /// In the cell's unit.
    pub rate: f64,
    /// What the counters did.
    pub counters: Counters,
}

/// Measures `cell` and proves by the counters that the bytes travelled as `mode` says.
pub fn measure(stage: &Stage, cell: Cell, mode: Mode, amount: Amount) -> Result<Outcome> {
    let before = Counters::read()?;
    let (rate, bytes) = match cell {
        Cell::Rr(size) => request_response(stage, size, amount)?,
        Cell::Stream(size) => stream(stage, size, amount)?,
        Cell::Redis(clients) => redis(stage, clients, amount)?,
    };
    ensure!(
        rate.is_finite() && rate > 0.0,
        "measured {rate} {}",
        cell.unit()
    );
    let counters = Counters::read()?.since(&before);
    prove(mode, bytes, &counters)?;
    Ok(Outcome { rate, counters })
}

/// `bytes` is the least that must have gone through rings.
fn prove(mode: Mode, bytes: f64, counters: &Counters) -> Result<()> {
    let (ring, pairs) = (counters.get("ring_bytes")?, counters.get("pairs_made")?);
    let moved = counters.moved();
    if mode == Mode::Plain {
        ensure!(
            ring == 0 && pairs == 0,
            "the ring was used for plain TCP: {moved:?}"
        );
    } else {
        ensure!(pairs > 0, "no connection was paired: {moved:?}");
        ensure!(
            ring as f64 >= bytes,
            "{ring} of {bytes} bytes went through the ring: {moved:?}"
        );
    }
    Ok(())
}

/// Runs netperf, client on CPU 1 and server on CPU 0; returns the values it was asked for.
fn netperf(stage: &Stage, test: &str, length: &str, options: &[&str]) -> Result<Vec<f64>> {
    let common = [
        "netperf",
        "-4",
        "-H",
        &stage.host,
        "-p",
        NETPERF_PORT,
        "-P",
        "0",
        "-T",
        "1,0",
    ];
    let keys = "THROUGHPUT,ELAPSED_TIME,LOCAL_BYTES_SENT,REMOTE_BYTES_RECVD";
    let test = ["-t", test, "-l", length, "--"];
    let text = stage.client(&[&common[..], &test, options, &["-k", keys]].concat())?;
    parse_netperf(&text, keys).with_context(|| format!("failed to understand netperf: {text:?}"))
}

fn parse_netperf(text: &str, keys: &str) -> Result<Vec<f64>> {
    let value = |key: &str| -> Result<f64> {
        let found = text
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let figure = found.with_context(|| format!("{key} is missing"))?;
        figure
            .trim()
            .parse()
            .with_context(|| format!("{key} is {figure:?}"))
    };
    keys.split(',').map(value).collect()
}

/// netperf takes seconds, or what to do as a negative number.
fn length(amount: Amount, unit: f64) -> String {
    match amount {
        Amount::Second => "1".to_owned(),
        Amount::Sized { .. } => format!("-{:.0}", (amount.count(0.0) * unit).max(100.0)),
    }
}

fn request_response(stage: &Stage, size: u32, amount: Amount) -> Result<(f64, f64)> {
    let sizes = format!("{size},{size}");
    let values = netperf(stage, "TCP_RR", &length(amount, 1.0), &["-r", &sizes])?;
    let &[rate, _, sent, _] = &values[..] else {
        bail!("netperf gave {values:?}")
    };
    Ok((rate, 0.9 * 2.0 * sent))
}

fn stream(stage: &Stage, size: u32, amount: Amount) -> Result<(f64, f64)> {
    let size = size.to_string();
    let values = netperf(stage, "TCP_STREAM", &length(amount, 1e6), &["-m", &size])?;
    let &[_, seconds, sent, received] = &values[..] else {
        bail!("netperf gave {values:?}")
    };
    // netperf's receiver stops counting a little early; whether all bytes arrive was checked before.
    ensure!(
        received >= 0.98 * sent,
        "netperf sent {sent} bytes and received {received}"
    );
    Ok((received / seconds / 1e6, 0.9 * sent))
}

/// Requests of the first measurement, when no rate is known: about a second of an emulated CPU.
const FIRST_REQUESTS: f64 = 3000.0;
/// The same for many clients, whose requests are served in batches.
const FIRST_REQUESTS_MANY: f64 = 12_000.0;
/// Bytes that a GET and its answer have at least.
pub const GET_BYTES: f64 = 30.0;

fn redis(stage: &Stage, clients: u32, amount: Amount) -> Result<(f64, f64)> {
    let to = ["-h", &stage.host, "-p", REDIS_PORT];
    let (requests, text) = redis_benchmark(stage, &to, clients, amount)?;
    let rate = redis_column(&text, REDIS_RATE);
    let rate = rate.with_context(|| format!("failed to understand redis-benchmark: {text:?}"))?;
    Ok((rate, GET_BYTES * requests))
}

/// Runs redis-benchmark against the server that `to` names; returns how many requests it made, and what it said.
pub fn redis_benchmark(
    stage: &Stage,
    to: &[&str],
    clients: u32,
    amount: Amount,
) -> Result<(f64, String)> {
    let first = if clients > 1 {
        FIRST_REQUESTS_MANY
    } else {
        FIRST_REQUESTS
    };
    let requests = amount.count(first).max(500.0).round();
    let (clients, count) = (clients.to_string(), requests.to_string());
    let load = ["-t", "get", "-c", &clients, "-n", &count, "--csv"];
    let argv = [&["taskset", "-c", "1", "redis-benchmark"][..], to, &load].concat();
    Ok((requests, stage.client(&argv)?))
}

/// Column of redis-benchmark's rate, requests in a second.
pub const REDIS_RATE: usize = 1;

/// A column of the line that begins with "GET".
pub fn redis_column(text: &str, column: usize) -> Result<f64> {
    let line = text.lines().find(|line| line.starts_with("\"GET\""));
    let field = line
        .and_then(|line| line.split(',').nth(column))
        .context("no line for GET")?;
    let figure = field.trim_matches('"');
    figure
        .parse()
        .with_context(|| format!("column {column} is {figure:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn understands_netperf() {
        let text = "THROUGHPUT=14712.35\nTHROUGHPUT_UNITS=Trans/s\nELAPSED_TIME=1.00\n";
        let values = parse_netperf(text, "THROUGHPUT,ELAPSED_TIME").unwrap();
        assert_eq!(values, [14712.35, 1.0]);
        assert!(parse_netperf(text, "LOCAL_BYTES_SENT").is_err());
    }

    #[test]
    fn understands_redis_benchmark() {
        let text = "\"test\",\"rps\",\"avg_latency_ms\"\n\"GET\",\"52083.33\",\"0.015\"\n";
        assert_eq!(redis_column(text, REDIS_RATE).unwrap(), 52083.33);
        assert!(redis_column(text, 9).is_err());
        assert!(redis_column("", REDIS_RATE).is_err());
    }

    #[test]
    fn amounts() {
        let amount = Amount::Sized {
            rate: 1000.0,
            seconds: 0.5,
        };
        assert_eq!(length(amount, 1.0), "-500");
        assert_eq!(length(amount, 1e6), "-500000000");
        assert_eq!(length(Amount::Second, 1e6), "1");
    }

    #[test]
    fn proof_can_fail() {
        let counters = |text| Counters::parse(text).unwrap();
        let moved = counters("pairs_made 2\nring_bytes 1000\n");
        let still = counters("pairs_made 0\nring_bytes 0\n");
        assert!(prove(Mode::Spliced, 900.0, &moved).is_ok());
        assert!(prove(Mode::Spliced, 1001.0, &moved).is_err());
        assert!(prove(Mode::Spliced, 900.0, &still).is_err());
        assert!(prove(Mode::Plain, 900.0, &still).is_ok());
        assert!(prove(Mode::Plain, 900.0, &moved).is_err());
    }
}
