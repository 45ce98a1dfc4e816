// SPDX-License-Identifier: GPL-2.0-only
//! What a thread does to sockets that are not its own.
//!
//! Whatever a call answers is right, since others meddle with the same socket: the bytes alone must be its connection's.

use std::fs::File;
use std::io::{self, Error, IoSlice, IoSliceMut, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use fastrand::Rng;
use io_uring::types::{Fd, Timespec};
use io_uring::{IoUring, opcode, squeue};
use libc::{MSG_DONTWAIT, MSG_NOSIGNAL, MSG_PEEK, MSG_WAITALL, SO_RCVTIMEO, SO_SNDTIMEO};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg, setsockopt, sockopt,
};
use nix::unistd::{Pid, pipe};
use socket2::SockRef;
use tcp_splice_world::{sizes, sys};

use super::board::Board;
use super::pool::{Marks, Member};
use super::troupe::Stage;

/// What can be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Deed {
    Connect,
    Accept,
    Send,
    SendByPackets,
    Receive,
    Peek,
    WaitForAll,
    Poll,
    Watch,
    SpliceIn,
    SpliceOut,
    Shut,
    Reset,
    Close,
    Disconnect,
    Reconnect,
    Duplicate,
    Fork,
    Pass,
    Take,
    Uring,
    Tls,
    /// A signal for somebody.
    Interrupt,
    /// A call ended by one.
    Interrupted,
}

use Deed::*;

impl Deed {
    pub const ALL: &[Self] = &[
        Connect,
        Accept,
        Send,
        SendByPackets,
        Receive,
        Peek,
        WaitForAll,
        Poll,
        Watch,
        SpliceIn,
        SpliceOut,
        Shut,
        Reset,
        Close,
        Disconnect,
        Reconnect,
        Duplicate,
        Fork,
        Pass,
        Take,
        Uring,
        Tls,
        Interrupt,
        Interrupted,
    ];

    /// Any, some more often than others.
    fn any(rng: &mut Rng) -> Self {
        const ODDS: &[(u32, Deed)] = &[
            (8, Connect),
            (10, Accept),
            (24, Send),
            (2, SendByPackets),
            (16, Receive),
            (4, Peek),
            (4, WaitForAll),
            (4, Poll),
            (4, Watch),
            (4, SpliceIn),
            (8, SpliceOut),
            (2, Shut),
            (1, Reset),
            (3, Close),
            (2, Disconnect),
            (2, Duplicate),
            (1, Fork),
            (3, Pass),
            (4, Take),
            (4, Uring),
            (1, Tls),
            (6, Interrupt),
        ];
        let sum = ODDS.iter().map(|&(odds, _)| odds).sum::<u32>();
        let mut left = rng.u32(..sum);
        for &(odds, deed) in ODDS {
            if left < odds {
                return deed;
            }
            left -= odds;
        }
        Send
    }
}

/// Signals that players send each other: of one, calls that may are begun again.
const SIGNALS: [(Signal, bool); 2] = [(Signal::SIGUSR1, true), (Signal::SIGUSR2, false)];

/// Before there are players: they and their children do nothing when a signal comes.
pub fn catch_signals() -> Result<()> {
    for (signal, restart) in SIGNALS {
        sys::catch(signal as i32, restart).context("failed to catch signals")?;
    }
    Ok(())
}

/// A thread of a player is to be interrupted, or not.
pub fn take_signals(take: bool) -> Result<()> {
    let signals: SigSet = SIGNALS.iter().map(|&(signal, _)| signal).collect();
    let done = if take {
        signals.thread_unblock()
    } else {
        signals.thread_block()
    };
    done.context("failed to set the mask of signals")
}

/// A call said that it was.
fn is_interrupted(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::Interrupted)
        || error.downcast_ref::<Errno>() == Some(&Errno::EINTR)
}

/// Bytes that a descriptor is sent with: what the taker has to know of it.
const LETTER: usize = 3;

/// Ports of clients that choose theirs: none that the kernel gives to others.
const OWN_PORTS: Range<u16> = 15_000..30_000;

/// Most bytes that are received at once.
const ROOM: usize = 70_000;

/// How long a call may block, mostly, and sometimes, in milliseconds.
const PATIENCE: (i64, i64) = (4, 100);

/// A thread's own things.
pub struct Hands<'a> {
    stage: &'a Stage,
    part: usize,
    rng: Rng,
    buffer: Vec<u8>,
    pipe: (File, File),
    epoll: Epoll,
    ring: Option<IoUring>,
}

