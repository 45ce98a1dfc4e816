// SPDX-License-Identifier: GPL-2.0-only
//! `tcp-splice-ctl list` and the module's list behind it.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tcp_splice_world::pattern::Pattern;
use tcp_splice_world::policy::CTL;
use tcp_splice_world::program::run;

use crate::env::{Claim, Conn, Env, wait_until};
use crate::scenario::Scenario;
use crate::sys;

pub const ALL: &[Scenario] = &[
    Scenario::each("shows_both_ends", shows_both_ends),
    Scenario::each("says_why_not", says_why_not),
    Scenario::each("who_left", who_left),
    Scenario::each("drained", drained).spliced_only(),
    Scenario::each("refused", refused).spliced_only(),
    Scenario::one("the_newest_refused", the_newest_refused).spliced_only(),
    Scenario::one("for_root_only", for_root_only),
    Scenario::some("complete_under_churn", complete_under_churn),
];

const PATTERN: Pattern = Pattern::new(37);
const LENGTH: usize = 20_000;
const LIST: &str = "/proc/net/tcp_splice";

const PLAIN: &str = "/proc/net/tcp_splice_plain";

/// What `tcp-splice-ctl list --json` has of this port: its connections, or its sockets on plain TCP.
fn list(port: u16, what: &str) -> Result<Vec<Value>> {
    let text = run(&[CTL, "list", "--json", "--ports", &port.to_string()])?;
    let mut json: Value = serde_json::from_str(&text).context("failed to read the list")?;
    ensure!(json["schema"] == 1, "schema {}", json["schema"]);
    match json[what].take() {
        Value::Array(all) => Ok(all),
        other => bail!("{what} is {other}"),
    }
}

/// The one connection of this port, as `tcp-splice-ctl list --json` has it.
pub fn listed(port: u16) -> Result<Value> {
    let mut connections = list(port, "connections")?;
    ensure!(connections.len() == 1, "{} connections", connections.len());
    Ok(connections.remove(0))
}

/// Checks that the list has a connection's ends as each sees itself and the other.
pub fn shows_both(conn: &Conn) -> Result<()> {
    let listed = listed(port(conn)?)?;
    check_socket(&listed["client"], &conn.client)?;
    check_socket(&listed["server"], &conn.server)
}

fn port(conn: &Conn) -> Result<u16> {
    Ok(conn.client.local_addr()?.port())
}

fn canonical(address: SocketAddr) -> String {
    SocketAddr::new(address.ip().to_canonical(), address.port()).to_string()
}

fn check_socket(end: &Value, socket: &TcpStream) -> Result<()> {
    let seen = &end["socket"];
    let want = [
        canonical(socket.local_addr()?),
        canonical(socket.peer_addr()?),
    ];
    ensure!(
        seen["local"] == *want[0] && seen["remote"] == *want[1],
        "{seen} is not {want:?}"
    );
    ensure!(seen["tcp_state"] == "ESTAB", "state {}", seen["tcp_state"]);
    let mine = seen["processes"].as_array().context("no processes")?;
    ensure!(
        mine.iter()
            .any(|process| process["pid"] == std::process::id()),
        "this process is not among {mine:?}"
    );
    Ok(())
}

