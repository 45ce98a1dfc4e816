// SPDX-License-Identifier: GPL-2.0-only
//! Where a measurement runs, and the servers that wait there.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use tcp_splice_world::netns::{Names, SERVER_V4};
use tcp_splice_world::program::{Daemon, run};

/// Port of netserver's control connections.
pub const NETPERF_PORT: &str = "12865";
/// Port of redis-server.
pub const REDIS_PORT: &str = "16379";

/// The two places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// 127.0.0.1.
    Loopback,
    /// Two network namespaces joined by veth devices and a bridge.
    Netns,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loopback => "loopback",
            Self::Netns => "between namespaces (veth and bridge)",
        })
    }
}

impl Place {
    /// Both places, in the order of the report.
    pub const ALL: [Self; 2] = [Self::Loopback, Self::Netns];

    /// The name it has on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Netns => "netns",
        }
    }
}

/// A place with its servers running.
#[derive(Debug)]
pub struct Stage {
    /// Which place.
    pub place: Place,
    /// The servers' address.
    pub host: String,
    /// The namespaces, where there are any.
    pub names: Option<Names>,
    servers: Vec<Daemon>,
}

impl Stage {
    /// The servers' address, with a port.
    pub fn address(&self, port: u16) -> Result<SocketAddr> {
        let host: IpAddr = self
            .host
            .parse()
            .with_context(|| format!("failed to parse the server's address {:?}", self.host))?;
        Ok(SocketAddr::new(host, port))
    }

    /// A place without servers.
    pub fn new(place: Place, names: &Names) -> Self {
        let names = (place == Place::Netns).then(|| names.clone());
        let host = match place {
            Place::Loopback => "127.0.0.1".to_owned(),
            Place::Netns => SERVER_V4.to_string(),
        };
        Self {
            place,
            host,
            names,
            servers: Vec::new(),
        }
    }

    /// The place with the servers of a demo, on CPU 0; clients run on CPU 1.
    pub fn set_up(place: Place, names: &Names) -> Result<Self> {
        let mut stage = Self::new(place, names);
        let netserver = ["netserver", "-D", "-4", "-p", NETPERF_PORT];
        stage.serve("0", NETPERF_PORT, &netserver)?;
        stage.serve_redis(&[])?;
        Ok(stage)
    }

    /// Starts redis on CPU 0, with more options.
    pub fn serve_redis(&mut self, more: &[&str]) -> Result<()> {
        let store = ["--save", "", "--appendonly", "no", "--protected-mode", "no"];
        let redis = [
            &["redis-server", "--port", REDIS_PORT, "--bind", "*"][..],
            &store,
            more,
        ]
        .concat();
        self.serve("0", REDIS_PORT, &redis)
    }

    /// Starts a server on one CPU and waits until it listens; it ends with the stage.
    pub fn serve(&mut self, cpu: &str, port: &str, argv: &[&str]) -> Result<()> {
        let server = self.start(cpu, port, argv)?;
        self.servers.push(server);
        Ok(())
    }

    /// The same for a server that ends when the caller is through with it.
    pub fn start(&self, cpu: &str, port: &str, argv: &[&str]) -> Result<Daemon> {
        let pinned = [&["taskset", "-c", cpu], argv].concat();
        let words = words(&self.names, Side::Server, &pinned);
        let server = Daemon::start(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
        self.wait_for(port)
            .with_context(|| format!("failed to start {}", argv[0]))?;
        Ok(server)
    }

    /// Starts a server on one CPU that listens at a file alone, and waits until it does; it ends with the stage.
    pub fn serve_at(&mut self, cpu: &str, file: &Path, argv: &[&str]) -> Result<()> {
        let pinned = [&["taskset", "-c", cpu], argv].concat();
        self.servers.push(Daemon::start(&pinned)?);
        let deadline = Instant::now() + Duration::from_secs(30);
        while UnixStream::connect(file).is_err() {
            let name = file.display();
            ensure!(
                Instant::now() < deadline,
                "failed to start {}: nobody listens at {name}",
                argv[0]
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn wait_for(&self, port: &str) -> Result<()> {
        wait_for(&self.names, port)
            .with_context(|| format!("failed to start a server at {}", self.place.name()))
    }

    /// Runs a client program to its end and returns what it printed. No measurement takes half a minute.
    pub fn client(&self, argv: &[&str]) -> Result<String> {
        let mut all = vec!["timeout", "30"];
        all.extend(argv);
        let argv = words(&self.names, Side::Client, &all);
        run(&argv.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

/// Waits until somebody listens on `port`.
pub fn wait_for(names: &Option<Names>, port: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    let filter = format!("sport = :{port}");
    let argv = words(names, Side::Server, &["ss", "-Hltn", &filter]);
    while run(&argv.iter().map(String::as_str).collect::<Vec<_>>())?.is_empty() {
        ensure!(Instant::now() < deadline, "nobody listens on port {port}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Side {
    Client,
    Server,
}

/// `argv`, inside the namespace of one side where there are namespaces.
fn words(names: &Option<Names>, side: Side, argv: &[&str]) -> Vec<String> {
    let mut all = Vec::new();
    if let Some(names) = names {
        let name = match side {
            Side::Client => names.client(),
            Side::Server => names.server(),
        };
        all.extend(["ip", "netns", "exec", &name].map(str::to_owned));
    }
    all.extend(argv.iter().map(|word| (*word).to_owned()));
    all
}
