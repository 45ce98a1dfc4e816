// SPDX-License-Identifier: GPL-2.0-only
//! The client of one link, a process of its own: it tries the link out, waits for the word, works for so long, and reports.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::cpu;
use super::end::End;
use crate::instructions::message;
use crate::instructions::server::Server;

/// What a client does.
#[derive(Clone, Debug)]
pub enum Job {
    /// Requests, each of which gets this response.
    RoundTrips {
        /// what is sent
        request: Vec<u8>,
        /// what has to come back
        response: Vec<u8>,
    },
    /// Messages of so many bytes, as fast as they go.
    Stream(usize),
}

/// What a client has done while it was measured.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// round trips, or messages
    pub operations: u64,
    /// of all messages, both ways together
    pub bytes: u64,
    /// how long it took
    pub seconds: f64,
    /// nanoseconds of a round trip, and how many took about as long
    times: Vec<(u64, u64)>,
}

/// Round trips before those that are measured: a receiver learns how long answers take.
const WARM_UP_TRIPS: u32 = 200;
/// Round trips before those that are measured take this long at most.
const WARM_UP: Duration = Duration::from_millis(50);
/// A message that streams is at least this much of it, so that looking at the clock costs nothing.
const CHUNK: usize = 32 << 10;
/// A hang is an error, not a wait for ever.
const LIMIT: Duration = Duration::from_secs(60);

/// Messages that a stream begins with, whose bytes are looked at.
pub fn checked_messages(size: usize) -> usize {
    ((1 << 20) / size).clamp(2, 1000)
}

impl Report {
    /// Several clients' times together, in nanoseconds.
    pub fn times(reports: &[Self]) -> Result<Histogram<u64>> {
        let mut all = histogram()?;
        for (value, count) in reports.iter().flat_map(|report| &report.times) {
            all.record_n(*value, *count)?;
        }
        Ok(all)
    }
}

/// Good to a hundredth, for times of up to a minute.
fn histogram() -> Result<Histogram<u64>> {
    let most = u64::try_from(LIMIT.as_nanos())?;
    Ok(Histogram::new_with_bounds(1, most, 2)?)
}

/// A client as its parent sees it.
#[derive(Debug)]
pub struct Client {
    process: Server,
    word: BufReader<UnixStream>,
}

impl Client {
    /// Starts the process on one of the CPUs.
    pub fn start(cpu: usize, job: Job, end: End) -> Result<Self> {
        let (word, theirs) = UnixStream::pair().context("failed to make a channel")?;
        word.set_read_timeout(Some(LIMIT))?;
        let process = Server::start(|| {
            cpu::stay_on(cpu)?;
            work(&job, end, theirs)
        })?;
        Ok(Self {
            process,
            word: BufReader::new(word),
        })
    }

    /// Waits until it has tried the link out.
    pub fn ready(&mut self) -> Result<()> {
        let heard = self.word.read_exact(&mut [0]);
        heard.context("failed to hear that a client is ready")
    }

    /// Lets it work for so long; with round trips, as often as wanted.
    pub fn go(&mut self, length: Duration) -> Result<()> {
        let word = u64::try_from(length.as_nanos())?.to_le_bytes();
        let said = self.word.get_mut().write_all(&word);
        said.context("failed to start a client")
    }

    /// Waits for what it has done.
    pub fn report(&mut self) -> Result<Report> {
        let mut line = String::new();
        self.word
            .read_line(&mut line)
            .context("failed to hear what a client has done")?;
        serde_json::from_str(&line).context("failed to understand a client")
    }

    /// Lets it end, and waits for that.
    pub fn join(self) -> Result<()> {
        let told = self.word.get_ref().shutdown(Shutdown::Write);
        told.context("failed to stop a client")?;
        self.process.join()
    }
}

/// The client's process.
fn work(job: &Job, mut end: End, mut word: UnixStream) -> Result<()> {
    match job {
        Job::RoundTrips { request, response } => trips_checked(&mut end, request, response)?,
        Job::Stream(size) => stream_checked(&mut end, *size)?,
    }
    word.write_all(&[1]).context("failed to say hello")?;
    while let Some(length) = heard(&mut word)? {
        let report = match job {
            Job::RoundTrips { request, response } => trips(&mut end, request, response, length)?,
            Job::Stream(size) => stream(&mut end, *size, length)?,
        };
        let text = serde_json::to_string(&report)? + "\n";
        word.write_all(text.as_bytes())
            .context("failed to report")?;
    }
    if matches!(job, Job::RoundTrips { .. }) {
        end.finish()?;
    }
    Ok(())
}

/// How long to work; nothing once that was enough.
fn heard(word: &mut UnixStream) -> Result<Option<Duration>> {
    let mut length = Vec::new();
    let taken = Read::by_ref(word).take(8).read_to_end(&mut length);
    taken.context("failed to hear the word")?;
    match <[u8; 8]>::try_from(length) {
        Ok(nanos) => Ok(Some(Duration::from_nanos(u64::from_le_bytes(nanos)))),
        Err(rest) => {
            ensure!(rest.is_empty(), "heard half a word");
            Ok(None)
        }
    }
}