fn shows_both_ends(env: &Env) -> Result<Claim> {
    let conn = env.conn()?;
    let before = listed(port(&conn)?)?;
    PATTERN.write(&conn.client, 0, LENGTH)?;
    PATTERN.read(&conn.server, 0, LENGTH - 1000)?;
    PATTERN.write(&conn.server, 0, LENGTH)?;
    PATTERN.read(&conn.client, 0, LENGTH)?;
    let now = listed(port(&conn)?)?;
    let text = run(&[CTL, "list", "--ports", &port(&conn)?.to_string()])?;
    check_socket(&now["client"], &conn.client)?;
    check_socket(&now["server"], &conn.server)?;
    ensure!(
        now["id"] == before["id"],
        "another id: {} {}",
        before["id"],
        now["id"]
    );
    for end in ["client", "server"] {
        let grown = now[end]["ring_bytes"]
            .as_u64()
            .zip(before[end]["ring_bytes"].as_u64());
        ensure!(
            grown.is_some_and(|(now, before)| now - before == LENGTH as u64),
            "ring_bytes of the {end}: {grown:?}"
        );
        ensure!(
            now[end]["carrier"] == "ring" && now[end]["reason"] == "none",
            "{}",
            now[end]
        );
        ensure!(now[end]["ring_size"] == 65536, "{}", now[end]);
    }
    ensure!(
        now["client"]["unread"] == 1000 && now["server"]["unread"] == 0,
        "{now}"
    );
    let names = [
        canonical(conn.client.local_addr()?),
        canonical(conn.server.local_addr()?),
    ];
    ensure!(
        names.iter().all(|name| text.contains(name.as_str())),
        "{names:?} not in {text}"
    );
    shows_more(&conn)?;
    PATTERN.read(&conn.server, (LENGTH - 1000) as u64, 1000)?;
    Ok(Claim::ring(2 * LENGTH))
}

/// What only the extended list says of a connection whose server has 1000 bytes unread.
fn shows_more(conn: &Conn) -> Result<()> {
    let text = run(&[CTL, "list", "-e", "--ports", &port(conn)?.to_string()])?;
    // No cell is empty or has two spaces.
    let mut lines = text.lines().map(|line| {
        let cells = line.split("  ").filter(|cell| !cell.is_empty());
        cells.map(str::trim).collect::<Vec<_>>()
    });
    let (header, line) = lines.next().zip(lines.next()).context("no connection")?;
    ensure!(header.len() == line.len(), "{text}");
    let cell = |name: &str| {
        let place = header.iter().position(|column| *column == name);
        place
            .map(|place| line[place])
            .with_context(|| format!("no {name}"))
    };
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::"));
    let own = own.context("no cgroup v2")?;
    let sees = [conn.client.peer_addr()?, conn.server.peer_addr()?].map(canonical);
    let want = [
        ("CLIENT SEES", sees[0].as_str()),
        ("SERVER SEES", &sees[1]),
        ("CLIENT IN", own),
        ("SERVER IN", own),
        ("UNREAD TO", "1000"),
        ("UNREAD BACK", "0"),
        ("SIZE BACK", "65536"),
    ];
    for (name, want) in want {
        let seen = cell(name)?;
        ensure!(seen == want, "{name} is {seen:?}, not {want:?}:\n{text}");
    }
    Ok(())
}

/// A message with a control message goes over TCP; the next one does not.
fn says_why_not(env: &Env) -> Result<Claim> {
    let conn = env.conn()?;
    let counters = env.counters()?;
    PATTERN.write(&conn.client, 0, LENGTH)?;
    sys::send_with_timestamp(&conn.client, &PATTERN.bytes(LENGTH as u64, 500))?;
    let now = listed(port(&conn)?)?;
    ensure!(now["client"]["carrier"] == "leaving", "{now}");
    ensure!(
        now["client"]["reason"] == "message" && now["server"]["reason"] == "none",
        "{now}"
    );
    PATTERN.read(&conn.server, 0, LENGTH + 500)?;
    let now = listed(port(&conn)?)?;
    ensure!(now["client"]["carrier"] == "tcp", "{now}");
    ensure!(
        env.since(&counters)?.get("left_message")? == 1,
        "left_message did not count"
    );
    wait_until("the ring in use again", || {
        PATTERN.write(&conn.client, 0, 100)?;
        PATTERN.read(&conn.server, 0, 100)?;
        let now = listed(port(&conn)?)?;
        Ok(now["client"]["carrier"] == "ring" && now["client"]["reason"] == "none")
    })?;
    Ok(Claim::ring(LENGTH).tcp(100_000))
}

