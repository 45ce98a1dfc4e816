// SPDX-License-Identifier: GPL-2.0-only
//! Programs that know nothing of us.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use socket2::Socket;
use tcp_splice_world::pattern::Pattern;
use tcp_splice_world::program::{Daemon, run, succeeds};

use crate::env::{Claim, Env, wait_until};
use crate::scenario::Scenario;

pub const ALL: &[Scenario] = &[
    Scenario::each("redis", redis).limit(120),
    Scenario::each("nginx_and_wrk", nginx_and_wrk).limit(120),
    Scenario::each("iperf3", iperf3).limit(120),
    Scenario::each("netperf", netperf).limit(120),
];

/// So many ports are tried for a server.
const PORTS: u32 = 3;

/// A server program and how to reach it.
struct Service {
    daemon: Daemon,
    host: String,
    port: String,
    address: SocketAddr,
    client_words: Vec<String>,
}

impl Service {
    /// Starts what `argv` makes of a free port and waits until it accepts. A port that was free a moment ago may be taken by then: who says so
    /// gets another one.
    fn start(env: &Env, argv: impl Fn(&str) -> Vec<String>) -> Result<Self> {
        for _ in 1..PORTS {
            match Self::start_once(env, &argv) {
                Err(error) if is_taken(&error) => println!("{error:#}; trying another port"),
                started => return started,
            }
        }
        Self::start_once(env, &argv)
    }

