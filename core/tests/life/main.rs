// SPDX-License-Identifier: GPL-2.0-only
//! The shipped steps of `core::life`, in every order that two ends, TCP, drains, walkers and RCU callbacks can bring them into.
//!
//! `cargo test -p tcp-splice-core --release --test life`
#![cfg(not(loom))]

mod explore;
mod glue;
mod kernel;
mod scene;
mod texts;
mod world;

use explore::{Explorer, Seen};
use scene::{Op, Scene};
use std::time::Instant;
use world::{ACTIVE, PASSIVE, SECOND};

/// Walks a scene; all scenes of a test run one after the other. Ends that should be joined are, in some of its orders.
fn walk(scene: &Scene) -> Seen {
    let began = Instant::now();
    let seen = Explorer::walk(scene);
    println!(
        "{}: {} states, {} ends, at most {} steps, {:.1} s",
        scene.name,
        seen.states,
        seen.ends,
        seen.deepest,
        began.elapsed().as_secs_f32()
    );
    let mut ops = scene.actors.iter().flatten();
    let may_join = ops.any(|op| matches!(op, Op::Join(..)));
    assert_eq!(seen.joined, may_join, "{}", scene.name);
    seen
}

/// Who goes last, when all others are through.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    /// Nobody: both ends at once.
    Nobody,
    ActiveEnd,
    PassiveEnd,
}

/// The two ends of one connection, what their programs do before they close, and TCP; `others` for who else there is.
fn connection(
    name: &'static str,
    last: Last,
    active: &[Op],
    passive: &[Op],
    others: &[&[Op]],
) -> Scene {
    let mut actors = vec![
        vec![Op::Offer(ACTIVE, 0)],
        vec![Op::Join(PASSIVE, 0), Op::Accept(PASSIVE)],
        [active, &[Op::Close(ACTIVE)]].concat(),
        vec![Op::End(ACTIVE)],
        [passive, &[Op::Close(PASSIVE)]].concat(),
        vec![Op::End(PASSIVE)],
    ];
    actors.extend(others.iter().map(|ops| ops.to_vec()));
    Scene {
        name,
        socks: 2,
        actors,
        last: match last {
            Last::Nobody => vec![],
            Last::ActiveEnd => vec![2, 3],
            Last::PassiveEnd => vec![4, 5],
        },
        ..Scene::default()
    }
}

#[test]
fn two_ends_come_and_go() {
    walk(&connection("two ends", Last::Nobody, &[], &[], &[]));
    walk(&Scene {
        aborts: true,
        memory_fails: true,
        ..connection(
            "two ends, with aborts and without memory",
            Last::Nobody,
            &[],
            &[],
            &[],
        )
    });
    let mut scene = connection("a child that nobody accepts", Last::Nobody, &[], &[], &[]);
    scene.actors[1] = vec![Op::Join(PASSIVE, 0), Op::Forget(PASSIVE)];
    scene.actors[4].clear();
    walk(&scene);
}

#[test]
fn calls_and_sleepers() {
    let call = |sk| [Op::Call(sk)];
    walk(&connection(
        "a call of each end",
        Last::Nobody,
        &call(ACTIVE),
        &call(PASSIVE),
        &[],
    ));
    for (last, sk) in [(Last::PassiveEnd, ACTIVE), (Last::ActiveEnd, PASSIVE)] {
        let other = if sk == ACTIVE { PASSIVE } else { ACTIVE };
        walk(&Scene {
            sleeps: true,
            aborts: true,
            ..connection(
                "a sleeper, and a call of the end that stays",
                last,
                &call(sk),
                &[],
                &[&call(other)],
            )
        });
    }
}

#[test]
fn disconnected_under_calls() {
    let (disconnect, call) = ([Op::Disconnect(ACTIVE)], [Op::Call(ACTIVE)]);
    walk(&connection(
        "connect(AF_UNSPEC) of the connecting end",
        Last::Nobody,
        &disconnect,
        &[],
        &[],
    ));
    walk(&connection(
        "connect(AF_UNSPEC) of the accepted end",
        Last::Nobody,
        &[],
        &[Op::Disconnect(PASSIVE)],
        &[],
    ));
    walk(&Scene {
        sleeps: true,
        ..connection(
            "connect(AF_UNSPEC) under a sleeper",
            Last::PassiveEnd,
            &disconnect,
            &[],
            &[&call],
        )
    });
}

