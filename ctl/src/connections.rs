// SPDX-License-Identifier: GPL-2.0-only
//! The module's lists of spliced connections and of sockets that are plain TCP after all (`/proc/net/tcp_splice` and `tcp_splice_plain`,
//! described in docs/contract.md): reading their text.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::{SocketAddr, SocketAddrV6};

use serde::{Serialize, Serializer};

use crate::ports::Ports;

/// Who has a socket open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Its number in this PID namespace.
    pub pid: i32,
    /// Its command, as in `/proc/PID/comm`.
    pub command: String,
}

/// An address, and how it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address<'a> {
    /// The address.
    pub value: SocketAddr,
    text: Cow<'a, str>,
}

/// The socket of one end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Socket<'a> {
    /// Its address as it sees it.
    pub local: Address<'a>,
    /// The other end's address as it sees it.
    pub remote: Address<'a>,
    /// State of its TCP, as `ss` names it.
    pub tcp_state: &'static str,
    /// Number of its network namespace (`lsns -t net`).
    pub netns: u64,
    /// Its inode number, 0 if it was not accepted yet or its descriptors are closed.
    pub inode: u64,
    /// Number of its cgroup.
    pub cgroup: u64,
    /// Bytes it sent over TCP.
    pub tcp_bytes: u64,
    /// Who has it open, of those that can be seen from here.
    pub processes: &'a [Process],
}

/// One end: its socket, and the direction in which it sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct End<'a> {
    /// `None` when it has left the connection to the other end.
    pub socket: Option<Socket<'a>>,
    /// What carries its bytes: `new` (nothing yet but TCP), `ring`, `leaving` (TCP, behind what is unread in the ring), `tcp`, `closed`.
    pub carrier: &'a str,
    /// Why that is TCP; `none` when it is not.
    pub reason: &'a str,
    /// Bytes it sent through the ring.
    pub ring_bytes: u64,
    /// Of these, unread by the other end.
    pub unread: u64,
    /// Bytes the ring holds at most; 0 before there is one.
    pub ring_size: u64,
    /// Times its bytes woke the other end.
    pub wakes: u64,
    /// Times it found the ring full.
    pub stalls: u64,
    /// Microseconds that the other end spun for its bytes without having been told to; 0 from a module that does not say.
    pub spun_us: u64,
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Connection<'a> {
    /// A number that no other connection has until the module is loaded anew.
    pub id: u64,
    /// The end that connected.
    pub client: End<'a>,
    /// The end that was accepted.
    pub server: End<'a>,
}

/// A socket that is plain TCP although the policy wanted it: its connection was refused, or drained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plain<'a> {
    /// `client` if it connected, `server` if it was accepted.
    pub role: &'static str,
    /// Why: that of a counter `refused_<reason>`, or `drained`.
    pub reason: &'a str,
    /// The socket.
    pub socket: Socket<'a>,
    /// Bytes it sent through the ring that it had.
    pub ring_bytes: u64,
    /// Times these woke the other end.
    pub wakes: u64,
    /// Times it found that ring full.
    pub stalls: u64,
}

/// `ss`'s names, by the kernel's numbers (net/tcp_states.h).
const STATES: [&str; 14] = [
    "UNKNOWN",
    "ESTAB",
    "SYN-SENT",
    "SYN-RECV",
    "FIN-WAIT-1",
    "FIN-WAIT-2",
    "TIME-WAIT",
    "UNCONN",
    "CLOSE-WAIT",
    "LAST-ACK",
    "LISTEN",
    "CLOSING",
    "SYN-RECV",
    "UNCONN",
];

impl<'a> Connection<'a> {
    /// Reads the list. A line that cannot be read is left out, a field that is not known is passed over: a newer module may say more. So are
    /// connections of which both ends have left.
    pub fn read_all(list: &'a str) -> Vec<Self> {
        let all = list.lines().filter_map(Self::parse);
        all.filter(|one| one.sockets().next().is_some()).collect()
    }

    fn parse(line: &'a str) -> Option<Self> {
        let (mut id, mut client, mut server) = (None, Fields::new(), Fields::new());
        for field in line.split_ascii_whitespace() {
            if let Some(field) = field.strip_prefix("client.") {
                client.all.push(field);
            } else if let Some(field) = field.strip_prefix("server.") {
                server.all.push(field);
            } else if let Some(number) = field.strip_prefix("id=") {
                id = number.parse().ok();
            }
        }
        Some(Self {
            id: id?,
            client: End::parse(&mut client)?,
            server: End::parse(&mut server)?,
        })
    }

