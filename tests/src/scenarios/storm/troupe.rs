// SPDX-License-Identifier: GPL-2.0-only
//! The processes of a storm: made, killed, replaced, and all gone in the end.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixDatagram;
use std::process::abort;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fastrand::Rng;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tcp_splice_world::pace;
use tcp_splice_world::picture::picture;

use super::board::{Board, PLAYERS};
use super::deeds::{self, Hands};
use super::pool::Pool;
use crate::faults;
use crate::link::Link;
use crate::sys;

/// How long a process may take to end that was killed, or told to. Never decides a test, only ends a hang.
const END: Duration = Duration::from_secs(90);

/// How much longer a storm goes on until all has happened that is to happen in it. Well within a scenario's limit; on a kernel with checkers a change of
/// the policy can take a quarter of a minute.
fn longer() -> Duration {
    Duration::from_secs(pace::count(90, 400))
}

/// Listeners of a stage.
const LISTENERS: usize = 3;

/// Threads of a player.
const THREADS: usize = 3;

/// What the players of a storm share.
pub struct Stage {
    pub link: Link,
    pub board: Board,
    pub listeners: Vec<TcpListener>,
    pub addresses: Vec<SocketAddr>,
    /// For descriptors that are sent: one for each part, where to put them and where to find them.
    pub boxes: Vec<(UnixDatagram, UnixDatagram)>,
    /// Of each process, since it is a copy in each.
    pub pool: Pool,
    /// Allocations of those who play may fail, see [`faults::AtRandom`].
    pub lacks_memory: bool,
}

impl Stage {
    /// For so many players on `link`.
    pub fn new(link: &Link, board: Board, players: usize) -> Result<Self> {
        let mut stage = Self {
            link: link.clone(),
            board,
            listeners: Vec::new(),
            addresses: Vec::new(),
            boxes: Vec::new(),
            pool: Pool::default(),
            lacks_memory: false,
        };
        ensure!(players <= PLAYERS, "{players} players are too many");
        for _ in 0..LISTENERS {
            let listener = link.listen()?;
            listener.set_nonblocking(true)?;
            stage.addresses.push(link.address(&listener)?);
            stage.listeners.push(listener);
        }
        for _ in 0..players {
            let (to, from) = UnixDatagram::pair()?;
            stage.boxes.push((to, from));
        }
        Ok(stage)
    }

    /// A player's process: its threads act until the storm is over.
    pub fn play(&self, part: usize, seed: u64) -> Result<()> {
        sys::reap_by_itself()?;
        // There are more of them than processors, and others are to get something done, too.
        sys::be_nice(3)?;
        let mut rng = Rng::with_seed(seed);
        // Only those who act: this thread would get all of them.
        deeds::take_signals(false)?;
        let act = |seed| -> Result<()> {
            let mut hands = Hands::new(self, part, seed)?;
            deeds::take_signals(true)?;
            if self.lacks_memory {
                faults::may_fail()?;
            }
            while !self.board.stopped() {
                hands.act();
            }
            Ok(())
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|_| {
                    let seed = rng.u64(..);
                    scope.spawn(move || act(seed))
                })
                .collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().expect("a thread panicked"))
        })
    }
}

/// A process, and the name it has in errors.
pub struct Child {
    pid: Pid,
    name: String,
}

/// Processes that have to end. Killed if this is dropped before.
#[derive(Default)]
pub struct Troupe {
    others: Vec<Child>,
    players: Vec<Child>,
}

impl Troupe {
    /// A process besides the players, which ends when the board says so, and whose error is the storm's. Call only while this process has
    /// one thread.
    pub fn add(&mut self, name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let child = start(name, work)?;
        self.others.push(child);
        Ok(())
    }

    /// All players of `stage`.
    pub fn enter(&mut self, stage: &Stage, rng: &mut Rng) -> Result<()> {
        for part in 0..stage.boxes.len() {
            let child = player(stage, part, rng.u64(..))?;
            self.players.push(child);
        }
        Ok(())
    }

    /// Kills any player, and has another take over its part.
    pub fn replace_one(&mut self, stage: &Stage, rng: &mut Rng) -> Result<()> {
        let part = rng.usize(..self.players.len());
        stage.board.set_player(part, 0);
        self.players[part].kill()?;
        self.players[part] = player(stage, part, rng.u64(..))?;
        Ok(())
    }