#[test]
fn spliced_anew() {
    let program = [Op::Disconnect(ACTIVE), Op::Reconnect(ACTIVE, 1)];
    let mut scene = connection(
        "connected anew, to another end",
        Last::PassiveEnd,
        &program,
        &[],
        &[
            &[Op::Join(SECOND, 1), Op::Forget(SECOND)],
            &[Op::End(SECOND)],
        ],
    );
    scene.socks = 3;
    scene.last.extend([6, 7]);
    walk(&scene);
}

#[test]
fn the_slot_given_away() {
    walk(&connection(
        "TCP_ULP at the connecting end",
        Last::Nobody,
        &[Op::SetUlp(ACTIVE)],
        &[],
        &[],
    ));
    walk(&connection(
        "TCP_ULP at the accepted end",
        Last::Nobody,
        &[],
        &[Op::SetUlp(PASSIVE)],
        &[],
    ));
    walk(&Scene {
        memory_fails: true,
        ..connection(
            "TCP_ULP against connect(AF_UNSPEC)",
            Last::PassiveEnd,
            &[Op::SetUlp(ACTIVE)],
            &[],
            &[&[Op::Disconnect(ACTIVE)]],
        )
    });
}

/// The second finds no link, while the first has not yet told the other end that the socket goes.
#[test]
fn the_slot_given_away_twice() {
    let give = [Op::SetUlp(ACTIVE)];
    walk(&connection(
        "two calls of TCP_ULP",
        Last::PassiveEnd,
        &give,
        &[],
        &[&give, &[Op::Call(PASSIVE)]],
    ));
}

#[test]
fn walkers() {
    for last in [Last::ActiveEnd, Last::PassiveEnd] {
        walk(&connection(
            "a walker of the list of pairs",
            last,
            &[],
            &[],
            &[&[Op::Walk]],
        ));
    }
}

#[test]
fn drained() {
    let drain: &[&[Op]] = &[&[Op::Drain]];
    walk(&connection("a drain", Last::PassiveEnd, &[], &[], drain));
    walk(&connection(
        "a drain, the connecting end stays",
        Last::ActiveEnd,
        &[],
        &[],
        drain,
    ));
    let mut scene = connection(
        "a drain of a child that nobody accepts",
        Last::ActiveEnd,
        &[],
        &[],
        drain,
    );
    scene.actors[1] = vec![Op::Join(PASSIVE, 0), Op::Forget(PASSIVE)];
    scene.actors[4].clear();
    walk(&scene);
}

#[test]
fn drained_under_calls() {
    walk(&Scene {
        sleeps: true,
        ..connection(
            "a drain under a sleeper",
            Last::ActiveEnd,
            &[],
            &[Op::Call(PASSIVE)],
            &[&[Op::Drain]],
        )
    });
    // Nothing but the sleeper itself keeps its pair.
    walk(&Scene {
        sleeps: true,
        ..connection(
            "a drain under a sleeper whose other end goes",
            Last::ActiveEnd,
            &[],
            &[],
            &[&[Op::Drain], &[Op::Call(ACTIVE)]],
        )
    });
    let call = [Op::Call(ACTIVE)];
    walk(&Scene {
        gives_up: true,
        ..connection("calls that give up", Last::PassiveEnd, &call, &[], &[&call])
    });
}

/// The slot is given away while a drain looks for what it can take off.
#[test]
fn drained_while_the_slot_is_given_away() {
    let mut scene = connection(
        "a drain against TCP_ULP, alone",
        Last::PassiveEnd,
        &[Op::SetUlp(ACTIVE)],
        &[],
        &[&[Op::Drain]],
    );
    scene.actors[1] = vec![Op::Accept(PASSIVE)];
    scene.last.push(1);
    walk(&scene);
}

