// SPDX-License-Identifier: GPL-2.0-only
//! What `status` says, as text and as JSON. Their source is the kernel; see [`crate::pins::inspect`].

use std::fmt::Write;

use serde::Serialize;

use crate::counters::Counters;
use crate::policy::Policy;
use crate::polling::Polling;

/// Version of the JSON object. It goes up only when a field is removed or changes its meaning.
const SCHEMA: u32 = 1;

/// Where a policy is attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cgroup {
    /// The kernel's number for it.
    pub id: u64,
    /// Its directory, if it can be seen from here.
    pub path: Option<String>,
}

/// The attachment in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// `None` when another version of this tool wrote it.
    pub policy: Option<Policy>,
    /// Where.
    pub cgroup: Cgroup,
}

/// The kernel module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Module {
    /// Whether it is loaded.
    pub loaded: bool,
    /// Its parameter of that name, in KiB.
    pub ring_kbytes: Option<u32>,
}

/// All there is to tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The attachment in force, if any.
    pub attached: Option<Attached>,
    /// The kernel module.
    pub module: Module,
    /// `None` when they cannot be read.
    pub counters: Option<Counters>,
    /// The sysctl `net.core.busy_poll`; `None` when it cannot be read, or there is none.
    pub polling: Option<Polling>,
    /// Left-overs, in words.
    pub problems: Vec<String>,
}

#[derive(Serialize)]
struct Json<'a> {
    schema: u32,
    enabled: bool,
    policy: Option<&'a Policy>,
    cgroup: Option<&'a Cgroup>,
    module: &'a Module,
    busy_poll_sysctl: Option<&'a Polling>,
    counters: Option<&'a Counters>,
    problems: &'a [String],
}

impl Status {
    /// One JSON object, described in the help of `status`.
    pub fn json(&self) -> serde_json::Result<String> {
        let attached = self.attached.as_ref();
        serde_json::to_string_pretty(&Json {
            schema: SCHEMA,
            enabled: attached.is_some(),
            policy: attached.and_then(|attached| attached.policy.as_ref()),
            cgroup: attached.map(|attached| &attached.cgroup),
            module: &self.module,
            busy_poll_sysctl: self.polling.as_ref(),
            counters: self.counters.as_ref(),
            problems: &self.problems,
        })
    }

    /// Text for people; its first line is [`headline`].
    pub fn text(&self) -> String {
        let mut text = headline(self.attached.as_ref()) + "\n";
        let mut rows = self.settings();
        if let Some(counters) = &self.counters {
            rows.extend(
                counters
                    .rows()
                    .into_iter()
                    .map(|(name, value)| (name, value.to_string())),
            );
        }
        let width = rows
            .iter()
            .map(|(name, _)| name.chars().count())
            .max()
            .unwrap_or(0);
        for (name, value) in rows {
            let _ = writeln!(text, "{name:width$}  {value}");
        }
        for problem in &self.problems {
            let _ = writeln!(text, "problem: {problem}");
        }
        text
    }

    fn settings(&self) -> Vec<(String, String)> {
        let mut rows = Vec::new();
        let mut row = |name: &str, value| rows.push((name.to_owned(), value));
        if let Some(attached) = &self.attached {
            if let Some(policy) = &attached.policy {
                row("busy poll", busy_poll(policy.busy_poll_us));
                if policy.busy_poll_us != 0 || self.polling.is_some_and(|it| it.before_us.is_some())
                {
                    row("net.core.busy_poll", polling(self.polling));
                }
                row(
                    "ring size",
                    ring_size(policy.ring_kbytes, self.module.ring_kbytes),
                );
            }
            row("cgroup", cgroup(&attached.cgroup));
        }
        if !self.module.loaded {
            row("module", "not loaded".to_owned());
        } else if self.counters.is_none() {
            row("counters", "not readable from here".to_owned());
        }
        rows
    }
}

/// `tcp_splice: enabled (loopback_only=1, ports=6379)`, with `, same_netns=1` where the policy says so, or that it is disabled.
pub fn headline(attached: Option<&Attached>) -> String {
    match attached.map(|attached| &attached.policy) {
        None => "tcp_splice: disabled".to_owned(),
        Some(None) => "tcp_splice: enabled (by another version of tcp-splice-ctl)".to_owned(),
        Some(Some(policy)) => {
            let loopback_only = u8::from(policy.loopback_only);
            let same_netns = if policy.same_netns {
                ", same_netns=1"
            } else {
                ""
            };
            format!(
                "tcp_splice: enabled (loopback_only={loopback_only}, ports={}{same_netns})",
                policy.ports
            )
        }
    }
}

fn busy_poll(us: u32) -> String {
    match us {
        0 => "as the socket says (SO_BUSY_POLL)".to_owned(),
        us => format!("{us} us"),
    }
}

