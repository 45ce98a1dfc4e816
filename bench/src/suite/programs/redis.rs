// SPDX-License-Identifier: GPL-2.0-only
//! redis, and redis-benchmark that asks it.

use anyhow::{Result, ensure};

use super::answers::{ANSWERS, connect_to, connect_to_file, read_to};
use super::{Asked, Files, Told};
use crate::instructions::message;
use crate::measure::{Amount, GET_BYTES, REDIS_RATE, redis_benchmark, redis_column};
use crate::place::{Place, REDIS_PORT, Stage};
use crate::suite::results::Times;
use crate::suite::way::Way;

/// Its socket's name.
const SOCKET: &str = "redis";
/// Seconds that a measurement takes.
const SECONDS: f64 = 1.0;
/// Columns of redis-benchmark's times, in milliseconds.
const TIMES: [usize; 2] = [4, 6];

/// Starts it on CPU 0.
pub fn serve(stage: &mut Stage, files: &Files) -> Result<()> {
    let socket = files.socket(SOCKET)?.display().to_string();
    let more = ["--unixsocket", &socket];
    let has_socket = stage.place == Place::Loopback;
    stage.serve_redis(if has_socket { &more } else { &[] })
}

/// What it answers to several questions for a value that it is given before.
pub fn answers(stage: &Stage, files: &Files, way: Way) -> Result<Vec<u8>> {
    const SIZE: usize = 1000;
    let mut end = if way == Way::Unix {
        connect_to_file(&files.socket(SOCKET)?)?
    } else {
        connect_to(stage, REDIS_PORT.parse()?)?
    };
    let value = message(SIZE);
    let set = format!("*3\r\n$3\r\nSET\r\n$10\r\ntcp-splice\r\n${SIZE}\r\n");
    end.send(&[set.as_bytes(), &value, b"\r\n"].concat())?;
    ensure!(
        read_to(&mut end, b"\r\n")? == b"+OK\r\n",
        "it did not keep the value"
    );
    let expected = [format!("${SIZE}\r\n").as_bytes(), &value, b"\r\n"].concat();
    let (mut all, mut answer) = (Vec::new(), vec![0; expected.len()]);
    for _ in 0..ANSWERS {
        end.send(b"*2\r\n$3\r\nGET\r\n$10\r\ntcp-splice\r\n")?;
        ensure!(end.receive(&mut answer)?, "it has gone");
        ensure!(answer == expected, "another value");
        all.extend(&answer);
    }
    Ok(all)
}

/// Asks for about a second.
pub fn ask(asked: &Asked) -> Result<Told> {
    let amount = asked.known.map_or(Amount::Second, |rate| Amount::Sized {
        rate,
        seconds: SECONDS,
    });
    let clients = u32::try_from(asked.clients)?;
    let socket = asked.files.socket(SOCKET)?.display().to_string();
    let (over_tcp, over_unix) = (["-h", &asked.stage.host, "-p", REDIS_PORT], ["-s", &socket]);
    let to = if asked.is_unix() {
        &over_unix[..]
    } else {
        &over_tcp
    };
    let (requests, text) = redis_benchmark(asked.stage, to, clients, amount)?;
    let column = |column| redis_column(&text, column);
    let [p50, p99] = TIMES.map(|index| column(index).map(|ms| ms * 1e3));
    Ok(Told {
        rate: column(REDIS_RATE)?,
        requests: requests as u64,
        bytes: (GET_BYTES * requests) as u64,
        times: Some(Times {
            p50: p50?,
            p99: p99?,
            p999: None,
        }),
    })
}