/// A sockmap, or KCM, comes between the look at a socket and its offer, or later.
#[test]
fn taken_by_others() {
    let others: &[&[Op]] = &[&[Op::Take(ACTIVE)]];
    walk(&connection(
        "the offered end is taken",
        Last::Nobody,
        &[],
        &[],
        others,
    ));
    let others: &[&[Op]] = &[&[Op::Take(PASSIVE)]];
    walk(&connection(
        "the joining end is taken",
        Last::Nobody,
        &[],
        &[],
        others,
    ));
}

/// Two drains: of both ends while they are joined, which then go one after the other or at once; and of an end that is not paired, and never will
/// be.
#[test]
fn drained_twice() {
    let drain = [Op::Drain];
    let mut scene = connection(
        "two drains, both ends stay",
        Last::Nobody,
        &[],
        &[],
        &[&drain, &drain],
    );
    scene.last = vec![2, 3, 4, 5];
    walk(&scene);
    let mut scene = connection("two drains", Last::PassiveEnd, &[], &[], &[&drain, &drain]);
    scene.actors[1] = vec![Op::Accept(PASSIVE)];
    scene.last.push(1);
    walk(&scene);
}

/// The worker that takes everything off an end for which nobody came, or somebody comes just then.
#[test]
fn stale_ends() {
    let stale = [Op::Stale];
    walk(&Scene {
        aborts: true,
        ..connection(
            "the worker for stale ends",
            Last::PassiveEnd,
            &[],
            &[],
            &[&stale],
        )
    });
    let alone = |name, program: &[Op], others: &[&[Op]]| {
        let mut scene = connection(name, Last::PassiveEnd, program, &[], others);
        scene.actors[1] = vec![Op::Accept(PASSIVE)];
        scene.last.push(1);
        (scene.aborts, scene.gives_up) = (true, true);
        walk(&scene)
    };
    let call = [Op::Call(ACTIVE)];
    alone("a stale end and its calls", &call, &[&stale, &call]);
    alone("a stale end against a drain", &[], &[&stale, &[Op::Drain]]);
    alone("a stale end, twice", &call, &[&stale, &stale]);
    let (give, part) = ([Op::SetUlp(ACTIVE)], [Op::Disconnect(ACTIVE)]);
    alone("a stale end against TCP_ULP", &give, &[&stale]);
    alone(
        "a stale end against connect(AF_UNSPEC)",
        &part,
        &[&stale, &call],
    );
    let program = [Op::Disconnect(ACTIVE), Op::Reconnect(ACTIVE, 1)];
    alone("a stale end, connected anew", &program, &[&stale]);
}

/// What takes minutes; `make models` has the time.
#[test]
fn everything_at_once() {
    if std::env::var_os("TCP_SPLICE_MODELS").is_none_or(|models| models != "all") {
        // The smallest of them, so that it is known to run.
        walk(&connection(
            "a walker, the connecting end stays",
            Last::ActiveEnd,
            &[],
            &[],
            &[&[Op::Walk], &[Op::Walk]],
        ));
        return;
    }
    let drain: &[&[Op]] = &[&[Op::Drain]];
    walk(&connection(
        "a walker, both ends at once",
        Last::Nobody,
        &[],
        &[],
        &[&[Op::Walk]],
    ));
    walk(&connection(
        "a drain, both ends at once",
        Last::Nobody,
        &[],
        &[],
        drain,
    ));
    walk(&connection(
        "a drain against TCP_ULP",
        Last::PassiveEnd,
        &[Op::SetUlp(ACTIVE)],
        &[],
        drain,
    ));
    walk(&connection(
        "a drain against connect(AF_UNSPEC)",
        Last::PassiveEnd,
        &[Op::Disconnect(ACTIVE)],
        &[],
        drain,
    ));
    walk(&Scene {
        sleeps: true,
        ..connection(
            "a drain under a sleeper",
            Last::PassiveEnd,
            &[Op::Call(ACTIVE)],
            &[],
            drain,
        )
    });
}
