// SPDX-License-Identifier: GPL-2.0-only
//! `/proc/net/tcp_splice` as text: no line keeps others from being read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tcp_splice_fuzz::connections::Connection;

const LINE: &str = "id=7 client.local=127.0.0.1:4 client.remote=127.0.0.1:6 client.netns=1 client.inode=11 client.cgroup=1 \
client.tcp_state=1 client.tcp_bytes=5 client.carrier=ring client.reason=none client.ring_bytes=100 client.unread=20 \
client.ring_size=65536 client.wakes=3 client.stalls=0 server.carrier=tcp server.reason=packets server.ring_bytes=0 server.unread=0 \
server.ring_size=0 server.wakes=0 server.stalls=1";

fuzz_target!(|text: &str| {
    let alone = Connection::read_all(text);
    let lines = text.lines().count();
    assert!(alone.len() <= lines);
    assert!(alone.iter().all(|one| one.sockets().next().is_some()));
    let with = format!("{LINE}\n{text}\n{LINE}\n");
    let with = Connection::read_all(&with);
    assert_eq!(with.len(), alone.len() + 2);
    assert_eq!(with[1..=alone.len()], alone);
});
