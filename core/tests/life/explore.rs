// SPDX-License-Identifier: GPL-2.0-only
//! Walks all states that a set of actors can bring a world into.
//!
//! An actor's operation is plain code, the shipped steps among it. It is never kept on a stack: what it has done so far is the list of the
//! answers that it got from the world. To make it do one more step, it is run again from its beginning with these answers, until it asks
//! for something new; that is done to the world, and before the next step that others might notice it is left. So a state is data: it can be
//! copied, compared, and visited once.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

use crate::scene::{Actor, Op, Scene};
use crate::world::World;

/// Why an operation was left in the middle.
enum Left {
    /// Its next step is due, another time.
    Pause,
    /// It cannot go on in this state of the world.
    Blocked,
    /// It goes on in as many ways.
    Ways(u8),
}

/// Something that must not be.
pub struct Violation(pub String);

/// Ends everything.
pub fn violation(what: impl Into<String>) -> ! {
    resume_unwind(Box::new(Violation(what.into())))
}

/// An operation while it is run.
#[derive(Clone)]
pub struct Run(Rc<Inner>);

struct Inner {
    world: RefCell<World>,
    actor: u8,
    answers: RefCell<Vec<u8>>,
    /// How many of the answers were given again.
    given: Cell<usize>,
    /// The one step that others may notice is yet to come.
    may_step: Cell<bool>,
    /// What to choose, for choices that are new.
    choices: RefCell<Vec<u8>>,
    last: Cell<&'static str>,
}

impl Run {
    /// Who runs.
    pub fn actor(&self) -> u8 {
        self.0.actor
    }

    fn answered(&self) -> Option<u8> {
        let at = self.0.given.get();
        let answer = self.0.answers.borrow().get(at).copied();
        if answer.is_some() {
            self.0.given.set(at + 1);
        }
        answer
    }

    fn note(&self, answer: u8) -> u8 {
        self.0.answers.borrow_mut().push(answer);
        self.0.given.set(self.0.given.get() + 1);
        answer
    }

    /// A step that others may notice, and that may have to wait (`None`).
    pub fn wait(&self, name: &'static str, f: impl FnOnce(&mut World) -> Option<u8>) -> u8 {
        if let Some(answer) = self.answered() {
            return answer;
        }
        if !self.0.may_step.replace(false) {
            resume_unwind(Box::new(Left::Pause));
        }
        self.0.last.set(name);
        let answer = f(&mut self.0.world.borrow_mut());
        match answer {
            Some(answer) => self.note(answer),
            None => resume_unwind(Box::new(Left::Blocked)),
        }
    }

    /// A step that others may notice.
    pub fn step(&self, name: &'static str, f: impl FnOnce(&mut World) -> u8) -> u8 {
        self.wait(name, |world| Some(f(world)))
    }

    /// A step that nobody could tell from one that happens right after the one before: it touches nothing that others can reach, or it only
    /// gives them more freedom (letting go of a lock, leaving a read section).
    pub fn quiet(&self, f: impl FnOnce(&mut World) -> u8) -> u8 {
        if let Some(answer) = self.answered() {
            return answer;
        }
        let answer = f(&mut self.0.world.borrow_mut());
        self.note(answer)
    }

    /// Any of `ways`.
    pub fn choose(&self, ways: u8) -> u8 {
        if let Some(answer) = self.answered() {
            return answer;
        }
        let choice = self.0.choices.borrow_mut().pop();
        match choice {
            Some(choice) => self.note(choice),
            None => resume_unwind(Box::new(Left::Ways(ways))),
        }
    }
}

/// Everything at one moment.
#[derive(Clone, Hash)]
pub struct State {
    pub world: World,
    pub actors: Vec<Actor>,
}

/// What one walk saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub states: usize,
    pub ends: usize,
    pub deepest: usize,
    /// Two ends were joined in some of the states.
    pub joined: bool,
}

/// A state's name. Two different states share one with a chance of 2^-128.
fn name(state: &State) -> u128 {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        state.hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}