    /// Kills all players at once.
    pub fn kill_players(&mut self, board: Board) -> Result<()> {
        for part in 0..PLAYERS {
            board.set_player(part, 0);
        }
        for child in &self.players {
            kill(child.pid, Signal::SIGKILL)?;
        }
        self.players.drain(..).try_for_each(|child| child.gone())
    }

    /// Kills and replaces players until the time is over and there was `enough`, which on a slow machine takes longer. Stops when somebody
    /// found a byte that has no business there.
    pub fn play(
        &mut self,
        stage: &Stage,
        time: Duration,
        enough: impl Fn() -> bool,
        rng: &mut Rng,
    ) -> Result<()> {
        let board = stage.board;
        let (end, last) = (Instant::now() + time, Instant::now() + time + longer());
        let goes_on = |now| now < end || (now < last && !enough());
        while goes_on(Instant::now()) && !board.stopped() {
            thread::sleep(Duration::from_millis(rng.u64(50..500)).min(time));
            let replaced = self.replace_one(stage, rng);
            // One that has seen such a byte ends, and that is the error.
            board.no_strangers()?;
            replaced?;
        }
        Ok(())
    }

    /// Waits for those besides the players, who have an end of their own.
    pub fn wait(mut self, limit: Duration) -> Result<()> {
        self.others
            .drain(..)
            .try_for_each(|child| child.ended(limit))
    }

    /// Waits for all of them, who were told to come to an end, and for the children that they have left behind.
    pub fn end(mut self, board: Board) -> Result<()> {
        board.stop();
        let all: Vec<_> = self
            .players
            .drain(..)
            .chain(self.others.drain(..))
            .collect();
        all.into_iter().try_for_each(|child| child.ended(END))?;
        let deadline = Instant::now() + END;
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Err(Errno::ECHILD) => return Ok(()),
                Err(error) => return Err(error).context("failed to wait for what players forked"),
                Ok(_) if Instant::now() > deadline => bail!("what players forked does not end"),
                Ok(_) => thread::sleep(Duration::from_millis(2)),
            }
        }
    }
}

impl Drop for Troupe {
    fn drop(&mut self) {
        for child in self.players.iter().chain(&self.others) {
            let _ = kill(child.pid, Signal::SIGKILL);
            let _ = waitpid(child.pid, None);
        }
    }
}

fn player(stage: &Stage, part: usize, seed: u64) -> Result<Child> {
    let child = start("player", || stage.play(part, seed))?;
    stage.board.set_player(part, child.pid.as_raw());
    Ok(child)
}

/// A process that does `work`, and says why not. Call only while this process has one thread.
pub fn start(name: &str, work: impl FnOnce() -> Result<()>) -> Result<Child> {
    let pid = sys::fork(|| {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        match result {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                println!("{name}: {error:#}");
                false
            }
            Err(_) => abort(),
        }
    })
    .with_context(|| format!("failed to fork the {name}"))?;
    Ok(Child {
        pid,
        name: name.to_owned(),
    })
}

impl Child {
    /// Waits until it is no more.
    fn status(&self, limit: Duration) -> Result<WaitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            let status = waitpid(self.pid, Some(WaitPidFlag::WNOHANG))?;
            if status != WaitStatus::StillAlive {
                return Ok(status);
            }
            if Instant::now() > deadline {
                let picture = picture(self.pid.as_raw() as u32);
                bail!(
                    "the {} does not end within {limit:?}:\n{picture}",
                    self.name
                );
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// It was told to come to an end, or has an end of its own.
    fn ended(&self, limit: Duration) -> Result<()> {
        let status = self.status(limit)?;
        ensure!(
            matches!(status, WaitStatus::Exited(_, 0)),
            "the {}: {status:?}",
            self.name
        );
        Ok(())
    }

    /// It was killed, and did not end before.
    fn gone(&self) -> Result<()> {
        let status = self.status(END)?;
        ensure!(
            matches!(status, WaitStatus::Signaled(_, Signal::SIGKILL, _)),
            "the {}: {status:?}",
            self.name
        );
        Ok(())
    }

    /// Kills it, which must not have ended before.
    pub fn kill(&self) -> Result<()> {
        kill(self.pid, Signal::SIGKILL)?;
        self.gone()
    }
}
