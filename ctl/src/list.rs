// SPDX-License-Identifier: GPL-2.0-only
//! What `list` says, as text and as JSON.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, Write};
use std::net::SocketAddr;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets::NOTHING};
use serde::Serialize;

use crate::connections::{Connection, End, Plain, Process, Socket};

/// Version of the JSON object. It goes up only when a field is removed or changes its meaning.
const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct Json<'a> {
    schema: u32,
    connections: &'a [Connection<'a>],
    plain: &'a [Plain<'a>],
}

/// Writes one JSON object, described in the help of `list`, in one line as `ip` and `ss` do: it is long, and for programs.
pub fn json(writer: impl Write, connections: &[Connection], plain: &[Plain]) -> io::Result<()> {
    let json = Json {
        schema: SCHEMA,
        connections,
        plain,
    };
    Ok(serde_json::to_writer(writer, &json)?)
}

/// What is only shown in an extended list.
#[derive(Debug)]
pub struct Extended {
    /// Names of cgroups, by number.
    pub cgroups: HashMap<u64, String>,
}

/// A table with a line for each connection, in the order of their addresses, and one for each socket that is plain TCP, if there are any.
pub fn text(connections: &[Connection], plain: &[Plain], extended: Option<&Extended>) -> String {
    let mut connections: Vec<&Connection> = connections.iter().collect();
    connections.sort_by_key(|connection| {
        let Connection { client, server, .. } = connection;
        (address(server, client), address(client, server))
    });
    let mut text = table(&columns(), &connections, extended);
    let mut plain: Vec<&Plain> = plain.iter().collect();
    plain.sort_by_key(|one| (one.socket.local.value, one.socket.remote.value));
    if !plain.is_empty() {
        text.push('\n');
        text += &table(&plain_columns(), &plain, extended);
    }
    text
}

/// What a column says of a `T`.
enum Cell<T> {
    Word(fn(&T) -> String),
    Number(fn(&T) -> String),
    /// Only in an extended list.
    More(fn(&T, &Extended) -> String),
    MoreNumber(fn(&T) -> String),
}

type Column<T> = (&'static str, Cell<T>);

fn columns<'a>() -> [Column<Connection<'a>>; 22] {
    use Cell::{More, MoreNumber, Number, Word};
    [
        ("CLIENT", Word(|c| named(address(&c.client, &c.server)))),
        ("SERVER", Word(|c| named(address(&c.server, &c.client)))),
        ("CLIENT SEES", More(|c, _| remote(&c.client))),
        ("SERVER SEES", More(|c, _| remote(&c.server))),
        ("CLIENT OF", Word(|c| owners(c.client.socket.as_ref()))),
        ("SERVER OF", Word(|c| owners(c.server.socket.as_ref()))),
        (
            "CLIENT IN",
            More(|c, more| cgroup(c.client.socket.as_ref(), more)),
        ),
        (
            "SERVER IN",
            More(|c, more| cgroup(c.server.socket.as_ref(), more)),
        ),
        ("STATE", Word(|c| state(&c.client, &c.server))),
        ("RING TO", Number(|c| c.client.ring_bytes.to_string())),
        ("RING BACK", Number(|c| c.server.ring_bytes.to_string())),
        ("TCP TO", Number(|c| tcp_bytes(&c.client))),
        ("TCP BACK", Number(|c| tcp_bytes(&c.server))),
        ("UNREAD TO", MoreNumber(|c| c.client.unread.to_string())),
        ("UNREAD BACK", MoreNumber(|c| c.server.unread.to_string())),
        ("SIZE TO", MoreNumber(|c| c.client.ring_size.to_string())),
        ("SIZE BACK", MoreNumber(|c| c.server.ring_size.to_string())),
        ("WAKES TO", MoreNumber(|c| c.client.wakes.to_string())),
        ("WAKES BACK", MoreNumber(|c| c.server.wakes.to_string())),
        ("SPUN TO", MoreNumber(|c| c.client.spun_us.to_string())),
        ("SPUN BACK", MoreNumber(|c| c.server.spun_us.to_string())),
        (
            "FULL",
            Number(|c| c.client.stalls.saturating_add(c.server.stalls).to_string()),
        ),
    ]
}

fn plain_columns<'a>() -> [Column<Plain<'a>>; 8] {
    use Cell::{More, Number, Word};
    [
        ("PLAIN TCP", Word(|one| one.socket.local.value.to_string())),
        ("REMOTE", Word(|one| one.socket.remote.value.to_string())),
        ("OF", Word(|one| owners(Some(&one.socket)))),
        ("IN", More(|one, more| cgroup(Some(&one.socket), more))),
        ("AS", Word(|one| one.role.to_owned())),
        ("WHY", Word(|one| one.reason.to_owned())),
        ("RING", Number(|one| one.ring_bytes.to_string())),
        ("TCP", Number(|one| one.socket.tcp_bytes.to_string())),
    ]
}

