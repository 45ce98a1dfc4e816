// SPDX-License-Identifier: GPL-2.0-only
//! The module's counters: reading their text and saying what they mean.

use std::collections::BTreeMap;

use serde::Serialize;

const REFUSED: &str = "refused_";
const LEFT_FOR: &str = "left_";

/// Known counters in the order people want them, with their meaning.
const WORDS: [(&str, &str); 14] = [
    ("pairs_made", "connections spliced"),
    ("pairs_alive", "of these still open"),
    ("ring_bytes", "bytes through rings"),
    ("tcp_bytes", "bytes over TCP on spliced sockets"),
    ("ring_kbytes_alive", "KiB held by rings"),
    ("offers_made", "offers made"),
    ("endpoints_alive", "sockets with an endpoint"),
    ("ring_starts", "moves from TCP to a ring"),
    ("ring_leaves", "moves back to TCP"),
    ("ring_grows", "rings that grew"),
    ("lent_bytes", "bytes handed to pipes without a copy"),
    (
        "short_messages",
        "messages of at most 48 bytes read from beside the cursor",
    ),
    ("wakes_ahead", "ends woken before their answer"),
    ("drained", "sockets drained"),
];

/// For those who check that nothing is left over; what people want of it is in `WORDS`.
const AUDIT: [&str; 6] = [
    "pairs_gone",
    "endpoints_made",
    "endpoints_gone",
    "ring_memory_made",
    "ring_memory_gone",
    "offers_held",
];

/// Why an offer was refused, by the last part of the counter's name.
const REASONS: [(&str, &str); 17] = [
    ("callback", "offered from a callback that cannot offer"),
    (
        "handshake",
        "no plain three-way handshake (fast open, repair mode)",
    ),
    ("not_plain_tcp", "not a plain TCP socket of a process"),
    (
        "taken",
        "socket already taken (spliced, kTLS, sockmap or another user)",
    ),
    ("multipath", "multipath TCP or SMC"),
    ("packet_policy", "packets are signed, encrypted or filtered"),
    ("urgent", "urgent data under way"),
    ("remote", "other end is not on this host"),
    ("no_witness", "segment carries no hash of a local socket"),
    ("no_offer", "other end was not offered"),
    ("witness", "hash of the other end differs"),
    ("namespace", "network namespaces may not be joined"),
    ("ambiguous", "more than one other end would fit"),
    (
        "share",
        "too many offers of its network namespace are waiting",
    ),
    ("table_full", "too many offers are waiting"),
    ("no_memory", "no memory"),
    (
        "held_up",
        "too many connections that ended wait for a stuck call",
    ),
];

/// Why a direction went back to TCP, in the same way.
const LEFT: [(&str, &str); 9] = [
    ("message", "a message needed packets"),
    ("urgent", "urgent data"),
    (
        "packets",
        "a socket needs packets (timestamps, filter, repair)",
    ),
    ("stray", "a sender went past the module"),
    ("memory", "no memory for the ring"),
    ("reader", "a reader slept in TCP"),
    ("closed", "the other end was gone"),
    ("handed_back", "kTLS, repair, MD5 or AO took over"),
    ("drained", "drained"),
];

/// Counters by name, known or not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Counters(BTreeMap<String, u64>);

impl Counters {
    /// Reads `name value` lines. Anything else is left out: a newer module may say more than this tool understands.
    pub fn parse(text: &str) -> Self {
        let pairs = text.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            let (name, value) = (words.next()?, words.next()?.parse().ok()?);
            words.next().is_none().then(|| (name.to_owned(), value))
        });
        Self(pairs.collect())
    }

    /// The counter with this name, if the module has it.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }

    /// Each counter as (meaning, value): the known ones, then unknown ones by name, then the reasons that occurred. Without those that
    /// only an audit needs.
    pub fn rows(&self) -> Vec<(String, u64)> {
        let known = WORDS
            .iter()
            .filter_map(|&(name, words)| Some((words.to_owned(), *self.0.get(name)?)));
        let others = self
            .0
            .iter()
            .filter(|(name, _)| !name.starts_with(REFUSED) && !name.starts_with(LEFT_FOR))
            .filter(|(name, _)| words_of(&WORDS, name).is_none())
            .filter(|(name, _)| !AUDIT.contains(&name.as_str()));
        let others = others.map(|(name, &value)| (name.replace('_', " "), value));
        let left = self.reasons("back to TCP", LEFT_FOR, &LEFT);
        let refused = self.reasons("refused", REFUSED, &REASONS);
        known.chain(others).chain(left).chain(refused).collect()
    }

    fn reasons(
        &self,
        what: &str,
        prefix: &str,
        table: &[(&str, &'static str)],
    ) -> impl Iterator<Item = (String, u64)> {
        let nonzero = self.0.iter().filter(|&(_, &value)| value != 0);
        nonzero.filter_map(move |(name, &value)| {
            let reason = name.strip_prefix(prefix)?;
            let words =
                words_of(table, reason).map_or_else(|| reason.replace('_', " "), str::to_owned);
            Some((format!("{what}: {words}"), value))
        })
    }
}

fn words_of(table: &[(&str, &'static str)], name: &str) -> Option<&'static str> {
    table
        .iter()
        .find(|entry| entry.0 == name)
        .map(|entry| entry.1)
}

#[cfg(test)]
mod tests {
    use tcp_splice_core::pairing::Refusal;
    use tcp_splice_core::reason::Reason;

    use super::*;

    fn rows(text: &str) -> Vec<(String, u64)> {
        Counters::parse(text).rows()
    }

    #[test]
    fn every_reason_of_the_module_has_words() {
        for reason in Refusal::ALL {
            assert!(
                words_of(&REASONS, reason.name()).is_some(),
                "{}",
                reason.name()
            );
        }
        for reason in Reason::ALL
            .into_iter()
            .filter(|&reason| reason != Reason::None)
        {
            assert!(words_of(&LEFT, reason.name()).is_some(), "{reason:?}");
        }
    }

    #[test]
    fn known_ones_come_first_and_in_words() {
        let rows = rows("ring_bytes 5\nzebra_count 7\npairs_made 2\n");
        let want = [
            ("connections spliced", 2),
            ("bytes through rings", 5),
            ("zebra count", 7),
        ];
        assert_eq!(rows, want.map(|(words, value)| (words.to_owned(), value)));
    }

    #[test]
    fn reasons_show_only_what_happened() {
        let rows = rows(
            "refused_no_offer 3\nleft_urgent 4\nrefused_remote 0\nrefused_bad_moon 1\nleft_stray 0\n",
        );
        let want = [
            ("back to TCP: urgent data", 4),
            ("refused: bad moon", 1),
            ("refused: other end was not offered", 3),
        ];
        assert_eq!(rows, want.map(|(words, value)| (words.to_owned(), value)));
    }

    #[test]
    fn strange_lines_are_left_out() {
        let text = "pairs_made 2 3\npairs_alive\nring_bytes many\ntcp_bytes -1\n\noffers_made 18446744073709551615\n";
        assert_eq!(rows(text), [("offers made".to_owned(), u64::MAX)]);
    }

    #[test]
    fn json_keeps_every_name() {
        let json = serde_json::to_string(&Counters::parse("b 2\nrefused_x 0\na 1\n")).unwrap();
        assert_eq!(json, r#"{"a":1,"b":2,"refused_x":0}"#);
    }
}
