// SPDX-License-Identifier: GPL-2.0-only
//! Clients and servers of this program's own, and one measurement by them.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::cell::Cell;
use super::client::{Client, Job, Report};
use super::end::{End, connect, connect_at, connect_inside, link, listen};
use super::results::{Figures, Times};
use super::usage::Usage;
use super::way::Way;
use super::{cpu, serve};
use crate::instructions::message;
use crate::instructions::server::Server;
use crate::place::Stage;

/// Processes that wait for the word.
#[derive(Debug)]
pub struct Team {
    clients: Vec<Client>,
    servers: Vec<Server>,
    /// bytes in the unit of the rate; none: operations are counted
    unit: Option<f64>,
}

/// Round trips from which the time of the slowest thousandth is known.
pub const FOR_P999: u64 = 1000;
/// What is measured again for so many takes this long at most, and so much longer than they should.
const LONGEST: Duration = Duration::from_secs(5);
const SPARE: f64 = 1.2;
/// Size of what goes to the epoll server and through the proxy.
const SMALL: usize = 64;

impl Team {
    fn new() -> Self {
        Self {
            clients: Vec::new(),
            servers: Vec::new(),
            unit: None,
        }
    }

    /// Round trips, each pair over a link of its own.
    pub fn of_trips(stage: &Stage, way: Way, size: usize, pairs: usize) -> Result<Self> {
        let mut team = Self::new();
        for pair in 0..pairs {
            let (near, far) = link(stage, way)?;
            // The client comes first: the server must not have its end, or would never see a pipe end.
            team.client(pair, echoed(size), near)?;
            team.server(pair, || serve::echo(far, size))?;
        }
        Ok(team)
    }

    /// Streams, each pair over a link of its own.
    pub fn of_streams(stage: &Stage, way: Way, size: usize, pairs: usize) -> Result<Self> {
        let mut team = Self::new();
        team.unit = Some(1e6);
        for pair in 0..pairs {
            let (near, far) = link(stage, way)?;
            team.client(pair, Job::Stream(size), near)?;
            team.server(pair, || serve::swallow(far, size))?;
        }
        Ok(team)
    }

