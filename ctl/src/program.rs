// SPDX-License-Identifier: GPL-2.0-only
//! The policy program: loading it with a policy, and recognizing it in the kernel.

use std::ffi::OsStr;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, anyhow};
use libbpf_rs::query::{ProgInfoIter, ProgInfoQueryOptions, ProgramInfo};
use libbpf_rs::{
    Link, MapCore, MapFlags, MapHandle, Object, ObjectBuilder, PrintLevel, ProgramType, set_print,
};

use crate::cgroup;
use crate::fault::Fault;
use crate::policy::Policy;

const NAME: &str = "tcp_splice";
const POLICY_MAP: &str = ".rodata.policy";
const KFUNC: &str = "bpf_tcp_splice_pair";

#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

/// libbpf reads ELF structures in place.
static OBJECT: &Aligned<[u8]> =
    &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/policy.bpf.o")));

static MESSAGES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Keeps libbpf off stderr; what it would have said is collected for [`messages`].
pub fn collect_messages() {
    set_print(Some((PrintLevel::Warn, |_, message| {
        let mut messages = MESSAGES.lock().unwrap_or_else(PoisonError::into_inner);
        messages.push(message.trim_end().to_owned());
    })));
}

/// What libbpf has said so far.
pub fn messages() -> Vec<String> {
    MESSAGES
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}

/// A policy program in the kernel, attached to nothing yet.
pub struct Loaded(Object);

impl Loaded {
    /// Loads a program that decides by `policy`.
    pub fn new(policy: &Policy) -> Result<Self> {
        let open = || -> libbpf_rs::Result<Object> {
            let mut open = ObjectBuilder::default()
                .name(NAME)?
                .open_memory(&OBJECT.0)?;
            for mut map in open
                .maps_mut()
                .filter(|map| map.name() == OsStr::new(POLICY_MAP))
            {
                map.set_initial_value(&policy.to_bytes())?;
            }
            open.load()
        };
        let loaded = open().map_err(|error| match kfunc_missing() {
            true => Fault::NoKfunc.into(),
            false => anyhow::Error::new(error),
        });
        loaded
            .map(Self)
            .context("failed to load the policy program")
    }

    /// Attaches the program to a cgroup, beside whatever else is attached there.
    pub fn attach(&self, dir: &cgroup::Dir) -> Result<Link> {
        let program = self
            .0
            .progs_mut()
            .find(|program| program.name() == OsStr::new(NAME));
        let program =
            program.ok_or_else(|| anyhow!("policy program is missing from its object"))?;
        program
            .attach_cgroup(dir.raw_fd())
            .context("failed to attach the policy program to the cgroup")
    }

    /// Puts the program in the place of the one that `link` holds, in one step.
    pub fn replace(&self, link: &mut Link) -> Result<()> {
        let program = self
            .0
            .progs()
            .find(|program| program.name() == OsStr::new(NAME));
        let program =
            program.ok_or_else(|| anyhow!("policy program is missing from its object"))?;
        link.update_prog(&program)
            .context("failed to replace the policy program")
    }
}

fn kfunc_missing() -> bool {
    messages()
        .iter()
        .any(|message| message.contains(KFUNC) && message.contains("not found"))
}

/// Looks at a loaded program: `None` when it is not ours, else its policy, if this version can read it.
pub fn identify(id: u32) -> Option<Option<Policy>> {
    let options = ProgInfoQueryOptions::default().include_map_ids(true);
    let info = ProgInfoIter::with_query_opts(options).find(|info| info.id == id)?;
    (info.ty == ProgramType::SockOps && info.name == NAME).then(|| policy_of(&info))
}

fn policy_of(info: &ProgramInfo) -> Option<Policy> {
    let maps = info
        .map_ids
        .iter()
        .filter_map(|&id| MapHandle::from_map_id(id).ok());
    let map = maps.into_iter().find(|map| map.name() == POLICY_MAP)?;
    let value = map.lookup(&0u32.to_ne_bytes(), MapFlags::ANY).ok()??;
    Policy::from_bytes(&value)
}
