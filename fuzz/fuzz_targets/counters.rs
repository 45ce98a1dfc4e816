// SPDX-License-Identifier: GPL-2.0-only
//! `/proc/net/tcp_splice_stat` as text, and a kernel's release.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tcp_splice_fuzz::counters::Counters;
use tcp_splice_fuzz::release;

fuzz_target!(|text: &str| {
    let counters = Counters::parse(text);
    for (words, value) in counters.rows() {
        assert!(!words.is_empty() && (value > 0 || !words.starts_with("refused: ")));
    }
    let more = Counters::parse(&format!("{text}\npairs_made 12\n"));
    assert_eq!(more.get("pairs_made"), Some(12));
    assert!(more.rows().len() >= counters.rows().len());
    if let Some((major, minor)) = release::parse(text) {
        assert_eq!(release::too_old(text), (major, minor) < release::NEEDED);
    }
});
