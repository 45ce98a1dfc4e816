// SPDX-License-Identifier: GPL-2.0-only
//! What programs that are not ours answer, before they are measured: the same in every way, to the last byte.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tcp_splice_world::counters::Counters;

use super::{Files, nginx, postgres, redis};
use crate::place::Stage;
use crate::suite::cell::{Cell, Program};
use crate::suite::end::{End, connect, connect_at};
use crate::suite::way::{Switch, Way};

/// Answers of one connection: what comes before the hand-off goes over TCP.
pub const ANSWERS: usize = 20;

/// A hang is an error, not a wait for ever.
const LIMIT: Duration = Duration::from_secs(60);

/// Asks a program in each way; a line for the report, none of a program whose answers its clients, which are ours, look at themselves.
pub fn check(
    program: Program,
    stage: &Stage,
    files: &Files,
    switch: &mut Switch,
    others: bool,
) -> Result<Option<String>> {
    let ask: fn(&Stage, &Files, Way) -> Result<Vec<u8>> = match program {
        Program::Redis => redis::answers,
        Program::Nginx => nginx::answers,
        Program::Postgres => postgres::answers,
        _ => return Ok(None),
    };
    let mut known: Option<Vec<u8>> = None;
    let ways = Cell::Program {
        program,
        clients: 1,
    }
    .ways(stage.place);
    for way in &ways {
        let name = format!("{}, {}, {way}", stage.place.name(), program.name());
        switch.enter(*way, None)?;
        let before = Counters::read()?;
        let answers = ask(stage, files, *way).with_context(|| format!("wrong answer: {name}"))?;
        let moved = Counters::read()?.since(&before);
        way.prove(1, answers.len() as f64 / 2.0, &moved, others)
            .context(name.clone())?;
        let first = known.get_or_insert_with(|| answers.clone());
        ensure!(*first == answers, "{name}: another answer than over TCP");
    }
    let bytes = known.map_or(0, |answers| answers.len());
    let name = format!("{}, {}", stage.place.name(), program.name());
    Ok(Some(format!(
        "{name}: the same {bytes} bytes in {} ways",
        ways.len()
    )))
}

/// A connection from the clients' side to a server's port, on which nobody waits for ever.
pub fn connect_to(stage: &Stage, port: u16) -> Result<End> {
    patient(connect(stage, stage.address(port)?)?)
}

/// A connection to a server's socket of the file system, the same.
pub fn connect_to_file(file: &Path) -> Result<End> {
    patient(connect_at(file)?)
}

fn patient(end: End) -> Result<End> {
    end.limit(LIMIT)?;
    Ok(end)
}

/// Reads up to the end of a line, or of several: up to `mark`, which is part of it.
pub fn read_to(end: &mut End, mark: &[u8]) -> Result<Vec<u8>> {
    const MOST: usize = 4096;
    let (mut line, mut byte) = (Vec::new(), [0]);
    while !line.ends_with(mark) {
        ensure!(line.len() < MOST, "no end of a line in {MOST} bytes");
        end.read_exact(&mut byte).context("failed to receive")?;
        line.extend(byte);
    }
    Ok(line)
}