/// A table as `ss` and `ip` print them: no lines, two spaces between columns.
fn table<T>(columns: &[Column<T>], rows: &[&T], extended: Option<&Extended>) -> String {
    let shown =
        |cell: &Cell<T>| extended.is_some() || matches!(cell, Cell::Word(_) | Cell::Number(_));
    let columns: Vec<&Column<T>> = columns.iter().filter(|(_, cell)| shown(cell)).collect();
    let mut table = Table::new();
    table.load_preset(NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(columns.iter().map(|(name, _)| *name));
    for row in rows {
        table.add_row(columns.iter().map(|(_, cell)| match cell {
            Cell::Word(text) | Cell::Number(text) | Cell::MoreNumber(text) => text(row),
            Cell::More(text) => extended.map_or_else(String::new, |more| text(row, more)),
        }));
    }
    for (column, (_, cell)) in table.column_iter_mut().zip(columns) {
        column.set_padding((0, 2));
        if matches!(cell, Cell::Number(_) | Cell::MoreNumber(_)) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let lines = table.lines().map(|line| line.trim_end().to_owned() + "\n");
    lines.collect()
}

fn tcp_bytes(end: &End) -> String {
    let socket = end.socket.as_ref();
    socket.map_or("-".to_owned(), |socket| socket.tcp_bytes.to_string())
}

/// The other end's address as this one sees it.
fn remote(end: &End) -> String {
    named(end.socket.as_ref().map(|socket| socket.remote.value))
}

/// The name of its cgroup, or the number of one that cannot be seen from here.
fn cgroup(socket: Option<&Socket>, more: &Extended) -> String {
    let Some(Socket { cgroup, .. }) = socket else {
        return "-".to_owned();
    };
    more.cgroups
        .get(cgroup)
        .map_or_else(|| cgroup.to_string(), |name| visible(name))
}

/// An end's own address, else what the other one takes for it.
fn address(end: &End, other: &End) -> Option<SocketAddr> {
    let own = end.socket.as_ref().map(|socket| socket.local.value);
    own.or_else(|| other.socket.as_ref().map(|socket| socket.remote.value))
}

fn named(address: Option<SocketAddr>) -> String {
    address.map_or("-".to_owned(), |address| address.to_string())
}

/// `redis-server/512`, and how many more.
fn owners(socket: Option<&Socket>) -> String {
    let processes = socket.map_or(&[][..], |socket| socket.processes);
    match processes {
        [] => "-".to_owned(),
        [one] => name(one),
        [first, rest @ ..] => format!("{}+{}", name(first), rest.len()),
    }
}

fn name(process: &Process) -> String {
    format!("{}/{}", visible(&process.command), process.pid)
}

/// Users choose names of commands and cgroups, which may hold anything: nothing of it reaches the terminal but what can be seen, and where it is.
fn visible(name: &str) -> String {
    let moves = |c| matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    name.replace(|c: char| c.is_control() || moves(c), "?")
}

/// What carries the bytes; one word if both directions agree.
fn state(client: &End, server: &End) -> String {
    let words: BTreeSet<String> = [client, server].map(carrier).into();
    let (to, back) = (carrier(client), carrier(server));
    if words.len() == 1 {
        to
    } else {
        format!("{to}, back {back}")
    }
}

fn carrier(end: &End) -> String {
    match (end.carrier, end.reason) {
        ("tcp" | "leaving" | "closed", reason) if reason != "none" => {
            format!("{} ({reason})", end.carrier)
        }
        (carrier, _) => carrier.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::connections::Address;

    static REDIS: LazyLock<[Process; 1]> = LazyLock::new(|| {
        [Process {
            pid: 9,
            command: "redis-server".into(),
        }]
    });

    fn end(
        local: &'static str,
        remote: &'static str,
        carrier: &'static str,
        reason: &'static str,
    ) -> End<'static> {
        End {
            socket: Some(Socket {
                local: Address::parse(local).unwrap(),
                remote: Address::parse(remote).unwrap(),
                tcp_state: "ESTAB",
                netns: 1,
                inode: 2,
                cgroup: 3,
                tcp_bytes: 4,
                processes: &*REDIS,
            }),
            carrier,
            reason,
            ring_bytes: 100,
            unread: 0,
            ring_size: 65536,
            wakes: 1,
            stalls: 2,
            spun_us: 7,
        }
    }

    fn connection() -> Connection<'static> {
        Connection {
            id: 1,
            client: end("127.0.0.1:40000", "10.0.0.1:80", "ring", "none"),
            server: end("[::1]:6379", "127.0.0.1:40000", "tcp", "packets"),
        }
    }

    fn plain() -> Plain<'static> {
        Plain {
            role: "client",
            reason: "drained",
            socket: connection().client.socket.unwrap(),
            ring_bytes: 100,
            wakes: 1,
            stalls: 2,
        }
    }

    #[test]
    fn plain_sockets_come_behind() {
        let text = text(&[], &[plain()], None);
        let lines: Vec<&str> = text.lines().skip(1).collect();
        let want = [
            "",
            "PLAIN TCP        REMOTE       OF              AS      WHY      RING  TCP",
            "127.0.0.1:40000  10.0.0.1:80  redis-server/9  client  drained   100    4",
        ];
        assert_eq!(lines, want);
    }

    /// The cells of a line.
    fn cells(line: &str) -> Vec<&str> {
        let cells = line.split("  ").filter(|cell| !cell.is_empty());
        cells.map(str::trim).collect()
    }

    #[test]
    fn text_is_a_table() {
        let text = text(&[connection()], &[], None);
        let lines: Vec<_> = text.lines().map(cells).collect();
        let header = [
            "CLIENT",
            "SERVER",
            "CLIENT OF",
            "SERVER OF",
            "STATE",
            "RING TO",
            "RING BACK",
            "TCP TO",
            "TCP BACK",
            "FULL",
        ];
        let want = [
            "127.0.0.1:40000",
            "[::1]:6379",
            "redis-server/9",
            "redis-server/9",
            "ring, back tcp (packets)",
            "100",
            "100",
            "4",
            "4",
            "4",
        ];
        assert_eq!(lines, [header, want]);
    }

    #[test]
    fn extended_text_says_all() {
        let extended = |names: &[(u64, &str)]| Extended {
            cgroups: names
                .iter()
                .map(|(id, name)| (*id, (*name).to_owned()))
                .collect(),
        };
        let mut connection = connection();
        connection.server.socket.as_mut().unwrap().cgroup = 5;
        let more = extended(&[(3, "/a\x07/b.service"), (4, "/other")]);
        let text = text(&[connection], &[plain()], Some(&more));
        let lines: Vec<_> = text.lines().map(cells).collect();
        let column = |table: usize, name| {
            let place = lines[table].iter().position(|header| *header == name);
            lines[table + 1][place.unwrap()]
        };
        assert_eq!(column(0, "SERVER SEES"), "127.0.0.1:40000");
        assert_eq!(column(0, "CLIENT SEES"), "10.0.0.1:80");
        assert_eq!(column(0, "CLIENT IN"), "/a?/b.service");
        assert_eq!(column(0, "SERVER IN"), "5");
        assert_eq!(column(0, "SIZE TO"), "65536");
        assert_eq!(column(0, "UNREAD BACK"), "0");
        assert_eq!(column(0, "WAKES TO"), "1");
        assert_eq!(column(0, "SPUN BACK"), "7");
        assert_eq!(column(3, "IN"), "/a?/b.service");
    }

    #[test]
    fn no_connections_is_a_header() {
        assert_eq!(text(&[], &[], None).lines().count(), 1);
    }

    #[test]
    fn who_left_is_seen_by_the_other() {
        let mut connection = connection();
        connection.server.socket = None;
        let text = text(&[connection], &[], None);
        let line = cells(text.lines().nth(1).unwrap());
        assert_eq!((line[1], line[3]), ("10.0.0.1:80", "-"));
    }

    #[test]
    fn names_cannot_speak_to_the_terminal() {
        let process = Process {
            pid: 7,
            command: "a\x1b[2J\nb\u{202e}".into(),
        };
        assert_eq!(name(&process), "a?[2J?b?/7");
    }

    #[test]
    fn json_schema_1() {
        let mut text = Vec::new();
        json(&mut text, &[connection()], &[plain()]).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(value["schema"], 1);
        let end = r#"{"carrier":"ring","reason":"none","ring_bytes":100,"ring_size":65536,"socket":{"cgroup":3,"inode":2,"local":"127.0.0.1:40000","netns":1,"processes":[{"command":"redis-server","pid":9}],"remote":"10.0.0.1:80","tcp_bytes":4,"tcp_state":"ESTAB"},"spun_us":7,"stalls":2,"unread":0,"wakes":1}"#;
        assert_eq!(value["connections"][0]["client"].to_string(), end);
        assert_eq!(value["connections"][0]["id"], 1);
        let plain = &value["plain"][0];
        assert_eq!(
            (&plain["role"], &plain["reason"]),
            (&"client".into(), &"drained".into())
        );
        let client = &value["connections"][0]["client"];
        for field in ["socket", "ring_bytes", "wakes", "stalls"] {
            assert_eq!(plain[field], client[field]);
        }
    }
}
