// SPDX-License-Identifier: GPL-2.0-only
//! What `glue.rs` was written from: the functions of `kmod/` that it repeats. Should one of them change, so may what `glue.rs` has to say.

use std::fmt::Write;

const DRAIN: &str = include_str!("../../../kmod/drain.c");
const ENDPOINT: &str = include_str!("../../../kmod/endpoint.h");
const MAIN: &str = include_str!("../../../kmod/main.c");
const OPTIONS: &str = include_str!("../../../kmod/options.c");
const PAIR: &str = include_str!("../../../kmod/src/pair.rs");
const PAIRS: &str = include_str!("../../../kmod/pairs.c");
const PROTO: &str = include_str!("../../../kmod/proto.c");
const STALE: &str = include_str!("../../../kmod/stale.c");
const TEARDOWN: &str = include_str!("../../../kmod/src/teardown.rs");
const WAKE: &str = include_str!("../../../kmod/wake.c");

/// The text from `start` to the next line that is `end`, without comments, places to wait (kmod/delay.h), where it lies (kmod/sections.h), and
/// the spaces between its words.
fn body(text: &str, start: &str, end: &str) -> String {
    let text = ["__ts_offered ", "__ts_spliced "]
        .iter()
        .fold(text.to_owned(), |text, section| text.replace(section, ""));
    let from = text
        .find(start)
        .unwrap_or_else(|| panic!("{start}: it is not there any more"));
    let rest = &text[from..];
    let to = rest
        .find(end)
        .unwrap_or_else(|| panic!("{start}: it has no end"));
    let (mut code, mut rest) = (String::new(), &rest[..to]);
    while let Some(comment) = rest.find("/*") {
        code += &rest[..comment];
        rest = rest[comment..]
            .split_once("*/")
            .map_or("", |(_, after)| after);
    }
    code += rest;
    let lines = code
        .lines()
        .map(|line| line.split("//").next().unwrap_or("").trim())
        .filter(|line| !line.starts_with("ts_delay_at(") && !line.starts_with("Point::"));
    lines
        .flat_map(str::split_whitespace)
        .collect::<Vec<_>>()
        .join(" ")
}

