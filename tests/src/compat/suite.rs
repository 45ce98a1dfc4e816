// SPDX-License-Identifier: GPL-2.0-only
//! The suites, and running one of them one way.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;

use crate::cases::{self, Case};
use crate::outcome::Outcomes;
use crate::{kselftest, python};

/// Where a run of a suite takes place.
#[derive(Debug)]
pub struct Place {
    /// a directory of its own, removed afterwards
    pub directory: PathBuf,
    /// gets everything that is printed
    pub log: PathBuf,
    /// when it has to be over
    pub deadline: Instant,
}

/// What kind of program a suite is.
#[derive(Debug)]
pub enum Kind {
    /// a module of CPython's `test` package
    Python,
    /// a program that prints KTAP
    Ktap(&'static [&'static str]),
    /// programs whose exit status is the result
    Cases(&'static [Case]),
}

/// What the counters have to show of a spliced run, so that it proves something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// pairs, and bytes in their rings
    Ring,
    /// pairs: they go back to TCP before their first byte
    Pairs,
    /// nothing: the suite makes no TCP connection within this machine
    Nothing,
}

/// One suite: a row of the table.
#[derive(Debug)]
pub struct Suite {
    /// its name, for Python that of the module
    pub name: &'static str,
    /// what it is
    pub kind: Kind,
    /// what shows that its connections were spliced
    pub proof: Proof,
}

impl Suite {
    /// Runs the suite, or of its tests at least those in `only`.
    pub fn run(&self, only: Option<&[String]>, place: &Place) -> Result<Outcomes> {
        match self.kind {
            Kind::Python => python::run(self.name, only, place),
            Kind::Ktap(argv) => kselftest::run(argv, only, place),
            Kind::Cases(cases) => cases::run(cases, only, place),
        }
    }
}

const fn python(name: &'static str) -> Suite {
    Suite {
        name,
        kind: Kind::Python,
        proof: Proof::Ring,
    }
}

const fn ktap(name: &'static str, argv: &'static [&'static str]) -> Suite {
    Suite {
        name,
        kind: Kind::Ktap(argv),
        proof: Proof::Ring,
    }
}

const fn cases(name: &'static str, cases: &'static [Case]) -> Suite {
    Suite {
        name,
        kind: Kind::Cases(cases),
        proof: Proof::Ring,
    }
}

/// A suite that gives every connection to kTLS as soon as it is made.
const fn handed_back(suite: Suite) -> Suite {
    Suite {
        proof: Proof::Pairs,
        ..suite
    }
}

/// A suite that watches the neighbourhood.
const fn without_tcp(suite: Suite) -> Suite {
    Suite {
        proof: Proof::Nothing,
        ..suite
    }
}

/// The kernel's tls with three of its thirteen variants (`-V` leaves one out): the others are the same with other ciphers, four of which
/// Debian's kernel does not have.
#[rustfmt::skip]
const TLS: &[&str] = &[
    "tls", "-V", "12_chacha", "-V", "13_chacha", "-V", "13_sm4_gcm", "-V", "13_sm4_ccm", "-V", "12_aes_ccm", "-V", "13_aes_ccm", "-V", "12_aes_gcm_256",
    "-V", "13_aes_gcm_256", "-V", "12_aria_gcm", "-V", "12_aria_gcm_256",
];

/// All suites, in the order in which they are run.
pub const SUITES: &[Suite] = &[
    python("test_socket"),
    python("test_ssl"),
    without_tcp(python("test_selectors")),
    without_tcp(python("test_select")),
    without_tcp(python("test_poll")),
    python("test_epoll"),
    python("test_socketserver"),
    python("test_httplib"),
    python("test_httpservers"),
    python("test_urllib2_localnet"),
    python("test_os.TestSendfile"),
    python("test_multiprocessing_fork.test_misc"),
    python("test_robotparser"),
    python("test_ftplib"),
    python("test_imaplib"),
    python("test_poplib"),
    python("test_smtplib"),
    python("test_xmlrpc"),
    python("test_docxmlrpc"),
    python("test_wsgiref"),
    python("test_logging"),
    python("test_asyncio.test_events"),
    python("test_asyncio.test_base_events"),
    python("test_asyncio.test_streams"),
    python("test_asyncio.test_server"),
    python("test_asyncio.test_sendfile"),
    python("test_asyncio.test_sock_lowlevel"),
    python("test_asyncio.test_buffered_proto"),
    python("test_asyncio.test_ssl"),
    python("test_asyncio.test_sslproto"),
    handed_back(ktap("tls", TLS)),
    cases("sk_so_peek_off", cases::PEEK_OFF),
    without_tcp(ktap("so_peek_off", &["so_peek_off"])),
    cases("tcp_inq", cases::TCP_INQ),
    cases("tcp_mmap", cases::TCP_MMAP),
    cases("msg_zerocopy", cases::MSG_ZEROCOPY),
    cases("io_uring_zerocopy_tx", cases::IO_URING),
    cases("stress-ng", cases::STRESS),
    without_tcp(cases("stress-ng others", cases::STRESS_OTHERS)),
];