/// Whether epoll, poll and select spin as well.
fn polling(polling: Option<Polling>) -> String {
    match polling {
        None => "not there: no spinning in epoll, poll and select".to_owned(),
        Some(Polling { us: 0, .. }) => "0 us: no spinning in epoll, poll and select".to_owned(),
        Some(Polling {
            us,
            before_us: None,
        }) => format!("{us} us (not set by this tool)"),
        Some(Polling {
            us,
            before_us: Some(before),
        }) => {
            format!("{us} us ({before} before, which disable puts back)")
        }
    }
}

fn ring_size(kbytes: u32, default: Option<u32>) -> String {
    match (kbytes, default) {
        (0, Some(default)) => format!("{default} KiB (the module's default)"),
        (0, None) => "the module's default".to_owned(),
        (kbytes, _) => format!(
            "{} KiB",
            kbytes.checked_next_power_of_two().unwrap_or(kbytes)
        ),
    }
}

fn cgroup(cgroup: &Cgroup) -> String {
    match &cgroup.path {
        Some(path) => path.clone(),
        None => format!("number {}, not visible from here", cgroup.id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enabled() -> Status {
        Status {
            attached: Some(Attached {
                policy: Some(Policy {
                    loopback_only: true,
                    ports: "6379,80".parse().unwrap(),
                    busy_poll_us: 50,
                    ring_kbytes: 100,
                    same_netns: true,
                }),
                cgroup: Cgroup {
                    id: 1,
                    path: Some("/sys/fs/cgroup".into()),
                },
            }),
            module: Module {
                loaded: true,
                ring_kbytes: Some(64),
            },
            counters: Some(Counters::parse(
                "pairs_made 12\nrefused_remote 3\nrefused_urgent 0\n",
            )),
            polling: Some(Polling {
                us: 50,
                before_us: Some(0),
            }),
            problems: Vec::new(),
        }
    }

    fn disabled() -> Status {
        Status::default()
    }

    #[test]
    fn text_when_enabled() {
        let want = "\
tcp_splice: enabled (loopback_only=1, ports=80,6379, same_netns=1)
busy poll                                50 us
net.core.busy_poll                       50 us (0 before, which disable puts back)
ring size                                128 KiB
cgroup                                   /sys/fs/cgroup
connections spliced                      12
refused: other end is not on this host   3
";
        let want = want.replace("                                   3", "  3");
        let text = enabled().text();
        assert_eq!(squeeze(&text), squeeze(&want));
        let columns: Vec<_> = text.lines().skip(1).map(|line| line.rfind("  ")).collect();
        assert!(columns.windows(2).all(|pair| pair[0] == pair[1]), "{text}");
    }

    fn squeeze(text: &str) -> String {
        let lines = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn text_with_defaults() {
        let mut status = enabled();
        status.attached.as_mut().unwrap().policy = Some(Policy::default());
        status.attached.as_mut().unwrap().cgroup.path = None;
        status.counters = None;
        status.polling = None;
        status.problems.push("something is left".to_owned());
        let want = "\
tcp_splice: enabled (loopback_only=0, ports=all)
busy poll as the socket says (SO_BUSY_POLL)
ring size 64 KiB (the module's default)
cgroup number 1, not visible from here
counters not readable from here
problem: something is left";
        assert_eq!(squeeze(&status.text()), want);
    }

    #[test]
    fn text_when_disabled() {
        assert_eq!(
            disabled().text(),
            "tcp_splice: disabled\nmodule  not loaded\n"
        );
        let loaded = Status {
            attached: None,
            ..enabled()
        };
        assert!(
            loaded
                .text()
                .starts_with("tcp_splice: disabled\nconnections spliced")
        );
    }

    #[test]
    fn another_version_is_said_to_be_one() {
        let mut status = enabled();
        status.attached.as_mut().unwrap().policy = None;
        let first = "tcp_splice: enabled (by another version of tcp-splice-ctl)\ncgroup ";
        assert!(status.text().starts_with(first));
    }

    #[test]
    fn json_schema_1() {
        let compact = |status: &Status| {
            let value: serde_json::Value = serde_json::from_str(&status.json().unwrap()).unwrap();
            value.to_string()
        };
        let want = concat!(
            r#"{"busy_poll_sysctl":{"before_us":0,"us":50},"cgroup":{"id":1,"path":"/sys/fs/cgroup"},"counters":{"pairs_made":12,"refused_remote":3,"refused_urgent":0},"#,
            r#""enabled":true,"module":{"loaded":true,"ring_kbytes":64},"#,
            r#""policy":{"busy_poll_us":50,"loopback_only":true,"ports":[80,6379],"ring_kbytes":100,"same_netns":true},"problems":[],"schema":1}"#
        );
        assert_eq!(compact(&enabled()), want);
        let want = concat!(
            r#"{"busy_poll_sysctl":null,"cgroup":null,"counters":null,"enabled":false,"module":{"loaded":false,"ring_kbytes":null},"#,
            r#""policy":null,"problems":[],"schema":1}"#
        );
        assert_eq!(compact(&disabled()), want);
    }
}
