// SPDX-License-Identifier: GPL-2.0-only
//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use tcp_splice_core::abi::{BUSY_POLL_US_MAX, RING_KBYTES_MAX, RING_KBYTES_MIN};

use crate::policy::Policy;
use crate::ports::Ports;

const EXAMPLES: &str = "\
Examples:
  # load the module, then splice local connections to Redis
  modprobe tcp_splice
  tcp-splice-ctl enable --cgroup /sys/fs/cgroup --loopback-only --ports 6379

  # what is in force, and is it used?
  tcp-splice-ctl status

  # no new spliced connections; those that exist go on
  tcp-splice-ctl disable

  # everything back to plain TCP, with all connections up, and out
  tcp-splice-ctl disable --drain && rmmod tcp_splice

Exit status: 0 done, 1 failed, 2 wrong usage.";

const ENABLE_EXAMPLES: &str = "\
--ports and --loopback-only are judged at each end by the addresses and ports which that end sees, and a
connection is spliced when both ends pass. Where NAT rewrites it, the ends see different ones: list both ports.

Examples:
  # every local connection of every process
  tcp-splice-ctl enable --cgroup /sys/fs/cgroup

  # one service and its database: both ends have to be in the cgroup or below it
  tcp-splice-ctl enable --cgroup /sys/fs/cgroup/system.slice --ports 5432,6379

  # a sidecar on port 15001 that gets connections to port 80 by redirection
  tcp-splice-ctl enable --cgroup /sys/fs/cgroup --ports 80,15001

  # spin up to 50 microseconds before sleeping, with rings of up to 256 KiB
  tcp-splice-ctl enable --cgroup /sys/fs/cgroup --ports 6379 --busy-poll-us 50 --ring-kbytes 256";