/// FNV-1a.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// Each function, where it is, and the hash of its text when `glue.rs` was last held against it.
const TEXTS: &[(&str, &str, u64)] = &[
    ("bool ts_lock_unowned(", DRAIN, 0xe40a39892ec7d7d9),
    ("static struct file *ts_file_of(", DRAIN, 0x300b919bc8f135bd),
    (
        "static inline bool ts_carries(",
        ENDPOINT,
        0xa63640aaf3fd8abe,
    ),
    ("static int ts_drain_locked(", DRAIN, 0x53483911a651c92a),
    ("void ts_give_up(", DRAIN, 0x519e49e2709c818c),
    ("static int ts_drain_sock(", DRAIN, 0xc401c0a79caabfbc),
    ("static int ts_drain_pass(", DRAIN, 0x10a37536629077e3),
    ("static void ts_endpoint_free(", MAIN, 0xaeff44afa6de6689),
    ("static void ts_endpoint_unknown(", MAIN, 0xe54722ed3c04414a),
    ("static int ts_hand_back(", OPTIONS, 0x44e8822387d48f2c),
    ("void ts_endpoint_unmake(", MAIN, 0x23e60695027b7003),
    ("void ts_endpoint_discard(", MAIN, 0xd0f4407473b4935e),
    ("static void ts_endpoint_left(", MAIN, 0x4d8b3922313fa8e0),
    ("static void ts_endpoint_parted(", MAIN, 0x3ef942b8a64b6b5d),
    ("void ts_endpoint_retire(", MAIN, 0x0171300b81d8f3a0),
    ("static bool ts_let_go_of(", OPTIONS, 0x10fcfa43b2f969c2),
    ("static int ts_set_option(", OPTIONS, 0x1758742367174840),
    ("impl Drop for Kept {", PAIR, 0xbc228b4b6646a7e7),
    ("    pub(crate) fn keep(", PAIR, 0x06627578ab92932c),
    (
        "static void ts_idle_work(struct work_struct *work)\n{",
        PAIRS,
        0x6d834f518e26d627,
    ),
    ("static int ts_list_show(", PAIRS, 0xe17403eb3bfe7962),
    (
        "static inline bool ts_slots_are_free(",
        ENDPOINT,
        0x4e8b431edade3cdf,
    ),
    (
        "static noinline int ts_try_sendmsg(",
        PROTO,
        0x833221554d4b923e,
    ),
    (
        "static noinline int ts_try_recvmsg(",
        PROTO,
        0x815ee69b67823993,
    ),
    ("static void ts_unhash(", PROTO, 0xf7bc04208f45fcab),
    (
        "static noinline void ts_close_ring(",
        PROTO,
        0x58ac3b1975620ccf,
    ),
    (
        "static __ts_jumps void ts_close(",
        PROTO,
        0xdca8dd2f6c0f3438,
    ),
    ("void ts_uninstall_protocol(", PROTO, 0x456ee82c26818d8f),
    ("void ts_install(", PROTO, 0x68b4f058d0a1015f),
    ("static void ts_ulp_release(", PROTO, 0x1e479a89fb77aa38),
    (
        "static noinline void ts_disconnect_ring(",
        PROTO,
        0x4bce478d60bedf8b,
    ),
    (
        "static __ts_jumps int ts_disconnect(",
        PROTO,
        0x77146aeb041ca247,
    ),
    ("bool ts_claim(", PROTO, 0xd8e6c3e3315d1366),
    ("static void ts_clear_user_data(", PROTO, 0x903e971a57ace305),
    ("void ts_take_off(", PROTO, 0x3fe5bce3cf8c872f),
    ("pub(crate) fn close_lanes(", TEARDOWN, 0x5a619cf539080c27),
    (
        "extern \"C\" fn tcp_splice_hand_back(",
        TEARDOWN,
        0x370e33f3c1d0b5ab,
    ),
    ("fn return_unread(", TEARDOWN, 0xbc4f4c1d56eddf9e),
    ("static bool ts_is_stale(", STALE, 0xd056bde8b81e9d9b),
    ("static bool ts_stale_let_go(", STALE, 0xa7c3a09d7030d3a4),
    (
        "static unsigned int ts_stale_gather(",
        STALE,
        0x8c5b8c0f90ff4993,
    ),
    (
        "static void ts_stale_work(struct work_struct *work)\n{",
        STALE,
        0x4ea33442a4a038bd,
    ),
    ("bool ts_notify_readable(", WAKE, 0x883e5bd799e234c6),
    ("void ts_notify_writeable(", WAKE, 0x9b4755239dafa033),
    ("long ts_sleep(", WAKE, 0x16d2626839be22fe),
];

#[test]
fn the_texts_are_those_that_were_read() {
    let mut changed = String::new();
    for (start, text, read) in TEXTS {
        let end = if start.starts_with("    ") {
            "\n    }\n"
        } else {
            "\n}\n"
        };
        let now = hash(&body(text, start, end));
        if now != *read {
            let _ = writeln!(changed, "{start} ({now:#018x})");
        }
    }
    assert!(
        changed.is_empty(),
        "these have changed; see whether core/tests/life/glue.rs still does what they do, then note their new hashes in texts.rs:\n{changed}"
    );
}

/// The hash is of the code alone, and of all of it.
#[test]
fn comments_do_not_count_and_code_does() {
    let text = "int a(void)\n{\n\tb(); /* why */\n\tc();\n}\nint d(void)\n{\n}\n";
    let of = |text: &str| body(text, "int a(", "\n}\n");
    assert_eq!(
        of(text),
        of(&text.replace(" /* why */", "").replace("\tc", "\t\tc"))
    );
    assert_ne!(hash(&of(text)), hash(&of(&text.replace("c()", "d()"))));
}