/// One end has left, the other one still has bytes to read.
fn who_left(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    PATTERN.write(&server, 0, LENGTH)?;
    let port = client.local_addr()?.port();
    // Should the FIN's acknowledgment come while close() still owns the socket, it stays for as long (tcp_rcv_state_process()): not a minute.
    sys::set_option(&server, libc::IPPROTO_TCP, libc::TCP_LINGER2, 1)?;
    drop(server);
    wait_until("the accepted end's socket gone", || {
        Ok(listed(port)?["server"]["socket"].is_null())
    })?;
    let now = listed(port)?;
    ensure!(now["client"]["carrier"] == "closed", "{now}");
    ensure!(now["server"]["unread"] == LENGTH, "{now}");
    ensure!(now["client"]["socket"]["tcp_state"] != "ESTAB", "{now}");
    PATTERN.read_to_end(&client, 0, LENGTH)?;
    Ok(Claim::ring(LENGTH))
}

/// Both ends, for as long as they live.
fn drained(env: &Env) -> Result<Claim> {
    let conn = env.conn()?;
    let port = port(&conn)?;
    PATTERN.write(&conn.client, 0, LENGTH)?;
    PATTERN.read(&conn.server, 0, LENGTH)?;
    let spliced = listed(port)?;
    run(&[CTL, "drain", "--ports", &port.to_string()])?;
    let plain = list(port, "plain")?;
    ensure!(plain.len() == 2, "{plain:?}");
    for (role, socket) in [("client", &conn.client), ("server", &conn.server)] {
        let end = plain.iter().find(|end| end["role"] == role);
        let end = end.with_context(|| format!("no {role} in {plain:?}"))?;
        ensure!(end["reason"] == "drained", "{end}");
        check_socket(end, socket)?;
        for field in ["ring_bytes", "wakes", "stalls"] {
            let carried = &spliced[role][field];
            ensure!(end[field] == *carried, "{field} is not {carried}: {end}");
        }
    }
    ensure!(list(port, "connections")?.is_empty(), "it is spliced, too");
    let text = run(&[CTL, "list", "--ports", &port.to_string()])?;
    ensure!(text.contains("drained"), "{text}");
    PATTERN.write(&conn.client, 0, LENGTH)?;
    PATTERN.read(&conn.server, 0, LENGTH)?;
    drop(conn);
    wait_until("nothing to be listed", || {
        Ok(list(port, "plain")?.is_empty())
    })?;
    Ok(Claim::ring(LENGTH).any_tcp())
}

/// Connections of which one end has a socket filter, past which ring bytes would go. The client of the second one finds nobody who
/// takes its offer: that is no refusal.
fn refused(env: &Env) -> Result<Claim> {
    for filtered in [End::Client, End::Server] {
        let (client, server) = filtered_at(env, filtered)?;
        let port = client.local_addr()?.port();
        let plain = list(port, "plain")?;
        ensure!(plain.len() == 1, "{plain:?}");
        let (role, socket) = match filtered {
            End::Client => ("client", &client),
            End::Server => ("server", &server),
        };
        ensure!(plain[0]["role"] == role, "not the {role}: {plain:?}");
        ensure!(plain[0]["reason"] == "packet_policy", "{plain:?}");
        check_socket(&plain[0], socket)?;
        PATTERN.write(&client, 0, LENGTH)?;
        PATTERN.read(&server, 0, LENGTH)?;
        drop(client);
        drop(server);
        wait_until("nothing to be listed", || {
            Ok(list(port, "plain")?.is_empty())
        })?;
    }
    Ok(Claim::untouched())
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    Client,
    Server,
}