    /// Clients of one server that waits in epoll.
    pub fn of_epoll(stage: &Stage, clients: usize) -> Result<Self> {
        let mut team = Self::new();
        let listener = listen(stage)?;
        for client in 0..clients {
            let near = connect(stage, listener.local_addr()?)?;
            team.client(client, echoed(SMALL), near)?;
        }
        let accept = || {
            let (stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            Ok(stream.into())
        };
        team.server(0, || serve::echo_epoll(accept, clients))?;
        Ok(team)
    }

    /// The same over `AF_UNIX`.
    pub fn of_epoll_at(file: &Path, clients: usize) -> Result<Self> {
        let mut team = Self::new();
        let _ = fs::remove_file(file);
        let listener = UnixListener::bind(file)
            .with_context(|| format!("failed to listen at {}", file.display()))?;
        for client in 0..clients {
            team.client(client, echoed(SMALL), connect_at(file)?)?;
        }
        let accept = || Ok(listener.accept()?.0.into());
        team.server(0, || serve::echo_epoll(accept, clients))?;
        Ok(team)
    }

    /// A client, a proxy that uses splice(2), and a server behind it.
    pub fn of_proxy(stage: &Stage) -> Result<Self> {
        let mut team = Self::new();
        let (front, back) = (listen(stage)?, listen(stage)?);
        let near = connect(stage, front.local_addr()?)?;
        team.client(0, echoed(SMALL), near)?;
        let upstream = connect_inside(stage, back.local_addr()?)?;
        let (far, _) = back.accept().context("failed to accept")?;
        let far = End::of_tcp(far)?;
        let (client, _) = front.accept().context("failed to accept")?;
        client.set_nodelay(true)?;
        team.server(1, || serve::splice_proxy(client, upstream))?;
        team.server(0, || serve::echo(far, SMALL))?;
        Ok(team)
    }

    /// Clients of a server that runs already, all with the same request, which gets the same response.
    pub fn of_requests(
        clients: usize,
        (request, response): (&[u8], &[u8]),
        connect: impl Fn() -> Result<End>,
    ) -> Result<Self> {
        let mut team = Self::new();
        for client in 0..clients {
            let job = Job::RoundTrips {
                request: request.to_owned(),
                response: response.to_owned(),
            };
            team.client(client, job, connect()?)?;
        }
        Ok(team)
    }

    fn client(&mut self, pair: usize, job: Job, end: End) -> Result<()> {
        let client = Client::start(cpu::of_client(pair), job, end)?;
        self.clients.push(client);
        Ok(())
    }

    fn server(&mut self, pair: usize, serve: impl FnOnce() -> Result<()>) -> Result<()> {
        let server = Server::start(|| {
            cpu::stay_on(cpu::of_server(pair))?;
            serve()
        })?;
        self.servers.push(server);
        Ok(())
    }

    /// What all clients do in so long, at the same time, and the processor time it takes.
    fn work(&mut self, usage: &Usage, length: Duration) -> Result<(Vec<Report>, f64)> {
        let before = usage.seconds()?;
        for client in &mut self.clients {
            client.go(length)?;
        }
        let reports = self.clients.iter_mut().map(Client::report);
        let reports = reports.collect::<Result<Vec<_>>>()?;
        Ok((reports, usage.seconds()? - before))
    }

    /// Lets all clients work; where that gives too few round trips to know the slowest, once more, and that counts.
    pub fn measure(mut self, usage: &Usage, length: Duration) -> Result<Figures> {
        for client in &mut self.clients {
            client.ready()?;
        }
        let (mut reports, mut cpu_seconds) = self.work(usage, length)?;
        let mut before = 0;
        let trips = reports.iter().map(|report| report.operations).sum();
        if let Some(longer) = self.unit.is_none().then(|| longer(length, trips)).flatten() {
            before = bytes(&reports);
            // All of them: whoever went on alone would be faster.
            (reports, cpu_seconds) = self.work(usage, longer)?;
        }
        for client in self.clients {
            client.join()?;
        }
        for server in self.servers {
            server.join()?;
        }
        figures(&reports, self.unit, cpu_seconds, before)
    }
}

/// How long to measure instead, where so many round trips in so long are too few.
fn longer(length: Duration, trips: u64) -> Option<Duration> {
    let factor = SPARE * FOR_P999 as f64 / trips.max(1) as f64;
    let longer = length.mul_f64(factor).min(LONGEST);
    (trips < FOR_P999 && longer > length).then_some(longer)
}

fn bytes(reports: &[Report]) -> u64 {
    reports.iter().map(|report| report.bytes).sum()
}

fn echoed(size: usize) -> Job {
    Job::RoundTrips {
        request: message(size),
        response: message(size),
    }
}

/// `before`: bytes that went over the same connections in a run that does not count.
fn figures(
    reports: &[Report],
    unit: Option<f64>,
    cpu_seconds: f64,
    before: u64,
) -> Result<Figures> {
    let rate = |report: &Report| match unit {
        Some(unit) => report.bytes as f64 / unit / report.seconds,
        None => report.operations as f64 / report.seconds,
    };
    let times = Report::times(reports)?;
    let micros = |quantile| times.value_at_quantile(quantile) as f64 / 1e3;
    Ok(Figures {
        rate: reports.iter().map(rate).sum(),
        operations: reports.iter().map(|report| report.operations).sum(),
        bytes: bytes(reports),
        carried: before + bytes(reports),
        cpu_seconds,
        times: (!times.is_empty()).then(|| Times {
            p50: micros(0.5),
            p99: micros(0.99),
            // Of fewer, it would be the slowest one.
            p999: (times.len() >= FOR_P999).then(|| micros(0.999)),
        }),
    })
}

/// Messages in one way; the cell is no program's.
pub fn messages(
    stage: &Stage,
    cell: Cell,
    way: Way,
    usage: &Usage,
    length: Duration,
) -> Result<Figures> {
    let team = match cell {
        Cell::RoundTrip { size, pairs } => Team::of_trips(stage, way, size, pairs)?,
        Cell::Stream { size, pairs } => Team::of_streams(stage, way, size, pairs)?,
        Cell::Program { .. } => anyhow::bail!("{cell} is a program's"),
    };
    team.measure(usage, length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_round_trips_are_made_again_for_longer() {
        let length = Duration::from_millis(100);
        assert_eq!(longer(length, FOR_P999), None);
        assert_eq!(longer(length, 600), Some(2 * length));
        assert_eq!(longer(length, 0), Some(LONGEST));
        assert_eq!(longer(2 * LONGEST, 10), None);
    }

    #[test]
    fn both_runs_were_carried_and_one_counts() {
        let figures = figures(&[], None, 0.0, 7).unwrap();
        assert_eq!((figures.bytes, figures.carried), (0, 7));
    }
}
