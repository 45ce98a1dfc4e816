// SPDX-License-Identifier: GPL-2.0-only
//! Who there is, and what each may do, in any order.

use crate::explore::{Run, State};
use crate::world::{ACTIVE, Call, World};
use tcp_splice_core::pairing::Facts;

/// An operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// The connecting end of a connection is established.
    Offer(u8, u8),
    /// The accepted end is.
    Join(u8, u8),
    Accept(u8),
    /// Its listener is closed instead.
    Forget(u8),
    /// send() or recv().
    Call(u8),
    SetUlp(u8),
    /// Somebody else takes `sk_user_data`.
    Take(u8),
    Disconnect(u8),
    /// connect() after that, established at once.
    Reconnect(u8, u8),
    /// The program closes its descriptor.
    Close(u8),
    /// TCP has ended: a reset, the last FIN, a timeout.
    End(u8),
    Drain,
    /// The worker for ends without a link.
    Stale,
    /// `/proc/net/tcp_splice`, or the worker for idle rings.
    Walk,
    Callback(Call, u8),
}

impl Op {
    /// Runs it from its beginning.
    pub fn run(self, scene: &Scene, run: &Run) {
        match self {
            Op::Offer(sk, connection) => run.offer(scene, sk, connection),
            Op::Join(sk, connection) => run.join(scene, sk, connection),
            Op::Accept(sk) => run.accept(sk),
            Op::Forget(sk) => run.forget(sk),
            Op::Call(sk) => run.call(scene, sk),
            Op::SetUlp(sk) => run.set_ulp(scene, sk),
            Op::Take(sk) => run.take(sk),
            Op::Disconnect(sk) => run.disconnect(scene, sk),
            Op::Reconnect(sk, connection) => run.reconnect(scene, sk, connection),
            Op::Close(sk) => run.fput(scene, sk),
            Op::End(sk) => run.end(sk),
            Op::Drain => run.drain(scene),
            Op::Stale => run.stale(),
            Op::Walk => run.walk(),
            Op::Callback(call, ep) => run.callback(call, ep),
        }
    }

    /// May it begin now? `menu`: what its actor has left to do.
    fn may_begin(self, world: &World, menu: &[Op]) -> bool {
        let sock = |sk: u8| &world.socks[usize::from(sk)];
        let left = |op: Op| menu.contains(&op);
        match self {
            Op::Offer(sk, _) => sock(sk).alive && sock(sk).files > 0,
            Op::Join(..) | Op::Callback(..) => true,
            Op::Take(sk) => !sock(sk).freed,
            // The child is locked from its birth until after its handshake's callback.
            Op::Accept(sk) | Op::Forget(sk) => {
                !menu.iter().any(|op| matches!(op, Op::Join(..)))
                    && !sock(sk).socket
                    && !sock(sk).dead
            }
            Op::Call(sk) | Op::SetUlp(sk) => sock(sk).files > 0 && sock(sk).socket,
            Op::Disconnect(sk) => sock(sk).files > 0 && sock(sk).socket,
            Op::Reconnect(sk, _) => {
                sock(sk).files > 0
                    && sock(sk).disconnects == 1
                    && !sock(sk).alive
                    && !left(Op::Disconnect(sk))
            }
            Op::Close(sk) => sock(sk).files > 0,
            Op::End(sk) => sock(sk).alive,
            Op::Drain | Op::Stale => world.eps.iter().any(|ep| !ep.freed && ep.indexed),
            Op::Walk => world.pairs.iter().any(|pair| pair.listed),
        }
    }

    /// Is it there once only?
    fn is_once(self) -> bool {
        !matches!(self, Op::End(_))
    }
}

/// Somebody who does one thing at a time.
#[derive(Clone, Debug, Hash)]
pub struct Actor {
    pub id: u8,
    pub menu: Vec<Op>,
    pub op: Option<Op>,
    pub answers: Vec<u8>,
}

/// A set of actors.
#[derive(Clone, Debug, Default)]
pub struct Scene {
    pub name: &'static str,
    pub socks: u8,
    pub actors: Vec<Vec<Op>>,
    /// close() may be answered with a reset.
    pub aborts: bool,
    /// Calls may sleep.
    pub sleeps: bool,
    /// Calls that find no link may give up the endpoint.
    pub gives_up: bool,
    pub memory_fails: bool,
    /// These actors begin nothing before all others are through.
    pub last: Vec<u8>,
}

impl Scene {
    /// The first state.
    pub fn start(&self) -> State {
        let actor = |(id, menu): (usize, &Vec<Op>)| Actor {
            id: id as u8,
            menu: menu.clone(),
            op: None,
            answers: Vec::new(),
        };
        let mut world = World::new(self.socks);
        world.memory_fails = self.memory_fails;
        State {
            world,
            actors: self.actors.iter().enumerate().map(actor).collect(),
        }
    }

    /// Who may do a step of what.
    pub fn moves(&self, state: &State) -> Vec<(usize, Op)> {
        let mut moves = self.moves_of(state, false);
        if moves.is_empty() {
            moves = self.moves_of(state, true);
        }
        moves
    }

    fn moves_of(&self, state: &State, last: bool) -> Vec<(usize, Op)> {
        let mut moves = Vec::new();
        for (index, actor) in state.actors.iter().enumerate() {
            match actor.op {
                Some(op) => moves.push((index, op)),
                None if last || !self.last.contains(&actor.id) => {
                    let may = |op: &&Op| op.may_begin(&state.world, &actor.menu);
                    moves.extend(actor.menu.iter().filter(may).map(|op| (index, *op)));
                }
                None => {}
            }
        }
        moves
    }

    /// After a step: what was begun is not begun again, and callbacks whose grace period is over become actors.
    pub fn settle(&self, state: &mut State, index: usize, op: Op) {
        let actor = &mut state.actors[index];
        if op.is_once() {
            actor.menu.retain(|other| *other != op);
        }
        let fixed = self.actors.len();
        state
            .actors
            .retain(|actor| usize::from(actor.id) < fixed || actor.op.is_some());
        let (due, waiting) = std::mem::take(&mut state.world.callbacks)
            .into_iter()
            .partition(|callback| callback.waits == 0);
        state.world.callbacks = waiting;
        for callback in due {
            let taken = |id: u8| state.actors.iter().any(|actor| actor.id == id);
            let id = (fixed as u8..).find(|id| !taken(*id)).unwrap_or(u8::MAX);
            state.actors.push(Actor {
                id,
                menu: Vec::new(),
                op: Some(Op::Callback(callback.call, callback.ep)),
                answers: Vec::new(),
            });
        }
    }

    /// What is known of an end of a connection.
    pub fn facts(&self, sk: u8, connection: u8) -> Facts {
        let (active, passive) = (100 + u32::from(connection), 200 + u32::from(connection));
        let (mine, other) = if sk == ACTIVE {
            (active, passive)
        } else {
            (passive, active)
        };
        Facts {
            id: u64::from(sk),
            write_seq: mine,
            rcv_nxt: other,
            txhash: mine,
            peer_hash: Some(other),
            netns: 1,
            may_cross: true,
        }
    }
}