fn trip(end: &mut End, request: &[u8], buffer: &mut [u8]) -> Result<()> {
    end.send(request)?;
    ensure!(end.receive(buffer)?, "the server has gone");
    Ok(())
}

fn trips_checked(end: &mut End, request: &[u8], response: &[u8]) -> Result<()> {
    let mut buffer = vec![0; response.len()];
    let begun = Instant::now();
    for index in 0..WARM_UP_TRIPS {
        trip(end, request, &mut buffer)?;
        ensure!(buffer == response, "wrong data");
        if index > 2 && begun.elapsed() > WARM_UP {
            break;
        }
    }
    Ok(())
}

fn trips(end: &mut End, request: &[u8], response: &[u8], length: Duration) -> Result<Report> {
    let mut buffer = vec![0; response.len()];
    let mut times = histogram()?;
    let begun = Instant::now();
    let mut last = begun;
    while last - begun < length {
        trip(end, request, &mut buffer)?;
        let now = Instant::now();
        times.saturating_record(u64::try_from((now - last).as_nanos())?);
        last = now;
    }
    ensure!(buffer == response, "wrong data");
    let operations = times.len();
    let times = times.iter_recorded();
    Ok(Report {
        operations,
        bytes: operations * (request.len() + response.len()) as u64,
        seconds: (last - begun).as_secs_f64(),
        times: times
            .map(|found| (found.value_iterated_to(), found.count_at_value()))
            .collect(),
    })
}

/// The server looks at these, and says so.
fn stream_checked(end: &mut End, size: usize) -> Result<()> {
    let message = message(size);
    for _ in 0..checked_messages(size) {
        end.send(&message)?;
    }
    ensure!(end.receive(&mut [0])?, "the server has gone");
    Ok(())
}

fn stream(end: &mut End, size: usize, length: Duration) -> Result<Report> {
    let message = message(size);
    let at_once = (CHUNK / size).max(1);
    let mut operations = 0;
    let begun = Instant::now();
    while begun.elapsed() < length {
        for _ in 0..at_once {
            end.send(&message)?;
        }
        operations += at_once as u64;
    }
    end.finish()?;
    let mut arrived = [0; 8];
    ensure!(end.receive(&mut arrived)?, "the server has gone");
    let (seconds, arrived) = (begun.elapsed().as_secs_f64(), u64::from_le_bytes(arrived));
    let bytes = operations * size as u64;
    ensure!(arrived == bytes, "{arrived} of {bytes} bytes arrived");
    Ok(Report {
        operations,
        bytes,
        seconds,
        times: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::suite::end::End;
    use crate::suite::serve;

    /// A client on this thread, its server on another; what it reports of each of so many milliseconds.
    fn worked<const N: usize>(
        job: Job,
        serve: fn(End, usize) -> Result<()>,
        size: usize,
        lengths: [u64; N],
    ) -> [Report; N] {
        let (near, far) = UnixStream::pair().unwrap();
        let (near, far) = (End::of_unix(near), End::of_unix(far));
        let (mut word, theirs) = UnixStream::pair().unwrap();
        let server = std::thread::spawn(move || serve(far, size));
        for millis in lengths {
            word.write_all(&(millis * 1_000_000).to_le_bytes()).unwrap();
        }
        word.shutdown(Shutdown::Write).unwrap();
        work(&job, near, theirs).unwrap();
        server.join().unwrap().unwrap();
        let mut said = BufReader::new(word);
        said.read_exact(&mut [0]).unwrap();
        lengths.map(|_| {
            let mut line = String::new();
            said.read_line(&mut line).unwrap();
            serde_json::from_str(&line).unwrap()
        })
    }

    #[test]
    fn round_trips_are_counted_and_timed() {
        let job = Job::RoundTrips {
            request: message(10),
            response: message(10),
        };
        let reports = worked(job, serve::echo, 10, [20, 60]);
        assert!(reports[0].seconds >= 0.02 && reports[1].seconds >= 0.06);
        for report in &reports {
            assert!(report.operations > 0);
            assert_eq!(report.bytes, 20 * report.operations);
        }
        let times = Report::times(&reports).unwrap();
        // A system call takes longer than this.
        assert!(times.value_at_quantile(0.5) > 100, "{times:?}");
    }

    #[test]
    fn what_is_streamed_arrives() {
        let [report] = worked(Job::Stream(3000), serve::swallow, 3000, [20]);
        assert!(report.operations > 0);
        assert_eq!(report.bytes, 3000 * report.operations);
    }

    #[test]
    fn a_wrong_byte_is_found() {
        let (near, far) = UnixStream::pair().unwrap();
        let (mut near, mut far) = (End::of_unix(near), End::of_unix(far));
        let server = std::thread::spawn(move || {
            let mut buffer = [0; 4];
            far.receive(&mut buffer).and_then(|_| far.send(b"abcx"))
        });
        assert!(trips_checked(&mut near, b"abcd", b"abcd").is_err());
        server.join().unwrap().unwrap();
    }
}
