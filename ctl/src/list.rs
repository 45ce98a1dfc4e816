// SPDX-License-Identifier: GPL-2.0-only
//! What `list` says, as text and as JSON.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::net::SocketAddr;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets::NOTHING};
use serde::Serialize;

use crate::connections::{Connection, End, Plain, Process, Socket};

/// Version of the JSON object. It goes up only when a field is removed or changes its meaning.
const SCHEMA: u32 = 1;

const HEADER: [&str; 10] = [
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
const PLAIN_HEADER: [&str; 7] = ["PLAIN TCP", "REMOTE", "OF", "AS", "WHY", "RING", "TCP"];
/// The first column that holds a number, of either table.
const NUMBERS: usize = 5;

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

/// A table with a line for each connection, in the order of their addresses, and one for each socket that is plain TCP, if there are any.
pub fn text(connections: &[Connection], plain: &[Plain]) -> String {
    let mut table = table(&HEADER);
    let mut sorted: Vec<&Connection> = connections.iter().collect();
    sorted.sort_by_key(|connection| {
        let Connection { client, server, .. } = connection;
        (address(server, client), address(client, server))
    });
    for connection in sorted {
        table.add_row(row(connection));
    }
    match plain {
        [] => written(table),
        plain => written(table) + "\n" + &plain_text(plain),
    }
}

fn plain_text(plain: &[Plain]) -> String {
    let mut table = table(&PLAIN_HEADER);
    let mut sorted: Vec<&Plain> = plain.iter().collect();
    sorted.sort_by_key(|one| (one.socket.local.value, one.socket.remote.value));
    for Plain {
        role,
        reason,
        socket,
        ring_bytes,
        ..
    } in sorted
    {
        let [local, remote] = [&socket.local, &socket.remote].map(|a| a.value.to_string());
        let owners = owners(Some(socket));
        let [ring, tcp] = [ring_bytes, &socket.tcp_bytes].map(u64::to_string);
        table.add_row([&local, &remote, &owners, *role, *reason, &ring, &tcp]);
    }
    written(table)
}

/// An empty table as `ss` and `ip` print them: no lines, two spaces between columns.
fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

fn written(mut table: Table) -> String {
    for column in table.column_iter_mut().skip(NUMBERS) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let lines = table.lines().map(|line| line.trim_end().to_owned() + "\n");
    lines.collect()
}

fn row(connection: &Connection) -> [String; HEADER.len()] {
    let Connection { client, server, .. } = connection;
    let tcp = |end: &End| {
        end.socket
            .as_ref()
            .map_or("-".to_owned(), |s| s.tcp_bytes.to_string())
    };
    [
        named(address(client, server)),
        named(address(server, client)),
        owners(client.socket.as_ref()),
        owners(server.socket.as_ref()),
        state(client, server),
        client.ring_bytes.to_string(),
        server.ring_bytes.to_string(),
        tcp(client),
        tcp(server),
        client.stalls.saturating_add(server.stalls).to_string(),
    ]
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

/// A process chooses its command's name, which may hold anything: nothing of it reaches the terminal but what can be seen.
fn name(process: &Process) -> String {
    let command = process.command.replace(|c: char| c.is_control(), "?");
    format!("{command}/{}", process.pid)
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
            spun_us: 0,
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
        let text = text(&[], &[plain()]);
        let lines: Vec<&str> = text.lines().skip(1).collect();
        let want = [
            "",
            "PLAIN TCP        REMOTE       OF              AS      WHY      RING  TCP",
            "127.0.0.1:40000  10.0.0.1:80  redis-server/9  client  drained   100    4",
        ];
        assert_eq!(lines, want);
    }

    #[test]
    fn text_is_a_table() {
        let text = text(&[connection()], &[]);
        let words: Vec<Vec<&str>> = text
            .lines()
            .map(|line| {
                line.split("  ")
                    .filter(|w| !w.is_empty())
                    .map(str::trim)
                    .collect()
            })
            .collect();
        assert_eq!(words[0], HEADER);
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
        assert_eq!(words[1], want);
    }

    #[test]
    fn no_connections_is_a_header() {
        assert_eq!(text(&[], &[]).lines().count(), 1);
    }

    #[test]
    fn who_left_is_seen_by_the_other() {
        let mut connection = connection();
        connection.server.socket = None;
        assert_eq!(row(&connection)[1], "10.0.0.1:80");
        assert_eq!(row(&connection)[3], "-");
    }

    #[test]
    fn names_cannot_speak_to_the_terminal() {
        let process = Process {
            pid: 7,
            command: "a\x1b[2J\nb".into(),
        };
        assert_eq!(name(&process), "a?[2J?b/7");
    }

    #[test]
    fn json_schema_1() {
        let mut text = Vec::new();
        json(&mut text, &[connection()], &[plain()]).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(value["schema"], 1);
        let end = r#"{"carrier":"ring","reason":"none","ring_bytes":100,"ring_size":65536,"socket":{"cgroup":3,"inode":2,"local":"127.0.0.1:40000","netns":1,"processes":[{"command":"redis-server","pid":9}],"remote":"10.0.0.1:80","tcp_bytes":4,"tcp_state":"ESTAB"},"spun_us":0,"stalls":2,"unread":0,"wakes":1}"#;
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