    /// The sockets of the ends that have not left.
    pub fn sockets(&self) -> impl Iterator<Item = &Socket<'a>> {
        [&self.client, &self.server]
            .into_iter()
            .filter_map(|end| end.socket.as_ref())
    }

    /// Has one of these ports at either end, as either end sees it.
    pub fn has_port(&self, ports: &Ports) -> bool {
        self.sockets().any(|socket| socket.has_port(ports))
    }

    /// Notes who has its sockets open, by inode number.
    pub fn find_processes(&mut self, owners: &'a HashMap<u64, Vec<Process>>) {
        for end in [&mut self.client, &mut self.server] {
            if let Some(socket) = &mut end.socket {
                socket.find_processes(owners);
            }
        }
    }
}

impl<'a> Plain<'a> {
    /// Reads the list, as [`Connection::read_all`] does.
    pub fn read_all(list: &'a str) -> Vec<Self> {
        list.lines().filter_map(Self::parse).collect()
    }

    fn parse(line: &'a str) -> Option<Self> {
        let mut reason = None;
        let mut ends = [("client", Fields::new()), ("server", Fields::new())];
        for field in line.split_ascii_whitespace() {
            if let Some(word) = field.strip_prefix("reason=") {
                reason = Some(word);
            }
            for (role, fields) in &mut ends {
                let field = field.strip_prefix(*role);
                fields.all.extend(field.and_then(|f| f.strip_prefix('.')));
            }
        }
        let reason = reason?;
        ends.iter_mut().find_map(|(role, fields)| {
            Some(Self {
                role,
                reason,
                socket: Socket::parse(fields)?,
                ring_bytes: fields.number("ring_bytes=").unwrap_or(0),
                wakes: fields.number("wakes=").unwrap_or(0),
                stalls: fields.number("stalls=").unwrap_or(0),
            })
        })
    }
}

/// The `name=value` fields of an end. They are looked for where they stand in the module's text, each behind the one before it; in another
/// order they are found, too.
struct Fields<'a> {
    all: Vec<&'a str>,
    next: usize,
}

impl<'a> Fields<'a> {
    /// How many a line has for an end.
    const USUAL: usize = 16;

    fn new() -> Self {
        Self {
            all: Vec::with_capacity(Self::USUAL),
            next: 0,
        }
    }

    /// What is behind `name=`.
    fn word(&mut self, name: &str) -> Option<&'a str> {
        let (before, behind) = self.all.split_at_checked(self.next)?;
        let fields = behind.iter().chain(before);
        let found = fields.zip(0..).find_map(|(field, skipped)| {
            let value = field.strip_prefix(name)?;
            Some((value, skipped))
        });
        let (value, skipped) = found?;
        let after: usize = self.next + skipped + 1;
        self.next = after % self.all.len();
        Some(value)
    }

    fn number(&mut self, name: &str) -> Option<u64> {
        self.word(name)?.parse().ok()
    }
}

impl<'a> Socket<'a> {
    /// Has one of these ports at either end, as it sees them.
    pub fn has_port(&self, ports: &Ports) -> bool {
        let mut addresses = [&self.local, &self.remote].into_iter();
        addresses.any(|address| ports.as_slice().contains(&address.value.port()))
    }

    /// Notes who has it open, by inode number.
    pub fn find_processes(&mut self, owners: &'a HashMap<u64, Vec<Process>>) {
        self.processes = owners.get(&self.inode).map_or(&[], Vec::as_slice);
    }

    /// `None`: it has left, or the fields make no sense.
    fn parse(fields: &mut Fields<'a>) -> Option<Self> {
        Some(Self {
            local: Address::parse(fields.word("local=")?)?,
            remote: Address::parse(fields.word("remote=")?)?,
            netns: fields.number("netns=")?,
            inode: fields.number("inode=")?,
            cgroup: fields.number("cgroup=")?,
            tcp_state: state(fields.word("tcp_state=")?)?,
            tcp_bytes: fields.number("tcp_bytes=")?,
            processes: &[],
        })
    }
}

fn state(number: &str) -> Option<&'static str> {
    let number: usize = number.parse().ok()?;
    Some(STATES.get(number).copied().unwrap_or("UNKNOWN"))
}

impl<'a> End<'a> {
    fn parse(fields: &mut Fields<'a>) -> Option<Self> {
        Some(Self {
            socket: Socket::parse(fields),
            carrier: fields.word("carrier=")?,
            reason: fields.word("reason=")?,
            ring_bytes: fields.number("ring_bytes=")?,
            unread: fields.number("unread=")?,
            ring_size: fields.number("ring_size=")?,
            wakes: fields.number("wakes=")?,
            stalls: fields.number("stalls=")?,
            spun_us: fields.number("spun_us=").unwrap_or(0),
        })
    }
}

