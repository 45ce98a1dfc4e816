// SPDX-License-Identifier: GPL-2.0-only
//! The ring natively: round trips and streams between two pinned threads, beside other people's rings and a plain copy of the same bytes; and
//! beside what it could do otherwise.
//!
//! Each ring shows first that what it carries arrives as it was sent. No system call is made, so this is what cursors and chunks cost, not
//! what a connection does.

mod lane;
mod link;
mod otherwise;
mod rivals;

use std::hint::black_box;
use std::sync::{Barrier, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use core_affinity::CoreId;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use link::{Receive, Send};
use tcp_splice_core::short::SHORT;

const TRIP_SIZES: [usize; 5] = [1, 64, 1 << 10, 16 << 10, 64 << 10];
const STREAM_SIZES: [usize; 6] = [64, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10];

type Group<'a> = BenchmarkGroup<'a, WallTime>;

/// The processors, as the first thread was given them: threads inherit what it is kept on.
static CORES: LazyLock<Vec<CoreId>> =
    LazyLock::new(|| core_affinity::get_core_ids().unwrap_or_default());

/// Keeps this thread on the first processor, or on the second.
fn pin(index: usize) {
    assert!(CORES.len() > 1, "two threads need two processors");
    assert!(core_affinity::set_for_current(CORES[index]));
}

/// Every byte differs from its neighbours in the message and in the next one.
fn message(size: usize, number: usize) -> Vec<u8> {
    let byte = |index: usize| (((index + 7 * number) * 2_654_435_761) >> 8) as u8;
    (0..size).map(byte).collect()
}

/// Does `near` on this thread and `far` on the other processor; returns how long `near` took.
fn both(near: impl FnOnce(), far: impl FnOnce() + std::marker::Send) -> Duration {
    let barrier = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            pin(1);
            barrier.wait();
            far();
        });
        barrier.wait();
        let begun = Instant::now();
        near();
        begun.elapsed()
    })
}

/// Messages of sizes that fit nothing, one after the other.
fn check<S: Send, R: Receive>(new: fn() -> (S, R)) {
    let (mut sender, mut receiver) = new();
    let sizes = || (1..400).map(|number| (number, number * number % 70_001 + 1));
    both(
        || {
            for (number, size) in sizes() {
                let mut buffer = vec![0; size];
                receiver.receive(&mut buffer);
                assert!(buffer == message(size, number), "wrong data");
            }
        },
        || {
            for (number, size) in sizes() {
                sender.send(&message(size, number));
            }
        },
    );
}

fn trip<S: Send, R: Receive>(group: &mut Group, name: &str, size: usize, new: fn() -> (S, R)) {
    let message = message(size, 0);
    group.bench_function(BenchmarkId::new(name, size), |bencher| {
        bencher.iter_custom(|times| {
            let ((mut to, mut there), (mut back, mut here)) = (new(), new());
            let (mut near, mut far) = (vec![0; size], vec![0; size]);
            both(
                || {
                    for _ in 0..times {
                        to.send(&message);
                        here.receive(&mut near);
                    }
                },
                || {
                    for _ in 0..times {
                        there.receive(&mut far);
                        back.send(&far);
                    }
                },
            )
        });
    });
}

fn stream<S: Send, R: Receive>(group: &mut Group, name: &str, size: usize, new: fn() -> (S, R)) {
    let message = message(size, 0);
    group.bench_function(BenchmarkId::new(name, size), |bencher| {
        bencher.iter_custom(|times| {
            let (mut sender, mut receiver) = new();
            let mut buffer = vec![0; size];
            let send = || (0..times).for_each(|_| sender.send(&message));
            both(
                || (0..times).for_each(|_| receiver.receive(&mut buffer)),
                send,
            )
        });
    });
}

/// One copy from one place to another, on one thread.
fn copy(group: &mut Group, size: usize) {
    let (message, mut buffer) = (message(size, 0), vec![0; size]);
    group.bench_function(BenchmarkId::new("memcpy", size), |bencher| {
        bencher.iter(|| black_box(&mut buffer[..]).copy_from_slice(black_box(&message)));
    });
}

fn trips(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("round trip");
    for size in TRIP_SIZES {
        trip(&mut group, "lane", size, lane::shipped);
        trip(&mut group, "rtrb", size, rivals::rtrb);
        trip(&mut group, "ringbuf", size, rivals::ringbuf);
    }
    group.finish();
}

fn streams(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("stream");
    for size in STREAM_SIZES {
        group.throughput(Throughput::Bytes(size as u64));
        stream(&mut group, "lane", size, lane::shipped);
        stream(&mut group, "rtrb", size, rivals::rtrb);
        stream(&mut group, "ringbuf", size, rivals::ringbuf);
        copy(&mut group, size);
    }
    group.finish();
}

/// Pieces of other sizes.
macro_rules! pieces {
    ($measure:ident, $group:expr, $size:expr) => {
        $measure($group, "pieces of 4 KiB", $size, lane::new::<4096, SHORT>);
        $measure($group, "pieces of 8 KiB", $size, lane::new::<8192, SHORT>);
        $measure($group, "lane", $size, lane::shipped);
        $measure($group, "pieces of 16 KiB", $size, lane::new::<16384, SHORT>);
    };
}

/// What the module does, and what it does not.
fn otherwise(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("round trip, otherwise");
    for size in [1, 48] {
        trip(&mut group, "in the ring only", size, lane::new::<0, 0>);
        trip(&mut group, "lane", size, lane::shipped);
        trip(&mut group, "one line", size, otherwise::lines);
    }
    for size in [16 << 10, 64 << 10, 256 << 10] {
        pieces!(trip, &mut group, size);
        trip(&mut group, "one copy", size, otherwise::direct);
    }
    group.finish();
    let mut group = criterion.benchmark_group("stream, otherwise");
    for size in [16 << 10, 64 << 10, 256 << 10] {
        group.throughput(Throughput::Bytes(size as u64));
        pieces!(stream, &mut group, size);
        stream(&mut group, "one copy", size, otherwise::direct);
    }
    group.finish();
}

fn main() {
    pin(0);
    check(lane::shipped);
    check(lane::new::<0, 0>);
    check(lane::new::<4096, SHORT>);
    check(lane::new::<8192, SHORT>);
    check(lane::new::<16384, SHORT>);
    check(rivals::rtrb);
    check(rivals::ringbuf);
    check(otherwise::lines);
    check(otherwise::direct);
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    trips(&mut criterion);
    streams(&mut criterion);
    otherwise(&mut criterion);
    criterion.final_summary();
}
