// SPDX-License-Identifier: GPL-2.0-only
//! Sockets in several processes and under several descriptors: fork, dup, SCM_RIGHTS, kill.

use std::io::{IoSlice, IoSliceMut};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result};
use libc::{MSG_DONTWAIT, POLLERR, POLLRDHUP};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use tcp_splice_world::sys;

use crate::case::{Case, case};
use crate::observe::{DATA, a_moment, soon};
use crate::run::{Pair, Run};

pub const ALL: &[Case] = &[
    case!(killed_with_all_read),
    case!(killed_with_bytes_unread),
    case!(killed_after_writing),
    case!(killed_while_blocked_in_recv).lanes(),
    case!(killed_while_blocked_in_send),
    case!(exit_with_data_in_flight),
    case!(fork_shares_a_socket),
    case!(child_closes_its_copy),
    case!(child_shuts_down_for_all),
    case!(duplicate_keeps_it_open),
    case!(duplicate_shares_flags).lanes(),
    case!(passed_to_another_process),
    case!(passed_with_bytes_unread),
    case!(in_flight_in_a_closed_unix_socket),
    case!(connection_between_two_processes),
];

/// Forks a process that does `work` with the server's end and then waits for its end; only that process has it afterwards.
fn hand_over(pair: Pair, work: impl FnOnce(&TcpStream)) -> Result<(TcpStream, Pid)> {
    let Pair { client, server } = pair;
    let other = client.as_raw_fd();
    let child = sys::fork(|| {
        let _ = nix::unistd::close(other);
        work(&server);
        loop {
            std::thread::park();
        }
    })?;
    drop(server);
    Ok((client, child))
}

fn end(child: Pid) -> Result<()> {
    kill(child, Signal::SIGKILL)?;
    waitpid(child, None)?;
    Ok(())
}

/// How a forked process ended.
fn wait(r: &Run, child: Pid) -> Result<()> {
    let status = waitpid(child, None)?;
    r.note("child", matches!(status, WaitStatus::Exited(_, 0)));
    Ok(())
}

fn killed_with_all_read(r: &Run) -> Result<()> {
    let (client, child) = hand_over(r.warm()?, |server| {
        let _ = DATA.read(server, 0, 1000);
        let _ = DATA.write(server, 0, 10);
    })?;
    DATA.write(&client, 0, 1000)?;
    r.take("take", &client, 10);
    end(child)?;
    r.end("end", &client);
    Ok(())
}

fn killed_with_bytes_unread(r: &Run) -> Result<()> {
    let (client, child) = hand_over(r.warm()?, |server| {
        let _ = DATA.read(server, 0, 500);
        let _ = DATA.write(server, 0, 10);
    })?;
    DATA.write(&client, 0, 1000)?;
    r.arrived(&client, 10);
    end(child)?;
    r.poll_until("reset", &client, POLLERR);
    r.end("end", &client);
    Ok(())
}

fn killed_after_writing(r: &Run) -> Result<()> {
    let (client, child) = hand_over(r.warm()?, |server| {
        let _ = DATA.write(server, 0, 50_000);
    })?;
    r.arrived(&client, 50_000);
    end(child)?;
    r.poll_until("end", &client, POLLRDHUP);
    r.end("end", &client);
    Ok(())
}

fn killed_while_blocked_in_recv(r: &Run) -> Result<()> {
    let (client, child) = hand_over(r.warm()?, |server| {
        let _ = sys::recv(server, &mut [0; 10], 0);
    })?;
    a_moment();
    end(child)?;
    r.end("end", &client);
    Ok(())
}

/// The sender's process dies within a call; what the reader gets is the stream's beginning, then the end.
fn killed_while_blocked_in_send(r: &Run) -> Result<()> {
    const LENGTH: usize = 16 << 20;
    let bytes = DATA.bytes(0, LENGTH);
    let (client, child) = hand_over(r.warm()?, |server| {
        let _ = sys::send(server, &bytes, 0);
    })?;
    // The sender is within its call when bytes come.
    soon(|| sys::readable_bytes(&client).is_ok_and(|count| count > 10_000));
    a_moment();
    end(child)?;
    let mut got = Vec::new();
    let result = std::io::Read::read_to_end(&mut (&client), &mut got);
    r.note("some", got.len() > 10_000 && got.len() < LENGTH);
    r.note("right", DATA.check(0, &got).is_ok());
    r.done("end", result.map(drop));
    Ok(())
}

fn exit_with_data_in_flight(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let child = sys::fork(|| DATA.write(&server, 0, 300_000).is_ok())?;
    drop(server);
    r.end("end", &client);
    wait(r, child)
}