impl<'a> Address<'a> {
    /// IPv4 addresses in IPv6 clothes are shown as what they are.
    pub fn parse(text: &'a str) -> Option<Self> {
        Some(match text.parse().ok()? {
            SocketAddr::V6(v6) => {
                let value = SocketAddr::new(SocketAddrV6::ip(&v6).to_canonical(), v6.port());
                let text = value.to_string().into();
                Self { value, text }
            }
            // There is one way to write it.
            value => Self {
                value,
                text: text.into(),
            },
        })
    }
}

impl Serialize for Address<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "id=7 client.local=127.0.0.1:40000 client.remote=127.0.0.1:6379 client.netns=4026531840 client.inode=11 \
client.cgroup=1 client.tcp_state=1 client.tcp_bytes=5 client.carrier=ring client.reason=none client.ring_bytes=100 client.unread=20 \
client.ring_size=65536 client.wakes=3 client.stalls=0 client.spun_us=9 server.local=[::ffff:127.0.0.1]:6379 server.remote=[::ffff:127.0.0.1]:40000 \
server.netns=4026531840 server.inode=12 server.cgroup=2 server.tcp_state=8 server.tcp_bytes=6 server.carrier=tcp \
server.reason=packets server.ring_bytes=0 server.unread=0 server.ring_size=0 server.wakes=0 server.stalls=1 server.new=x\n";

    fn read_all(text: &str) -> Vec<Connection<'_>> {
        Connection::read_all(text)
    }

    fn one() -> Connection<'static> {
        let all = read_all(LINE);
        assert_eq!(all.len(), 1);
        all[0].clone()
    }

    #[test]
    fn reads_a_line() {
        let connection = one();
        let client = connection.client.socket.as_ref().unwrap();
        let server = connection.server.socket.as_ref().unwrap();
        assert_eq!(connection.id, 7);
        assert_eq!(client.local, server.remote);
        assert_eq!(
            (client.tcp_state, server.tcp_state),
            ("ESTAB", "CLOSE-WAIT")
        );
        assert_eq!((connection.client.unread, connection.client.wakes), (20, 3));
        assert_eq!(
            (connection.client.spun_us, connection.server.spun_us),
            (9, 0)
        );
        assert_eq!(
            (connection.server.carrier, connection.server.reason),
            ("tcp", "packets")
        );
    }

    #[test]
    fn order_does_not_matter() {
        let mut fields: Vec<&str> = LINE.trim().split(' ').collect();
        fields.reverse();
        let line = fields.join(" ");
        assert_eq!(read_all(&line), [one()]);
    }

    #[test]
    fn an_end_may_have_left() {
        let line: Vec<&str> = LINE
            .trim()
            .split(' ')
            .filter(|field| !field.starts_with("client.local"))
            .collect();
        let text = line.join(" ");
        let all = read_all(&text);
        assert!(all[0].client.socket.is_none() && all[0].server.socket.is_some());
        let neither: Vec<&str> = line
            .into_iter()
            .filter(|field| !field.starts_with("server.local"))
            .collect();
        assert!(read_all(&neither.join(" ")).is_empty());
    }

    #[test]
    fn plain_sockets_have_one_end() {
        let socket = "local=10.0.0.1:80 remote=10.0.0.2:4000 netns=1 inode=12 cgroup=2 tcp_state=1 tcp_bytes=6 ring_bytes=7 wakes=8 stalls=9";
        let line = format!(" {socket}").replace(' ', " server.");
        let text = format!("reason=drained{line}\nreason=x client.local=1\n{line}\n\n");
        let [plain] = &Plain::read_all(&text)[..] else {
            panic!("{text}");
        };
        assert_eq!((plain.role, plain.reason), ("server", "drained"));
        assert_eq!((plain.socket.inode, plain.socket.tcp_state), (12, "ESTAB"));
        assert_eq!((plain.ring_bytes, plain.wakes, plain.stalls), (7, 8, 9));
        let ports = |text: &str| text.parse().unwrap();
        assert!(plain.socket.has_port(&ports("4000")) && !plain.socket.has_port(&ports("81")));
    }

    #[test]
    fn strange_lines_are_left_out() {
        for line in [
            "",
            "id=x",
            "id=7",
            "what is this",
            &LINE.replace("client.wakes=3", "client.wakes=-3"),
        ] {
            assert!(read_all(line).is_empty(), "{line}");
        }
    }

    #[test]
    fn ports_of_either_end() {
        for (ports, want) in [("6379", true), ("40000", true), ("1,2", false)] {
            assert_eq!(one().has_port(&ports.parse().unwrap()), want);
        }
    }

    #[test]
    fn processes_go_by_inode() {
        let redis = Process {
            pid: 5,
            command: "redis-server".into(),
        };
        let mut connection = one();
        let owners = HashMap::from([(12, vec![redis.clone()])]);
        connection.find_processes(&owners);
        assert!(connection.client.socket.unwrap().processes.is_empty());
        assert_eq!(connection.server.socket.unwrap().processes, [redis]);
    }
}