const STATUS_EXAMPLES: &str = "\
The object printed by --json:
  schema    1; it changes only when a field here is removed or changes its meaning
  enabled   true when new connections are offered
  policy    null, or loopback_only (bool), ports (numbers; empty means all),
            busy_poll_us and ring_kbytes (0 means the default), same_netns (bool)
  cgroup    null, or id (number) and path (null when it cannot be seen from here)
  module    loaded (bool), ring_kbytes (its default for new rings, or null)
  counters  null, or every counter of the module by name
  busy_poll_sysctl  null, or net.core.busy_poll: us (number) and before_us (what disable puts back; null when
            the value is somebody else's)
  problems  what an interrupted command or somebody else left behind, as text

Example:
  tcp-splice-ctl status --json | jq .counters.pairs_alive";

const BENCH_EXAMPLES: &str = "\
Only connections of the benchmark's own are offered while it runs. It does not run while a policy is in force, unless
--suspend-policy says that the policy may be taken away: it is put back in the end, and connections that are made
meanwhile stay plain TCP. Programs that are not installed are left out, and named.

Examples:
  # everything, into the directory tcp-splice-bench: suite.txt, suite.md, suite.svg, suite.json
  tcp-splice-ctl bench

  # does it work here? one short round of everything
  tcp-splice-ctl bench --quick

  # only some of it; all options
  tcp-splice-ctl bench --only redis --only \"stream 64 KiB\" --rounds 11 --out /tmp/measured
  tcp-splice-bench suite --help";

const DRAIN_EXAMPLES: &str = "\
Examples:
  # let a packet capture see the traffic of one service
  tcp-splice-ctl drain --ports 6379

  # load a new version of the module while connections are up
  tcp-splice-ctl disable --drain && rmmod tcp_splice && modprobe tcp_splice
  tcp-splice-ctl enable --cgroup /sys/fs/cgroup --ports 6379";

const LIST_EXAMPLES: &str = "\
Columns:
  CLIENT, SERVER        the ends' own addresses: the one that connected, the one that was accepted
  CLIENT OF, SERVER OF  command and number of the process that has it open, and how many more have
  STATE                 what carries new bytes: ring; new (nothing yet but TCP); leaving, tcp, with the reason; closed
  RING TO, RING BACK    bytes through the ring, from the client and to it
  TCP TO, TCP BACK      bytes over TCP
  FULL                  times a sender found its ring full

Columns of --extended:
  CLIENT SEES, SERVER SEES  the other end's address as that end sees it, which with NAT is another one
  CLIENT IN, SERVER IN      the end's cgroup, from the root of the tree; its number if it cannot be seen from here
  UNREAD TO, UNREAD BACK    bytes in the ring that are not read yet
  SIZE TO, SIZE BACK        bytes that the ring holds at most; 0: not made yet
  WAKES TO, WAKES BACK      times a sender's bytes woke the other end
  SPUN TO, SPUN BACK        microseconds that the other end spun for a sender's bytes (parameter spin_us)

Sockets that are plain TCP although the policy wants them come behind, of the newest 1,024 of that kind those
that live: their own address, the remote one, whose they are, which end, why (drained, or refused_<why>), and
the bytes that they sent through the ring that they had, and over TCP

The object printed by --json:
  schema       1; it changes only when a field here is removed or changes its meaning
  connections  each with id (number), client and server, which have
    socket      null when that end has left, or local, remote (its addresses as it sees them), tcp_state (as in
                ss), netns, inode, cgroup (the kernel's numbers), tcp_bytes (sent over TCP), processes (pid, command)
    carrier     new, ring, leaving, tcp or closed; reason says why it is not the ring: message, urgent, packets,
                stray, memory, reader, closed, handed_back, drained; or none
    ring_bytes, unread, ring_size   bytes sent through the ring, of these unread, and its size (0: not made yet)
    wakes, stalls   times its bytes woke the other end; times it found the ring full
    spun_us         microseconds that the other end spun for its bytes on its own account (parameter spin_us)
  plain        each with role (client or server), reason, socket, ring_bytes, wakes and stalls (as above)

Examples:
  tcp-splice-ctl list --ports 6379
  tcp-splice-ctl list --json | jq '.connections[] | select(.client.carrier == \"tcp\")'";

/// Splice local TCP connections through in-kernel rings
///
/// Two processes on this host that talk TCP to each other exchange their bytes through a ring in the kernel module tcp_splice,
/// with no change to either. This tool decides for which new connections, and shows what became of them. What it sets up lasts
/// until `disable` or the next boot.
#[derive(Debug, Parser)]
#[command(name = "tcp-splice-ctl", version, after_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    /// After a failure, also show the last messages of libbpf and of the kernel's verifier
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Offer new connections of a cgroup to the module, or replace the policy in force
    #[command(after_help = ENABLE_EXAMPLES)]
    Enable(Enable),
    /// Show the policy in force and the module's counters
    #[command(after_help = STATUS_EXAMPLES)]
    Status {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// List the connections that are spliced
    #[command(after_help = LIST_EXAMPLES)]
    List {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
        /// Show also what each end sees of the other, its cgroup, and sizes, unread bytes and wake-ups of the rings
        #[arg(short, long, conflicts_with = "json")]
        extended: bool,
        /// Only connections with one of these ports at either end, as either end sees it
        #[arg(long, value_name = "LIST")]
        ports: Option<Ports>,
    },
    /// Offer no more connections; those already spliced go on, unless they are drained
    Disable(Disable),
    /// Make spliced connections plain TCP again, without interrupting them
    ///
    /// Each byte that is in a ring is put where TCP would have it, in order; calls that are asleep go on. The module lets go of the sockets,
    /// so that it can be unloaded after `disable`. Connections that are made later are spliced if the policy in force says so.
    #[command(after_help = DRAIN_EXAMPLES)]
    Drain(Drain),
    /// Measure this machine: messages and installed servers over plain TCP, spliced, polled, AF_UNIX and pipes
    ///
    /// Takes about twenty minutes. The machine should have nothing else to do.
    #[command(after_help = BENCH_EXAMPLES)]
    Bench {
        /// Options of `tcp-splice-bench suite`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<OsString>,
    },
    /// Write the manual pages into a directory
    #[command(hide = true)]
    Man {
        /// An existing directory
        dir: PathBuf,
    },
    /// Print a shell's completion script
    #[command(hide = true)]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Options of `disable`.
#[derive(Debug, Args)]
pub struct Disable {
    /// Also drain all connections, so that the module can be unloaded
    #[arg(long)]
    pub drain: bool,
    /// With --drain: how long to wait for calls that are under way, in seconds
    #[arg(long, value_name = "S", default_value = "10", requires = "drain")]
    timeout: u32,
}

impl Disable {
    /// How long to wait.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout.into())
    }
}

/// Options of `drain`.
#[derive(Debug, Args)]
pub struct Drain {
    /// Only sockets with one of these ports at either end, as the socket sees them, up to 64 [default: all]
    #[arg(long, value_name = "LIST")]
    pub ports: Option<Ports>,
    /// How long to wait for calls that are under way, in seconds
    #[arg(long, value_name = "S", default_value = "10")]
    timeout: u32,
}

impl Drain {
    /// How long to wait.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout.into())
    }
}

/// Options of `enable`.
#[derive(Debug, Args)]
pub struct Enable {
    /// Directory of the cgroup v2 file system; covers the processes in it and below it
    ///
    /// A connection is spliced when both of its ends were opened there: the connecting one by a process in the cgroup, the
    /// accepting one through a listener that was created in it.
    #[arg(long, value_name = "PATH")]
    pub cgroup: PathBuf,
    /// Only connections between loopback addresses (127.0.0.0/8, ::1, ::ffff:127.0.0.0/104)
    ///
    /// As both ends see them: a port published on 127.0.0.1 that NAT leads into a container is not one.
    #[arg(long)]
    pub loopback_only: bool,
    /// Only connections within one network namespace [default: also between two of them]
    ///
    /// That is what containers have, and which root made: namespaces that belong to an unprivileged user's own user namespace are never joined with
    /// others. It is enough that the policy of one end says so.
    #[arg(long)]
    pub same_netns: bool,
    /// Only connections with one of these ports at either end, up to 64 [default: all ports]
    ///
    /// Each end looks at the two ports that it sees. Where NAT changes a port, list it as the client sees it and as the server
    /// does, for example 80,15001.
    #[arg(long, value_name = "LIST")]
    pub ports: Option<Ports>,
    /// Spin this long before a receive, epoll, poll or select sleeps [default: the socket's SO_BUSY_POLL]
    ///
    /// In epoll, poll and select the kernel spins only while net.core.busy_poll is set. That holds for the whole machine: programs that wait
    /// in epoll for a network card that can be polled spin as well, and an io_uring spins once it has registered for that. An epoll set spins for one
    /// source of events at a time: with sockets of such a card in it, that is the card or these connections. `enable` raises it to N microseconds, 10000 at most, `disable` puts it back.
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true)]
    #[arg(value_parser = busy_poll_us, allow_negative_numbers = true)]
    pub busy_poll_us: u32,
    /// Limit of a ring, 4 to 16384 KiB, rounded up to a power of two [default: the module's]
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true)]
    #[arg(value_parser = ring_kbytes, allow_negative_numbers = true)]
    pub ring_kbytes: u32,
}