/// A connection of which this end has a filter, which lets everything through. A listener's children have its filter.
fn filtered_at(env: &Env, end: End) -> Result<(TcpStream, TcpStream)> {
    let listener = env.link.listen()?;
    let client = env.link.client_socket()?;
    match end {
        End::Client => sys::attach_filter(&client, u32::MAX)?,
        End::Server => sys::attach_filter(&listener, u32::MAX)?,
    }
    client.connect(&env.link.address(&listener)?.into())?;
    let (server, _) = listener.accept().context("failed to accept")?;
    Ok((client.into(), server))
}

/// More than are kept: the newest ones are there, each once, and nothing else is.
fn the_newest_refused(env: &Env) -> Result<Claim> {
    const KEPT: usize = 1024;
    const MORE: usize = 100;
    sys::need_descriptors(3 * (KEPT + MORE))?;
    let conns: Vec<_> = (0..KEPT + MORE)
        .map(|_| filtered_at(env, End::Client))
        .collect::<Result<_>>()?;
    let text = fs::read_to_string(PLAIN).with_context(|| format!("failed to read {PLAIN}"))?;
    ensure!(
        text.lines().count() == KEPT,
        "{} lines",
        text.lines().count()
    );
    for (index, (client, _)) in conns.iter().enumerate() {
        let (local, remote) = (client.local_addr()?, client.peer_addr()?);
        let ends = format!(" client.local={local} client.remote={remote} ");
        let times = text.lines().filter(|line| line.contains(&ends)).count();
        ensure!(times == usize::from(index >= MORE), "{ends}: {times} times");
    }
    Ok(Claim::untouched())
}

/// Who talks to whom is nobody else's business.
fn for_root_only(env: &Env) -> Result<Claim> {
    let conn = env.conn()?;
    for argv in [&["cat", LIST][..], &["cat", PLAIN], &[CTL, "list"]] {
        let nobody = [
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
        ];
        let refused = run(&[&nobody, argv].concat()).err();
        let message = refused.context("nobody could read the list")?.to_string();
        ensure!(
            message.contains("Permission denied") || message.contains("must be run as root"),
            "{argv:?} said {message}"
        );
    }
    PATTERN.write(&conn.client, 0, LENGTH)?;
    PATTERN.read(&conn.server, 0, LENGTH)?;
    Ok(Claim::ring(LENGTH))
}

/// Connections come and go while the list is read; those that stay are in it, each once.
fn complete_under_churn(env: &Env) -> Result<Claim> {
    const STAY: usize = 200;
    const READS: usize = 40;
    let conns = env.many(STAY)?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let churn = || -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                let conn = env.cold()?;
                PATTERN.write(&conn.client, 0, 100)?;
                PATTERN.read(&conn.server, 0, 100)?;
            }
            Ok(())
        };
        let threads = [scope.spawn(churn), scope.spawn(churn)];
        let read = (0..READS).try_for_each(|_| every_one_once(&conns));
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().expect("churn panicked")?;
        }
        read
    })?;
    PATTERN.write(&conns[0].client, 0, LENGTH)?;
    PATTERN.read(&conns[0].server, 0, LENGTH)?;
    Ok(Claim::ring(LENGTH).pairs(STAY as u64).tcp(usize::MAX / 2))
}

fn every_one_once(conns: &[Conn]) -> Result<()> {
    let text = fs::read_to_string(LIST).with_context(|| format!("failed to read {LIST}"))?;
    let mut times: BTreeMap<(SocketAddr, SocketAddr), usize> = BTreeMap::new();
    for line in text.lines() {
        let field = |name: &str| line.split(' ').find_map(|field| field.strip_prefix(name));
        if let Some((local, remote)) = field("client.local=").zip(field("client.remote=")) {
            *times.entry((local.parse()?, remote.parse()?)).or_default() += 1;
        }
    }
    for conn in conns {
        let (local, remote) = (conn.client.local_addr()?, conn.client.peer_addr()?);
        let seen = times.get(&(local, remote)).copied().unwrap_or(0);
        ensure!(seen == 1, "{local} to {remote} was listed {seen} times");
    }
    Ok(())
}
