// SPDX-License-Identifier: GPL-2.0-only
//! Programs whose exit status is the result: the kernel's without a harness, and stress-ng's stressors.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::outcome::{Outcomes, Verdict};
use crate::process::{Ended, Running};
use crate::suite::Place;

/// One test: a program, and perhaps another one that has to run before.
#[derive(Debug)]
pub struct Case {
    /// its name
    pub name: &'static str,
    /// started first, ended at last
    pub server: &'static str,
    /// has to exit with 0
    pub client: &'static str,
    /// what has to be in the output of either
    pub says: &'static str,
    /// what must not be there; empty for nothing
    pub never: &'static str,
}

/// How long a server has to get ready; what the kernel's own scripts give it, and more.
const READY: Duration = Duration::from_millis(1000);
/// How long a server may run on once its client has ended.
const SERVER_END: Duration = Duration::from_secs(5);
/// The time limit of a single case.
const LIMIT: Duration = Duration::from_secs(120);

const fn case(name: &'static str, client: &'static str) -> Case {
    Case {
        name,
        server: "",
        client,
        says: "",
        never: "",
    }
}

const fn served(name: &'static str, server: &'static str, client: &'static str) -> Case {
    Case {
        server,
        ..case(name, client)
    }
}

const fn saying(says: &'static str, case: Case) -> Case {
    Case { says, ..case }
}

const fn never(never: &'static str, case: Case) -> Case {
    Case { never, ..case }
}

/// The kernel's tcp_inq over IPv4 and IPv6.
pub const TCP_INQ: &[Case] = &[
    saying("PASSED", case("ipv4", "tcp_inq -4")),
    saying("PASSED", case("ipv6", "tcp_inq -6")),
];

/// The kernel's sk_so_peek_off: TCP and UDP, IPv4 and IPv6, in one.
pub const PEEK_OFF: &[Case] = &[saying(
    "TCP/IPv6 with MSG_PEEK_OFF works correctly",
    case("all", "sk_so_peek_off"),
)];

const RIGHT: &str = "SHA256 is correct";

/// What tcp_mmap says before it goes on with read() instead.
const NO_MMAP: &str = "mmap: ";

/// The kernel's tcp_mmap, with the checksum that it has for its bytes: read, mapped, and sent without a copy.
#[rustfmt::skip]
pub const TCP_MMAP: &[Case] = &[
    saying(RIGHT, served("read", "stdbuf -oL tcp_mmap -4 -s -i -p 8901", "tcp_mmap -4 -i -p 8901 -H 127.0.0.1")),
    never(NO_MMAP, saying(RIGHT, served("mmap", "stdbuf -oL tcp_mmap -4 -s -z -i -p 8902",
        "tcp_mmap -4 -i -p 8902 -H 127.0.0.1"))),
    never(NO_MMAP, saying(RIGHT, served("mmap, MSG_ZEROCOPY", "stdbuf -oL tcp_mmap -4 -s -z -i -p 8903",
        "tcp_mmap -4 -z -i -p 8903 -H 127.0.0.1"))),
    never(NO_MMAP, saying(RIGHT, served("mmap, MSG_ZEROCOPY, ipv6", "stdbuf -oL tcp_mmap -6 -s -z -i -p 8904",
        "tcp_mmap -6 -z -i -p 8904 -H ::1"))),
];

/// The kernel's msg_zerocopy, as its script runs it.
#[rustfmt::skip]
pub const MSG_ZEROCOPY: &[Case] = &[
    served("ipv4, copied", "msg_zerocopy -4 -p 8011 -t 2 -S 127.0.0.1 -D 127.0.0.1 -r tcp",
        "msg_zerocopy -4 -p 8011 -t 1 -S 127.0.0.1 -D 127.0.0.1 -Z 0 tcp"),
    served("ipv4, MSG_ZEROCOPY", "msg_zerocopy -4 -p 8012 -t 2 -S 127.0.0.1 -D 127.0.0.1 -r tcp",
        "msg_zerocopy -4 -p 8012 -t 1 -S 127.0.0.1 -D 127.0.0.1 -z -Z 0 tcp"),
    served("ipv6, MSG_ZEROCOPY", "msg_zerocopy -6 -p 8014 -t 2 -S ::1 -D ::1 -r tcp",
        "msg_zerocopy -6 -p 8014 -t 1 -S ::1 -D ::1 -z -Z 0 tcp"),
];

