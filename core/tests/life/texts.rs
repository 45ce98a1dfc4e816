// SPDX-License-Identifier: GPL-2.0-only
//! What `glue.rs` was written from: the functions of `kmod/` that it repeats. Should one of them change, so may what `glue.rs` has to say.

use std::fmt::Write;

const DRAIN: &str = include_str!("../../../kmod/drain.c");
const MAIN: &str = include_str!("../../../kmod/main.c");
const OPTIONS: &str = include_str!("../../../kmod/options.c");
const PAIR: &str = include_str!("../../../kmod/src/pair.rs");
const PAIRS: &str = include_str!("../../../kmod/pairs.c");
const PROTO: &str = include_str!("../../../kmod/proto.c");
const TEARDOWN: &str = include_str!("../../../kmod/src/teardown.rs");
const WAKE: &str = include_str!("../../../kmod/wake.c");

/// The text from `start` to the next line that is `end`, without comments, places to wait (kmod/delay.h), and the spaces between its words.
fn body(text: &str, start: &str, end: &str) -> String {
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
    ("bool ts_lock_unowned(", DRAIN, 0x6cab41dfcfaf94fc),
    ("static struct file *ts_file_of(", DRAIN, 0x300b919bc8f135bd),
    ("static bool ts_carries(", DRAIN, 0x67d49ced7f7abccb),
    ("static void ts_take_off(", DRAIN, 0x41a254c5c8490922),
    ("static int ts_drain_locked(", DRAIN, 0xe824e0ee3890b46b),
    ("void ts_give_up(", DRAIN, 0x519e49e2709c818c),
    ("static int ts_drain_sock(", DRAIN, 0xc401c0a79caabfbc),
    ("static int ts_drain_pass(", DRAIN, 0x10a37536629077e3),
    ("static void ts_endpoint_free(", MAIN, 0xc0b18cd057389429),
    ("void ts_endpoint_discard_all(", MAIN, 0x4808f193c213452e),
    ("static void ts_endpoint_retire(", MAIN, 0x876bf38e2db4860f),
    ("void ts_endpoint_retire_all(", MAIN, 0x5bafa67f60b5aa04),
    ("static void ts_endpoint_let_go(", MAIN, 0xc2f37eeb84855b99),
    ("void ts_endpoint_let_go_all(", MAIN, 0xb246dfcdb44aea30),
    ("void ts_destruct(", OPTIONS, 0xbfd382da74f6edc4),
    ("void ts_vacate_slot(", OPTIONS, 0xd53a40f96308e96a),
    ("static void ts_wear_again(", OPTIONS, 0x8e0690ddcc956043),
    ("static void ts_settle_slot(", OPTIONS, 0xf54d8bba0fbe6d88),
    ("static int ts_hand_back(", OPTIONS, 0x44e8822387d48f2c),
    (
        "static int ts_endpoint_unpaired(",
        OPTIONS,
        0xa451c3d96016756b,
    ),
    ("static int ts_set_ulp(", OPTIONS, 0x59f43fba5d17645e),
    ("impl Drop for Kept {", PAIR, 0xbc228b4b6646a7e7),
    ("    pub(crate) fn keep(", PAIR, 0x06627578ab92932c),
    (
        "static void ts_idle_work(struct work_struct *work)\n{",
        PAIRS,
        0x6d834f518e26d627,
    ),
    ("static int ts_list_show(", PAIRS, 0xe17403eb3bfe7962),
    ("bool ts_slots_are_free(", PROTO, 0xe6b6ce5408b1fb40),
    (
        "static noinline int ts_try_sendmsg(",
        PROTO,
        0xae4e75f9400d1811,
    ),
    (
        "static noinline int ts_try_recvmsg(",
        PROTO,
        0xdf7aac59f0667685,
    ),
    ("static void ts_unhash(", PROTO, 0xf7bc04208f45fcab),
    (
        "static noinline void ts_close_ring(",
        PROTO,
        0xbc9bf16e5f61caf5,
    ),
    (
        "static __ts_jumps void ts_close(",
        PROTO,
        0xdca8dd2f6c0f3438,
    ),
    ("static int ts_disconnect(", PROTO, 0xea7bf77fb5c228bc),
    ("void ts_uninstall_protocol(", PROTO, 0x7d4baba4ab0067a7),
    ("void ts_install(", PROTO, 0xd397b90527cd030a),
    ("void ts_clear_user_data(", PROTO, 0xdbd45cacdfd0da3d),
    ("static void ts_ulp_release(", PROTO, 0x4aeecd0076bbc47c),
    ("pub(crate) fn close_lanes(", TEARDOWN, 0x5a619cf539080c27),
    (
        "extern \"C\" fn tcp_splice_hand_back(",
        TEARDOWN,
        0x370e33f3c1d0b5ab,
    ),
    ("fn return_unread(", TEARDOWN, 0xbc4f4c1d56eddf9e),
    ("bool ts_notify_readable(", WAKE, 0x883e5bd799e234c6),
    ("void ts_notify_writeable(", WAKE, 0x14f457f244bbe71e),
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