fn fork_shares_a_socket(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    for _ in 0..2 {
        r.send("parent sends", &client, b"parent, ", 0);
        let child = sys::fork(|| sys::send(&client, b"child, ", 0).is_ok())?;
        wait(r, child)?;
        r.send("parent sends", &client, b"parent", 0);
        r.arrived(&server, 21);
        let child = sys::fork(|| sys::recv(&server, &mut [0; 10], 0).is_ok())?;
        wait(r, child)?;
        r.recv("parent", &server, 100, 0);
    }
    Ok(())
}

fn child_closes_its_copy(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"unread in the child", 0);
    r.arrived(&server, 19);
    let child = sys::fork(|| true)?;
    wait(r, child)?;
    r.poll("client", &client);
    r.recv("recv", &server, 100, 0);
    r.send("send", &server, b"goes on", 0);
    r.take("take", &client, 7);
    Ok(())
}

fn child_shuts_down_for_all(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"before", 0);
    let child = sys::fork(|| client.shutdown(Shutdown::Write).is_ok())?;
    wait(r, child)?;
    r.send("send", &client, b"after", 0);
    r.end("end", &server);
    Ok(())
}

fn duplicate_keeps_it_open(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let copy = client.try_clone()?;
    drop(client);
    r.send("send", &copy, b"still there", 0);
    r.take("take", &server, 11);
    r.poll("server", &server);
    drop(copy);
    r.end("end", &server);
    Ok(())
}

fn duplicate_shares_flags(r: &Run) -> Result<()> {
    let Pair {
        client,
        server: _server,
    } = r.warm()?;
    let copy = client.try_clone()?;
    client.set_nonblocking(true)?;
    r.recv("recv", &copy, 10, 0);
    copy.shutdown(Shutdown::Write)?;
    r.send("send", &client, b"x", 0);
    Ok(())
}

fn pass(through: &UnixStream, socket: &TcpStream) -> Result<()> {
    let descriptors = [socket.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&descriptors)];
    let byte = [IoSlice::new(b"x")];
    sendmsg::<()>(
        through.as_raw_fd(),
        &byte,
        &control,
        MsgFlags::empty(),
        None,
    )?;
    Ok(())
}

fn received(from: &UnixStream) -> Result<TcpStream> {
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let flags = MsgFlags::empty();
    let message = recvmsg::<()>(from.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let mut controls = message.cmsgs()?;
    let rights = controls.find_map(|control| match control {
        ControlMessageOwned::ScmRights(descriptors) => descriptors.first().copied(),
        _ => None,
    });
    Ok(sys::adopt(rights.context("no descriptor came")?))
}

fn passed_to_another_process(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let (near, far) = UnixStream::pair()?;
    let child = sys::fork(|| {
        let work = || -> Result<()> {
            let server = received(&far)?;
            DATA.read(&server, 0, 5000)?;
            DATA.write(&server, 0, 5000)
        };
        work().is_ok()
    })?;
    pass(&near, &server)?;
    drop(server);
    DATA.write(&client, 0, 5000)?;
    r.take("take", &client, 5000);
    wait(r, child)?;
    r.end("end", &client);
    Ok(())
}

fn passed_with_bytes_unread(r: &Run) -> Result<()> {
    let Pair { client, server } = r.half(b"over TCP ")?;
    r.send("send", &client, b"through the ring", 0);
    r.arrived(&server, 25);
    let (near, far) = UnixStream::pair()?;
    pass(&near, &server)?;
    drop(server);
    let server = received(&far)?;
    r.recv("recv", &server, 100, 0);
    r.send("send", &server, b"answer", 0);
    r.take("take", &client, 6);
    Ok(())
}

/// The descriptor is only in a message that nobody ever receives.
fn in_flight_in_a_closed_unix_socket(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let (near, far) = UnixStream::pair()?;
    r.send("send", &server, b"before", 0);
    pass(&near, &server)?;
    drop(server);
    r.take("take", &client, 6);
    r.recv("nothing more", &client, 10, MSG_DONTWAIT);
    drop(far);
    drop(near);
    r.end("end", &client);
    Ok(())
}

fn connection_between_two_processes(r: &Run) -> Result<()> {
    let listener = r.listen()?;
    let child = sys::fork(|| {
        let serve = || -> Result<()> {
            let (server, _) = listener.accept()?;
            for round in 0..20 {
                DATA.read(&server, round, 3000)?;
                DATA.write(&server, round + 1, 3000)?;
            }
            Ok(())
        };
        serve().is_ok()
    })?;
    let client = r.connect(&listener)?;
    for round in 0..20 {
        DATA.write(&client, round, 3000)?;
        let right = DATA.read(&client, round + 1, 3000);
        if let Err(error) = right {
            r.note("round", format_args!("{round}: {error:#}"));
        }
    }
    r.end("end", &client);
    wait(r, child)
}
