// SPDX-License-Identifier: GPL-2.0-only
//! nginx, and wrk that asks it; as an origin, and as a proxy before that.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tcp_splice_world::program::Daemon;

use super::answers::{ANSWERS, connect_to, read_to};
use super::{Asked, Files, Told, found};
use crate::place::Stage;
use crate::suite::results::Times;
use crate::suite::team::FOR_P999;
use crate::suite::way::Way;

/// Port of the one that has the file.
pub const ORIGIN: u16 = 18_080;
/// Port of the one before it.
pub const PROXY: u16 = 18_081;

/// The file that is asked for.
const FILE: &str = "file";
/// Its bytes.
const SIZE: usize = 1024;

/// Has wrk print one line that can be understood.
const REPORT: &str = r#"
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "micros": %d, "errors": %d, "p50": %f, "p99": %f, "p999": %f}\n',
    summary.requests, summary.duration, errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
"#;

/// Starts the origin on CPU 0.
pub fn serve_origin(stage: &mut Stage, files: &Files) -> Result<()> {
    let dir = files.dir(&format!("nginx-{}", stage.place.name()))?;
    write(&dir.join(FILE), &"x".repeat(SIZE))?;
    let location = format!("root {};", dir.display());
    let argv = command(&dir, &config("", ORIGIN, &location))?;
    stage.serve(
        "0",
        &ORIGIN.to_string(),
        &argv.each_ref().map(String::as_str),
    )
}

/// Starts the proxy on CPU 1, where wrk is, so that what goes to the origin goes to another CPU.
pub fn start_proxy(stage: &Stage, files: &Files) -> Result<Daemon> {
    let dir = files.dir(&format!("nginx-proxy-{}", stage.place.name()))?;
    let upstream = format!(
        "upstream origin {{ server {}:{ORIGIN}; keepalive 64; keepalive_requests 100000000; }}",
        stage.host
    );
    let location =
        "proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection \"\";";
    let argv = command(&dir, &config(&upstream, PROXY, location))?;
    stage.start(
        "1",
        &PROXY.to_string(),
        &argv.each_ref().map(String::as_str),
    )
}

fn config(upstream: &str, port: u16, location: &str) -> String {
    format!(
        "worker_processes 1;\npid nginx.pid;\nerror_log stderr;\ndaemon off;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n  access_log off;\n  keepalive_requests 100000000;\n  {upstream}\n  \
         server {{ listen {port} backlog=1024; location / {{ {location} }} }}\n}}\n"
    )
}

/// The command for a configuration, which is written.
fn command(dir: &Path, config: &str) -> Result<[String; 5]> {
    let file = dir.join("nginx.conf");
    write(&file, config)?;
    let path = |path: &Path| path.display().to_string();
    let [prefix, config] = ["-p", "-c"].map(str::to_owned);
    Ok([found("nginx")?, prefix, path(dir), config, path(&file)])
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))
}

/// The file, several times over one connection.
pub fn answers(stage: &Stage, _: &Files, _: Way) -> Result<Vec<u8>> {
    let mut end = connect_to(stage, ORIGIN)?;
    let request = format!("GET /{FILE} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let (mut all, mut body) = (Vec::new(), [0; SIZE]);
    for _ in 0..ANSWERS {
        end.send(request.as_bytes())?;
        let head = read_to(&mut end, b"\r\n\r\n")?;
        ensure!(head.starts_with(b"HTTP/1.1 200 "), "it has no file");
        ensure!(end.receive(&mut body)?, "it has gone");
        ensure!(body == [b'x'; SIZE], "another file");
        all.extend(body);
    }
    Ok(all)
}

/// What [`REPORT`] prints.
#[derive(Debug, Deserialize)]
struct Report {
    requests: u64,
    micros: u64,
    errors: u64,
    p50: f64,
    p99: f64,
    p999: f64,
}

/// Asks for the file for a second.
pub fn ask(asked: &Asked, port: u16) -> Result<Told> {
    let url = format!("http://{}:{port}/{FILE}", asked.stage.host);
    let connections = asked.clients.to_string();
    let wrk = found("wrk")?;
    let script = asked.files.dir("wrk")?.join("report.lua");
    write(&script, REPORT)?;
    let script = script.display().to_string();
    let text = asked.stage.client(&[
        "taskset",
        "-c",
        "1",
        &wrk,
        "-t",
        "1",
        "-c",
        &connections,
        "-d",
        "1s",
        "-s",
        &script,
        &url,
    ])?;
    understood(&text).with_context(|| format!("failed to understand wrk: {text:?}"))
}

fn understood(text: &str) -> Result<Told> {
    let line = text.lines().find(|line| line.starts_with('{'));
    let report: Report = serde_json::from_str(line.context("no report")?)?;
    ensure!(
        report.errors == 0,
        "{} of {} requests failed",
        report.errors,
        report.requests
    );
    Ok(Told {
        rate: report.requests as f64 / (report.micros as f64 / 1e6),
        requests: report.requests,
        bytes: report.requests * SIZE as u64,
        times: Some(Times {
            p50: report.p50,
            p99: report.p99,
            // Of fewer, it would be the slowest one.
            p999: (report.requests >= FOR_P999).then_some(report.p999),
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn understands_wrk() {
        let line = r#"{"requests": 1500, "micros": 6000000, "errors": 0, "p50": 10.0, "p99": 20.0, "p999": 30.0}"#;
        let told = understood(&format!("Running 1s test\n{line}\n")).unwrap();
        assert_eq!((told.rate, told.bytes), (250.0, 1_536_000));
        assert_eq!(told.times.unwrap().p999, Some(30.0));
        let few = understood(&line.replace("1500", "500")).unwrap();
        assert_eq!(few.times.unwrap().p999, None);
        assert!(understood(&line.replace("\"errors\": 0", "\"errors\": 1")).is_err());
        assert!(understood("Running 1s test\n").is_err());
    }
}