    fn start_once(env: &Env, argv: impl Fn(&str) -> Vec<String>) -> Result<Self> {
        let listener = env.link.listen()?;
        let address = env.link.address(&listener)?;
        drop(listener);
        let port = address.port().to_string();
        let mut words = env.link.server_words();
        words.extend(argv(&port));
        let daemon = Daemon::start(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
        let client_words = env.link.client_words();
        let host = address.ip().to_string();
        let mut service = Self {
            daemon,
            host,
            port,
            address,
            client_words,
        };
        service
            .wait(env)
            .with_context(|| format!("failed to reach {}", words.join(" ")))?;
        Ok(service)
    }

    /// Waits until somebody listens. A connection to try would disturb servers that serve one client only.
    fn wait(&mut self, env: &Env) -> Result<()> {
        let port = format!("sport = :{}", self.port);
        let mut words = env.link.server_words();
        words.extend(owned(&["ss", "-H", "-l", "-t", "-n", &port]));
        let argv: Vec<&str> = words.iter().map(String::as_str).collect();
        wait_until("server to listen", || {
            self.daemon.check()?;
            Ok(!run(&argv)?.trim().is_empty())
        })
    }

    fn connect(&self, env: &Env) -> Result<TcpStream> {
        let socket: Socket = env.link.client_socket()?;
        socket.connect(&self.address.into())?;
        Ok(socket.into())
    }

    /// Runs a program on the client's side.
    fn client(&self, argv: &[&str]) -> Result<String> {
        let mut words: Vec<&str> = self.client_words.iter().map(String::as_str).collect();
        words.extend(argv);
        run(&words)
    }
}

/// `Address already in use`, as all of these programs put it.
fn is_taken(error: &anyhow::Error) -> bool {
    format!("{error:#}")
        .to_lowercase()
        .contains("already in use")
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Over plain TCP a machine without the program is no failure.
fn missing(env: &Env, program: &str) -> bool {
    let missing = !succeeds(&["which", program]);
    missing && !env.spliced()
}

fn redis(env: &Env) -> Result<Claim> {
    if missing(env, "redis-server") {
        return Ok(Claim::untouched());
    }
    let service = Service::start(env, |port| {
        let bind = ["--bind", "*", "-::*", "--protected-mode", "no"];
        let store = ["--save", "", "--appendonly", "no"];
        [
            owned(&["redis-server", "--port", port]),
            owned(&bind),
            owned(&store),
        ]
        .concat()
    })?;
    let to = ["-h", &service.host, "-p", &service.port];
    let cli = |words: &[&str]| service.client(&[&["redis-cli"], &to[..], words].concat());
    let mut volume = 0;
    for length in [1, 1000, 40_000] {
        let value: String = Pattern::new(33)
            .bytes(0, length)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        ensure!(cli(&["SET", "key", &value])?.trim() == "OK", "SET failed");
        ensure!(
            cli(&["GET", "key"])?.trim() == value,
            "GET gave another value"
        );
        volume += 4 * length;
    }
    let load = ["-t", "set,get", "-n", "3000", "-c", "20", "-d", "512", "-q"];
    let text = service.client(&[&["redis-benchmark"], &to[..], &load].concat())?;
    ensure!(
        text.contains("GET") && text.contains("requests per second"),
        "redis-benchmark: {text}"
    );
    let volume = volume + 2 * 3000 * 512;
    Ok(Claim::ring(volume).pairs(40).tcp(volume / 4))
}

/// A directory with files to serve and nginx' configuration.
struct Site(PathBuf);

const FILE: usize = 5 << 20;

/// Bytes of the small one.
const SMALL: usize = 700;

impl Site {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("tcp-splice-site-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        let site = Self(path);
        fs::write(site.0.join("large"), Pattern::new(34).bytes(0, FILE))?;
        fs::write(site.0.join("small"), Pattern::new(34).bytes(0, SMALL))?;
        Ok(site)
    }

    /// Writes the configuration and returns the words that start nginx.
    fn nginx(&self, port: &str) -> Vec<String> {
        let root = self.0.display();
        let text = format!(
            "user root; daemon off; worker_processes 1; pid {root}/pid; error_log stderr;\n\
             events {{}}\n\
             http {{ access_log off; sendfile on; server {{ listen {port}; listen [::]:{port}; root {root}; }} }}\n"
        );
        let file = self.0.join("nginx.conf");
        fs::write(&file, text).expect("temporary directory can be written");
        owned(&["nginx", "-c", &file.display().to_string()])
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// How many requests wrk says that it made: "  1234 requests in 2.00s, 1.50MB read".
fn requests(text: &str) -> Option<usize> {
    let (before, _) = text.split_once(" requests in ")?;
    before.split_whitespace().last()?.parse().ok()
}

fn nginx_and_wrk(env: &Env) -> Result<Claim> {
    if missing(env, "nginx") {
        return Ok(Claim::untouched());
    }
    let site = Site::new()?;
    let service = Service::start(env, |port| site.nginx(port))?;
    let mut client = service.connect(env)?;
    client.write_all(b"GET /large HTTP/1.0\r\n\r\n")?;
    let mut answer = Vec::new();
    client.read_to_end(&mut answer)?;
    let body = answer
        .windows(4)
        .position(|end| end == b"\r\n\r\n")
        .context("no end of headers")?;
    ensure!(
        answer.len() - body - 4 == FILE,
        "the file arrived with {} bytes",
        answer.len() - body - 4
    );
    Pattern::new(34).check(0, &answer[body + 4..])?;
    let host = if env.link.target().is_ipv6() {
        format!("[{}]", service.host)
    } else {
        service.host.clone()
    };
    let url = format!("http://{host}:{}/small", service.port);
    let text = service.client(&["wrk", "-t", "2", "-c", "16", "-d", "2s", &url])?;
    ensure!(!text.contains("Non-2xx"), "wrk saw errors: {text}");
    ensure!(!text.contains("Socket errors"), "wrk saw errors: {text}");
    ensure!(text.contains("Requests/sec"), "wrk: {text}");
    let requests = requests(&text).with_context(|| format!("wrk: {text}"))?;
    let total = FILE + requests * SMALL;
    Ok(Claim::ring(total).pairs(17).tcp(100_000))
}

fn iperf3(env: &Env) -> Result<Claim> {
    if missing(env, "iperf3") {
        return Ok(Claim::untouched());
    }
    const BYTES: u64 = 20_000_000;
    for direction in [&[][..], &["-R"], &["--bidir", "-P", "2"]] {
        // A server for each, since it is not ready for the next client at once.
        let service = Service::start(env, |port| owned(&["iperf3", "-s", "-p", port]))?;
        let count = BYTES.to_string();
        let common = [
            "iperf3",
            "-J",
            "-c",
            &service.host,
            "-p",
            &service.port,
            "-n",
            &count,
        ];
        let text = service.client(&[&common[..], direction].concat())?;
        let json: serde_json::Value =
            serde_json::from_str(&text).context("failed to parse iperf3's report")?;
        // The run ends when one side has counted so many in one direction. What is under way then, which may be as much as a ring or TCP's
        // buffers hold, the other side does not read any more.
        let counted = |side: &str| {
            let directions = ["", "_bidir_reverse"].map(|direction| format!("{side}{direction}"));
            let bytes = directions.map(|sum| json["end"][sum]["bytes"].as_u64());
            bytes.into_iter().flatten().max().unwrap_or(0)
        };
        let (sent, received) = (counted("sum_sent"), counted("sum_received"));
        ensure!(
            sent.max(received) >= BYTES && sent.min(received) > 0,
            "iperf3 {direction:?} sent {sent} bytes and received {received}: {text}"
        );
    }
    let volume = 3 * BYTES as usize;
    Ok(Claim::ring(volume).pairs(6).tcp(volume / 10))
}

fn netperf(env: &Env) -> Result<Claim> {
    if missing(env, "netperf") {
        return Ok(Claim::untouched());
    }
    let family = if env.link.target().is_ipv6() {
        "-6"
    } else {
        "-4"
    };
    let service = Service::start(env, |port| owned(&["netserver", "-D", family, "-p", port]))?;
    let common = [
        "netperf",
        family,
        "-H",
        &service.host,
        "-p",
        &service.port,
        "-P",
        "0",
    ];
    let tests: [&[&str]; 3] = [
        &["-t", "TCP_RR", "-l", "-500", "--", "-r", "1000,1000"],
        &["-t", "TCP_STREAM", "-l", "-5000000", "--", "-m", "16384"],
        &["-t", "TCP_MAERTS", "-l", "-5000000", "--", "-m", "1024"],
    ];
    for test in tests {
        let argv = [&common[..], test, &["-k", "THROUGHPUT"]].concat();
        let text = service.client(&argv)?;
        let figure = text
            .trim()
            .strip_prefix("THROUGHPUT=")
            .context("netperf gave no figure")?;
        ensure!(figure.parse::<f64>()? > 0.0, "netperf measured {figure}");
    }
    Ok(Claim::ring(9_000_000).pairs(6).tcp(1_000_000))
}