impl<'a> Hands<'a> {
    /// Of a thread of the process that plays `part`.
    pub fn new(stage: &'a Stage, part: usize, seed: u64) -> Result<Self> {
        let (out, into) = pipe().context("failed to make a pipe")?;
        for end in [&out, &into] {
            fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        Ok(Self {
            stage,
            part,
            rng: Rng::with_seed(seed),
            buffer: vec![0; ROOM],
            pipe: (out.into(), into.into()),
            epoll: Epoll::new(EpollCreateFlags::empty())?,
            // A memory cgroup, or whoever lets allocations fail, may have none.
            ring: IoUring::new(4).ok(),
        })
    }

    fn board(&self) -> Board {
        self.stage.board
    }

    /// Does anything.
    pub fn act(&mut self) {
        // Bytes are to be had when there is somebody to send them.
        let deed = if self.stage.pool.len() < 2 && self.rng.bool() {
            if self.rng.bool() { Connect } else { Accept }
        } else {
            Deed::any(&mut self.rng)
        };
        match self.try_to(deed) {
            Ok(true) => self.board().did(deed),
            Ok(false) => {}
            Err(error) if is_interrupted(&error) => self.board().did(Interrupted),
            Err(_) => {}
        }
    }

    /// True when it was done.
    fn try_to(&mut self, deed: Deed) -> Result<bool> {
        match deed {
            Connect => return self.connect(),
            Accept => return self.accept(),
            Take => return self.take(),
            Close => return Ok(self.stage.pool.take(&mut self.rng).is_some()),
            Interrupt => return self.interrupt(),
            _ => {}
        }
        let Some(member) = self.stage.pool.any(&mut self.rng) else {
            return Ok(false);
        };
        match deed {
            Send => self.send(&member),
            SendByPackets => {
                let bytes = vec![member.marks.ours; sizes::length(&mut self.rng).min(3000)];
                Ok(sys::send_with_timestamp(&member.socket, &bytes)? > 0)
            }
            Receive => {
                let flags = if self.rng.bool() { MSG_DONTWAIT } else { 0 };
                self.receive(deed, &member, flags)
            }
            Peek => self.receive(deed, &member, MSG_PEEK | MSG_DONTWAIT),
            WaitForAll => self.receive(deed, &member, MSG_WAITALL),
            Poll => self.poll(&member),
            Watch => self.watch(&member),
            SpliceIn => self.splice_in(&member),
            SpliceOut => self.splice_out(&member),
            Shut => {
                let how = [Shutdown::Read, Shutdown::Write, Shutdown::Both];
                member.socket.shutdown(how[self.rng.usize(..how.len())])?;
                Ok(true)
            }
            Reset => {
                SockRef::from(&member.socket).set_linger(Some(Duration::ZERO))?;
                self.stage.pool.remove(&member);
                Ok(true)
            }
            Disconnect => self.disconnect(&member),
            Duplicate => self.duplicate(&member),
            Fork => self.fork(&member),
            Pass => self.pass(&member),
            Uring => self.uring(&member),
            Tls => {
                setsockopt(&member.socket, sockopt::TcpUlp::default(), b"tls")?;
                Ok(true)
            }
            Connect | Accept | Take | Close | Interrupt | Reconnect | Interrupted => Ok(false),
        }
    }

    /// To any player, of which any thread gets it.
    fn interrupt(&mut self) -> Result<bool> {
        let players = self.board().players();
        if players.is_empty() {
            return Ok(false);
        }
        let player = Pid::from_raw(players[self.rng.usize(..players.len())]);
        let signal = SIGNALS[self.rng.usize(..SIGNALS.len())].0;
        // It may have been killed by now.
        Ok(kill(player, signal).is_ok())
    }

    fn prepare(&mut self, socket: &impl AsRawFd) -> Result<()> {
        for name in [SO_RCVTIMEO, SO_SNDTIMEO] {
            let often = self.rng.u32(..8) > 0;
            sys::set_timeout(socket, name, if often { PATIENCE.0 } else { PATIENCE.1 })?;
        }
        sys::set_option(socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
        if self.rng.u32(..8) == 0 {
            sys::set_option(socket, libc::SOL_SOCKET, libc::SO_BUSY_POLL, 50)?;
        }
        if self.rng.u32(..8) == 0 {
            sys::set_option(socket, libc::SOL_SOCKET, libc::SO_SNDBUF, 20_000)?;
        }
        Ok(())
    }

    fn connect(&mut self) -> Result<bool> {
        let socket = self.stage.link.client_socket()?;
        self.prepare(&socket)?;
        let bound = self.rng.u32(..3) == 0;
        if bound {
            // Only a port that was asked for stays a disconnected socket's own.
            let ip: IpAddr = match self.stage.addresses[0] {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::new(ip, self.rng.u16(OWN_PORTS)).into())?;
        }
        let address = self.stage.addresses[self.rng.usize(..self.stage.addresses.len())];
        // It may still be on its way when the time is over.
        let connected = socket.connect(&address.into()).is_ok();
        let socket: TcpStream = socket.into();
        let marks = Marks::client(socket.local_addr()?.port());
        let member = Member {
            socket,
            marks,
            bound,
        };
        self.stage.pool.add(member, &mut self.rng);
        Ok(connected)
    }

    fn accept(&mut self) -> Result<bool> {
        let listener = &self.stage.listeners[self.rng.usize(..self.stage.listeners.len())];
        let (socket, from) = listener.accept()?;
        // Not inherited on Linux, but for those who think so.
        socket.set_nonblocking(false)?;
        self.prepare(&socket)?;
        let member = Member {
            socket,
            marks: Marks::server(from.port()),
            bound: false,
        };
        self.stage.pool.add(member, &mut self.rng);
        Ok(true)
    }

    fn send(&mut self, member: &Member) -> Result<bool> {
        let length = sizes::length(&mut self.rng);
        self.buffer[..length].fill(member.marks.ours);
        let wait = if self.rng.bool() { MSG_DONTWAIT } else { 0 };
        let sent = sys::send(&member.socket, &self.buffer[..length], wait | MSG_NOSIGNAL)?;
        Ok(sent > 0)
    }

    /// Looks at `count` bytes that were received.
    fn check(&self, deed: Deed, member: &Member, count: usize) -> bool {
        check(self.board(), deed, member.marks, &self.buffer[..count])
    }

    fn receive(&mut self, deed: Deed, member: &Member, flags: i32) -> Result<bool> {
        let length = sizes::length(&mut self.rng);
        let got = sys::recv(&member.socket, &mut self.buffer[..length], flags)?;
        Ok(self.check(deed, member, got))
    }

    fn poll(&mut self, member: &Member) -> Result<bool> {
        let other = self.stage.pool.any(&mut self.rng);
        let socket = other.as_deref().unwrap_or(member);
        let mut fds = [
            PollFd::new(member.socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(
                socket.socket.as_fd(),
                PollFlags::POLLIN | PollFlags::POLLOUT,
            ),
        ];
        Ok(poll(&mut fds, PollTimeout::from(self.rng.u8(..8)))? > 0)
    }

    /// The socket stays watched, until it is closed or watched anew.
    fn watch(&mut self, member: &Member) -> Result<bool> {
        let flags = [
            EpollFlags::empty(),
            EpollFlags::EPOLLET,
            EpollFlags::EPOLLONESHOT,
            EpollFlags::EPOLLEXCLUSIVE,
        ];
        let flags = flags[self.rng.usize(..flags.len())];
        let events = flags | EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT;
        if self
            .epoll
            .add(&member.socket, EpollEvent::new(events, 0))
            .is_err()
        {
            let _ = self.epoll.delete(&member.socket);
        }
        let mut events = [EpollEvent::empty(); 4];
        let wait = EpollTimeout::from(self.rng.u8(..8));
        Ok(self.epoll.wait(&mut events, wait)? > 0)
    }

    /// Empties the pipe, whose bytes nobody needs.
    fn empty_pipe(&mut self) {
        while let Ok(1..) = self.pipe.0.read(&mut self.buffer) {}
    }

    fn splice_in(&mut self, member: &Member) -> Result<bool> {
        let length = sizes::length(&mut self.rng).min(20_000);
        self.buffer[..length].fill(member.marks.ours);
        let there = self.pipe.1.write(&self.buffer[..length])?;
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK;
        let moved = splice(&self.pipe.0, None, &member.socket, None, there, flags);
        self.empty_pipe();
        Ok(moved? > 0)
    }

    fn splice_out(&mut self, member: &Member) -> Result<bool> {
        let length = sizes::length(&mut self.rng);
        let flags = if self.rng.bool() {
            SpliceFFlags::SPLICE_F_NONBLOCK
        } else {
            SpliceFFlags::empty()
        };
        self.empty_pipe();
        let mut left = splice(&member.socket, None, &self.pipe.1, None, length, flags)?;
        let any = left > 0;
        // What a pipe has must not change, whatever becomes of the ring it is lent from.
        if self.rng.bool() {
            std::thread::sleep(Duration::from_micros(self.rng.u64(..2000)));
        }
        while left > 0 {
            let got = self.pipe.0.read(&mut self.buffer[..left.min(ROOM)])?;
            if got == 0 || !self.check(SpliceOut, member, got) {
                break;
            }
            left -= got;
        }
        Ok(any)
    }

    /// Takes note of what it did itself.
    fn disconnect(&mut self, member: &Arc<Member>) -> Result<bool> {
        sys::disconnect(&member.socket)?;
        self.board().did(Disconnect);
        if !member.bound {
            self.stage.pool.remove(member);
            return Ok(false);
        }
        let address = self.stage.addresses[self.rng.usize(..self.stage.addresses.len())];
        SockRef::from(&member.socket).connect(&address.into())?;
        self.board().did(Reconnect);
        Ok(false)
    }

    fn duplicate(&mut self, member: &Member) -> Result<bool> {
        let socket = member.socket.try_clone()?;
        let twin = Member { socket, ..*member };
        self.stage.pool.add(twin, &mut self.rng);
        Ok(true)
    }

    /// A child does a few things with two sockets, and ends with all descriptors of the process.
    fn fork(&mut self, member: &Member) -> Result<bool> {
        let other = self.stage.pool.any(&mut self.rng);
        let other = other.as_deref().unwrap_or(member);
        let (board, seed) = (self.board(), self.rng.u64(..));
        let buffer = &mut self.buffer;
        sys::fork_among_threads(|| {
            let mut rng = Rng::with_seed(seed);
            for _ in 0..6 {
                let member = if rng.bool() { member } else { other };
                let length = rng.usize(1..5000);
                if rng.bool() {
                    buffer[..length].fill(member.marks.ours);
                    let _ = sys::send(&member.socket, &buffer[..length], MSG_NOSIGNAL);
                } else if let Ok(got) = sys::recv(&member.socket, &mut buffer[..length], 0) {
                    check(board, Fork, member.marks, &buffer[..got]);
                }
            }
        })?;
        Ok(true)
    }

    /// To another process, or this one, which may never look.
    fn pass(&mut self, member: &Member) -> Result<bool> {
        let letter = [
            member.marks.ours,
            member.marks.theirs,
            u8::from(member.bound),
        ];
        let to = self.rng.usize(..self.stage.boxes.len());
        let (descriptors, parts) = ([member.socket.as_raw_fd()], [IoSlice::new(&letter)]);
        let control = [ControlMessage::ScmRights(&descriptors)];
        let slot = self.stage.boxes[to].0.as_raw_fd();
        sendmsg::<()>(slot, &parts, &control, MsgFlags::MSG_DONTWAIT, None)?;
        Ok(true)
    }

    fn take(&mut self) -> Result<bool> {
        let Some((letter, descriptor)) = open(&self.stage.boxes[self.part].1)? else {
            return Ok(false);
        };
        let [ours, theirs, bound] = letter;
        let member = Member {
            socket: sys::adopt(descriptor),
            marks: Marks { ours, theirs },
            bound: bound != 0,
        };
        self.stage.pool.add(member, &mut self.rng);
        Ok(true)
    }

    /// One operation that io_uring gives up after a while.
    fn uring(&mut self, member: &Member) -> Result<bool> {
        let Some(ring) = &mut self.ring else {
            return Ok(false);
        };
        let (fd, length) = (Fd(member.socket.as_raw_fd()), sizes::length(&mut self.rng));
        let sends = self.rng.bool();
        let operation = if sends {
            self.buffer[..length].fill(member.marks.ours);
            let send = opcode::Send::new(fd, self.buffer.as_ptr(), length as u32);
            send.flags(MSG_NOSIGNAL).build()
        } else {
            opcode::Recv::new(fd, self.buffer.as_mut_ptr(), length as u32).build()
        };
        let wait = Timespec::from(Duration::from_millis(5));
        let limit = opcode::LinkTimeout::new(&wait).build().user_data(1);
        for entry in [operation.flags(squeue::Flags::IO_LINK), limit] {
            // SAFETY: buffer, socket and time live until both completions were taken below.
            unsafe { ring.submission().push(&entry) }.map_err(|_| Error::other("full"))?;
        }
        let (mut result, mut left) = (0, 2);
        while left > 0 {
            match ring.submit_and_wait(1) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Not to be left while the kernel may write to the buffer.
                Err(error) => panic!("failed to wait for io_uring: {error}"),
                Ok(_) => {}
            }
            for done in ring.completion() {
                left -= 1;
                if done.user_data() == 0 {
                    result = done.result();
                }
            }
        }
        let Ok(count @ 1..) = usize::try_from(result) else {
            return Ok(false);
        };
        Ok(sends || self.check(Uring, member, count))
    }
}

/// True when there are bytes, and all are the connection's.
fn check(board: Board, deed: Deed, marks: Marks, bytes: &[u8]) -> bool {
    if let Some(&stranger) = bytes.iter().find(|&&byte| byte != marks.theirs) {
        board.found(deed, marks.theirs, stranger);
        return false;
    }
    !bytes.is_empty()
}

/// A letter with a descriptor, if one is there.
fn open(from: &UnixDatagram) -> Result<Option<([u8; LETTER], RawFd)>> {
    let mut letter = [0; LETTER];
    let mut parts = [IoSliceMut::new(&mut letter)];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(from.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let mut descriptor = None;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control {
            descriptor = descriptors.first().copied();
        }
    }
    Ok(descriptor.map(|descriptor| (letter, descriptor)))
}