impl Enable {
    /// The policy these options describe.
    pub fn policy(&self) -> Policy {
        Policy {
            loopback_only: self.loopback_only,
            ports: self.ports.clone().unwrap_or_default(),
            busy_poll_us: self.busy_poll_us,
            ring_kbytes: self.ring_kbytes,
            same_netns: self.same_netns,
        }
    }
}

fn busy_poll_us(text: &str) -> Result<u32, String> {
    let number = text
        .parse()
        .ok()
        .filter(|&number| number <= BUSY_POLL_US_MAX);
    number.ok_or_else(|| format!("a busy-poll budget is 0 to {BUSY_POLL_US_MAX} microseconds"))
}

fn ring_kbytes(text: &str) -> Result<u32, String> {
    let fits = |&number: &u32| number == 0 || (RING_KBYTES_MIN..=RING_KBYTES_MAX).contains(&number);
    text.parse().ok().filter(fits).ok_or_else(|| {
        format!(
            "a ring has {RING_KBYTES_MIN} to {RING_KBYTES_MAX} KiB, or 0 for the module's default"
        )
    })
}

/// The one line that says what is wrong with a command line: clap's own words, without its hints.
pub fn usage_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let lines = text.lines().take_while(|line| !line.trim().is_empty());
    let words: Vec<&str> = lines.map(str::trim).collect();
    format!("{}; see tcp-splice-ctl --help", words.join(" "))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    fn policy(line: &str) -> Policy {
        match parse(line).unwrap().command {
            Command::Enable(enable) => enable.policy(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn enable_describes_a_policy() {
        assert_eq!(policy("x enable --cgroup /c"), Policy::default());
        let line = "x enable --cgroup /c --loopback-only --ports 443,80,443 --busy-poll-us 1000000 --ring-kbytes 16384 --same-netns";
        let want = Policy {
            loopback_only: true,
            ports: Ports::new([80, 443]).unwrap(),
            busy_poll_us: 1_000_000,
            ring_kbytes: 16384,
            same_netns: true,
        };
        assert_eq!(policy(line), want);
        assert_eq!(
            policy("x -v enable --cgroup=/c --ring-kbytes=4").ring_kbytes,
            4
        );
        assert_eq!(
            policy("x enable --cgroup /c --ring-kbytes 0").ring_kbytes,
            0
        );
    }

    #[test]
    fn wrong_usage_gets_one_line() {
        let ring = "a ring has 4 to 16384 KiB, or 0 for the module's default";
        let budget = "a busy-poll budget is 0 to 1000000 microseconds";
        let port = "is not a port: ports are 1 to 65535";
        for (line, want) in [
            ("enable", "the following required arguments were not provided: --cgroup <PATH>".to_owned()),
            ("enable --cgroup /c --ports 0", format!("invalid value '0' for '--ports <LIST>': \"0\" {port}")),
            ("enable --cgroup /c --ports 70000", format!("invalid value '70000' for '--ports <LIST>': \"70000\" {port}")),
            ("enable --cgroup /c --ports a,,b", format!("invalid value 'a,,b' for '--ports <LIST>': \"a\" {port}")),
            (
                "enable --cgroup /c --ports 1,,2",
                "invalid value '1,,2' for '--ports <LIST>': a port is missing: write ports as 80,443,6379".to_owned(),
            ),
            ("enable --cgroup /c --ring-kbytes 3", format!("invalid value '3' for '--ring-kbytes <N>': {ring}")),
            ("enable --cgroup /c --ring-kbytes 16385", format!("invalid value '16385' for '--ring-kbytes <N>': {ring}")),
            ("enable --cgroup /c --ring-kbytes -1", format!("invalid value '-1' for '--ring-kbytes <N>': {ring}")),
            ("enable --cgroup /c --ring-kbytes 64k", format!("invalid value '64k' for '--ring-kbytes <N>': {ring}")),
            (
                "enable --cgroup /c --busy-poll-us 1000001",
                format!("invalid value '1000001' for '--busy-poll-us <N>': {budget}"),
            ),
            ("status --yaml", "unexpected argument '--yaml' found".to_owned()),
            ("enabel", "unrecognized subcommand 'enabel'".to_owned()),
        ] {
            let error = parse(&format!("x {line}")).unwrap_err();
            assert_eq!(usage_line(&error), format!("{want}; see tcp-splice-ctl --help"), "{line}");
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn help_has_examples_and_no_line_is_too_wide() {
        let mut command = Cli::command();
        assert!(
            command
                .render_long_help()
                .to_string()
                .contains("modprobe tcp_splice")
        );
        let enable = command.find_subcommand_mut("enable").unwrap();
        for help in [enable.render_help(), enable.render_long_help()] {
            assert!(help.to_string().contains("judged at each end"));
        }
        for name in ["enable", "status", "disable"] {
            let sub = command.find_subcommand_mut(name).unwrap();
            for line in sub.render_help().to_string().lines() {
                assert!(line.chars().count() <= 120, "{name}: {line}");
            }
        }
    }
}