/// What became of a step.
enum After {
    State(Box<State>, &'static str),
    Blocked,
    Ways(u8),
}

/// One step of an actor's operation, with these choices.
fn step(scene: &Scene, state: &State, index: usize, op: Op, choices: &[u8]) -> After {
    let actor = &state.actors[index];
    let run = Run(Rc::new(Inner {
        world: RefCell::new(state.world.clone()),
        actor: actor.id,
        answers: RefCell::new(actor.answers.clone()),
        given: Cell::new(0),
        may_step: Cell::new(true),
        choices: RefCell::new(choices.iter().rev().copied().collect()),
        last: Cell::new(""),
    }));
    let done = catch_unwind(AssertUnwindSafe(|| op.run(scene, &run)));
    let ended = match done {
        Ok(()) => true,
        Err(left) => match left.downcast::<Left>().map(|left| *left) {
            Ok(Left::Pause) => false,
            Ok(Left::Blocked) => return After::Blocked,
            Ok(Left::Ways(ways)) => return After::Ways(ways),
            Err(other) => resume_unwind(other),
        },
    };
    let Some(inner) = Rc::into_inner(run.0) else {
        violation("an operation has kept its run")
    };
    let mut after = State {
        world: inner.world.into_inner(),
        actors: state.actors.clone(),
    };
    let actor = &mut after.actors[index];
    (actor.op, actor.answers) = if ended {
        (None, Vec::new())
    } else {
        (Some(op), inner.answers.into_inner())
    };
    scene.settle(&mut after, index, op);
    After::State(Box::new(after), inner.last.get())
}

/// The walk.
pub struct Explorer<'a> {
    scene: &'a Scene,
    visited: HashSet<u128>,
    path: Vec<(u8, Op, &'static str)>,
    seen: Seen,
}

impl<'a> Explorer<'a> {
    /// Visits every state; a violation panics with the steps that lead there.
    pub fn walk(scene: &'a Scene) -> Seen {
        let mut this = Explorer {
            scene,
            visited: HashSet::new(),
            path: Vec::new(),
            seen: Seen::default(),
        };
        let result = catch_unwind(AssertUnwindSafe(|| this.visit(&scene.start())));
        if let Err(error) = result {
            let path: Vec<_> = this
                .path
                .iter()
                .map(|(actor, op, name)| format!("{actor}: {op:?}: {name}"))
                .collect();
            match error.downcast::<Violation>() {
                Ok(violation) => panic!(
                    "{}\n{}\nafter:\n{}",
                    scene.name,
                    violation.0,
                    path.join("\n")
                ),
                Err(other) => resume_unwind(other),
            }
        }
        this.seen
    }

    fn visit(&mut self, state: &State) {
        self.seen.states += 1;
        self.seen.deepest = self.seen.deepest.max(self.path.len());
        self.seen.joined |= state.world.pairs.iter().any(|pair| pair.made);
        let mut stuck = true;
        for (index, op) in self.scene.moves(state) {
            let mut untried: Vec<Vec<u8>> = vec![Vec::new()];
            while let Some(choices) = untried.pop() {
                self.path.push((state.actors[index].id, op, ""));
                match step(self.scene, state, index, op, &choices) {
                    After::Blocked => {}
                    After::Ways(ways) => untried.extend((0..ways).map(|way| {
                        let mut more = choices.clone();
                        more.push(way);
                        more
                    })),
                    After::State(after, name_of_step) => {
                        stuck = false;
                        if let Some(last) = self.path.last_mut() {
                            last.2 = name_of_step;
                        }
                        after.world.check();
                        if self.visited.insert(name(&after)) {
                            self.visit(&after);
                        }
                    }
                }
                self.path.pop();
            }
        }
        if stuck {
            self.seen.ends += 1;
            if let Some(actor) = state.actors.iter().find(|actor| actor.op.is_some()) {
                violation(format!("{:?} hangs", actor.op));
            }
            state.world.check_end();
        }
    }
}