/// The kernel's io_uring_zerocopy_tx in its modes: send, zero-copy, zero-copy with registered buffers, both mixed.
#[rustfmt::skip]
pub const IO_URING: &[Case] = &[
    served("ipv4, copied", "msg_zerocopy -4 -p 8015 -t 2 -S 127.0.0.1 -D 127.0.0.1 -r tcp",
        "io_uring_zerocopy_tx -4 -p 8015 -t 1 -D 127.0.0.1 -m 0 -n 1 tcp"),
    served("ipv4, zero-copy", "msg_zerocopy -4 -p 8016 -t 2 -S 127.0.0.1 -D 127.0.0.1 -r tcp",
        "io_uring_zerocopy_tx -4 -p 8016 -t 1 -D 127.0.0.1 -m 1 -n 1 tcp"),
    served("ipv4, registered", "msg_zerocopy -4 -p 8017 -t 2 -S 127.0.0.1 -D 127.0.0.1 -r tcp",
        "io_uring_zerocopy_tx -4 -p 8017 -t 1 -D 127.0.0.1 -m 2 -n 1 tcp"),
    served("ipv6, mixed", "msg_zerocopy -6 -p 8018 -t 2 -S ::1 -D ::1 -r tcp",
        "io_uring_zerocopy_tx -6 -p 8018 -t 1 -D ::1 -m 3 -n 1 tcp"),
];

/// stress-ng counts a stressor that cannot run here as a success; each of ours is started twice.
const NONE_SKIPPED: &str = "passed: 2";

/// stress-ng's stressors that connect over TCP.
#[rustfmt::skip]
pub const STRESS: &[Case] = &[
    saying(NONE_SKIPPED, case("sock ipv4", "stress-ng --verify --sock 2 --sock-domain ipv4 -t 6")),
    saying(NONE_SKIPPED, case("sock ipv6 sendmsg", "stress-ng --verify --sock 2 --sock-domain ipv6 --sock-opts sendmsg -t 6")),
    saying(NONE_SKIPPED, case("sock ipv4 sendmmsg", "stress-ng --verify --sock 2 --sock-domain ipv4 --sock-opts sendmmsg -t 6")),
    saying(NONE_SKIPPED, case("sock ipv4 zero-copy", "stress-ng --verify --sock 2 --sock-domain ipv4 --sock-zerocopy -t 6")),
    saying(NONE_SKIPPED, case("sockmany", "stress-ng --verify --sockmany 2 -t 6")),
    saying(NONE_SKIPPED, case("sockabuse", "stress-ng --verify --sockabuse 2 -t 6")),
    saying(NONE_SKIPPED, case("epoll ipv4", "stress-ng --verify --epoll 2 --epoll-domain ipv4 -t 6")),
    saying(NONE_SKIPPED, case("epoll ipv6", "stress-ng --verify --epoll 2 --epoll-domain ipv6 -t 6")),
];

/// Those that exchange bytes in other ways.
pub const STRESS_OTHERS: &[Case] = &[
    saying(
        NONE_SKIPPED,
        case("sendfile", "stress-ng --verify --sendfile 2 -t 5"),
    ),
    saying(
        NONE_SKIPPED,
        case("splice", "stress-ng --verify --splice 2 -t 5"),
    ),
    saying(
        NONE_SKIPPED,
        case("vm-splice", "stress-ng --verify --vm-splice 2 -t 5"),
    ),
    saying(
        NONE_SKIPPED,
        case("sockdiag", "stress-ng --verify --sockdiag 2 -t 5"),
    ),
    saying(
        NONE_SKIPPED,
        case("sockpair", "stress-ng --verify --sockpair 2 -t 5"),
    ),
];

/// Runs the cases, or those whose names are in `only`.
pub fn run(cases: &[Case], only: Option<&[String]>, place: &Place) -> Result<Outcomes> {
    let mut outcomes = Outcomes::default();
    let chosen = |case: &&Case| only.is_none_or(|only| only.iter().any(|name| name == case.name));
    for case in cases.iter().filter(chosen) {
        let (verdict, output) = case.run(place)?;
        outcomes.add(case.name, verdict, &output);
    }
    Ok(outcomes)
}

impl Case {
    fn run(&self, place: &Place) -> Result<(Verdict, String)> {
        let server = match self.server {
            "" => None,
            words => Some(start(words, place)?),
        };
        if server.is_some() {
            sleep(READY);
        }
        let deadline = place.deadline.min(Instant::now() + LIMIT);
        let client = start(self.client, place)?.wait(deadline, self.name)?;
        let mut verdict = judge(&client);
        let mut output = client.output;
        if let Some(server) = server {
            let server = server.wait(Instant::now() + SERVER_END, self.name)?;
            // Some would wait for further clients for ever, and that is fine.
            if server.status.is_some() {
                verdict = verdict.max(judge(&server));
            }
            output += &server.output;
        }
        let never = !self.never.is_empty() && output.contains(self.never);
        if never || !output.contains(self.says) {
            verdict = verdict.max(Verdict::Fail);
        }
        Ok((verdict, output))
    }
}

fn judge(program: &Ended) -> Verdict {
    match program.status {
        None => Verdict::Hang,
        Some(status) if status.success() => Verdict::Pass,
        Some(status) if status.code().is_none() => Verdict::Crash,
        Some(_) => Verdict::Fail,
    }
}

fn start(words: &str, place: &Place) -> Result<Running> {
    let argv: Vec<&str> = words.split(' ').collect();
    Running::start(&argv, &place.directory, &place.log)
}
