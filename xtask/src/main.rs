// SPDX-License-Identifier: GPL-2.0-only
//! The VM world of tcp-splice: makes a root file system, builds the project inside it, boots it, runs
//! tests, benchmarks or a shell there, and brings the results back.

mod accel;
mod apt;
mod boots;
mod buildlog;
mod cache;
mod checkers;
mod checkout;
mod commands;
mod console;
mod debug_kernel;
mod fuzz;
mod guest;
mod host;
mod instructions;
mod klog;
mod matrix;
mod offers;
mod payload;
mod qemu;
mod rootfs;
mod sys;
mod tally;
mod ui;
mod verdict;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::debug_kernel::Checkers;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Test world of tcp-splice: a VM that builds and boots itself"
)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Open a shell in the guest, or run a command there (one word is a shell script)
    Vm {
        #[command(flatten)]
        vm: VmOptions,
        /// The command; its files in /results come back to results/vm
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Run the host tests, then the tests in the guest
    Test {
        #[command(flatten)]
        vm: VmOptions,
        /// Run only tests whose name contains this
        filter: Option<String>,
    },
    /// Run the host tests only
    TestHost,
    /// Run the tests in the guest only
    TestVm {
        #[command(flatten)]
        vm: VmOptions,
        /// Run only what a kernel with checkers has most to say about: lifetimes and locks, or for KCSAN threads that meet
        #[arg(long, conflicts_with = "filter")]
        quick: bool,
        /// Run only tests whose name contains this
        filter: Option<String>,
    },
    /// Measure real programs over plain TCP, spliced, and spliced with busy polling
    Demo {
        #[command(flatten)]
        vm: VmOptions,
        /// More arguments for tcp-splice-bench
        #[arg(last = true)]
        more: Vec<String>,
    },
    /// Measure everything: messages by size and number of pairs beside AF_UNIX and pipes, and real programs
    Bench {
        #[command(flatten)]
        vm: VmOptions,
        /// More arguments for `tcp-splice-bench suite`
        #[arg(last = true)]
        more: Vec<String>,
    },
    /// Count the instructions of one message over plain TCP, spliced, AF_UNIX and pipes (always in emulation)
    Instructions {
        #[command(flatten)]
        options: instructions::Options,
    },
    /// Measure what connections cost besides their messages: making them, having many of them, using several at once
    Costs {
        #[command(flatten)]
        vm: VmOptions,
        /// Boot so many times for the part `connections` alone, and show the rates of all boots side by side
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        boots: u32,
        /// More arguments for `tcp-splice-bench costs`
        #[arg(last = true)]
        more: Vec<String>,
    },
    /// Run other people's test suites over plain TCP and spliced, and compare
    Compat {
        #[command(flatten)]
        vm: VmOptions,
        /// More arguments for tcp-splice-compat: names of suites, or parts of names
        #[arg(last = true)]
        more: Vec<String>,
    },
    /// Feed the tool's parsers and the core's state machines with inputs made up by libFuzzer, on the host
    Fuzz {
        /// Seconds for each target
        #[arg(long, default_value_t = 60)]
        seconds: u32,
        /// Run only targets whose name contains this
        filter: Option<String>,
    },
    /// See each checker of the kernels that find bugs find one, and a run fail by that alone
    Checkers {
        #[command(flatten)]
        vm: VmOptions,
        /// Only bugs whose name contains this
        filter: Option<String>,
    },
    /// Make the guest's root file system and build the project inside, without booting
    Build {
        #[command(flatten)]
        vm: VmOptions,
    },
    /// Build for every kernel that Debian offers, and test there: docs/kernels.md
    Matrix {
        #[command(flatten)]
        options: matrix::Options,
    },
    /// Remove everything from the cache
    Purge,
}

/// How the guest is booted.
#[derive(Args, Clone)]
pub struct VmOptions {
    /// kvm or tcg, instead of finding out
    #[arg(long, env = "TCP_SPLICE_ACCEL")]
    accel: Option<qemu::Accel>,
    /// Number of processors of the guest
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// Memory of the guest in MiB
    #[arg(
        long,
        default_value_t = 2048,
        default_value_ifs([("debug_kernel", "true", "4096"), ("kcsan", "true", "4096")])
    )]
    memory: u32,
    /// Seconds after which the guest is ended and counts as failed
    #[arg(
        long,
        default_value_t = 1500,
        default_value_ifs([("debug_kernel", "true", "5400"), ("kcsan", "true", "5400")])
    )]
    time_limit: u64,
    /// More words for the guest kernel's command line
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    append: String,
    /// Boot a kernel with KASAN, lockdep and the like, which is built if need be
    #[arg(long)]
    debug_kernel: bool,
    /// Boot a kernel with KCSAN, which finds data races, and is built if need be
    #[arg(long, conflicts_with = "debug_kernel")]
    kcsan: bool,
    /// Boot another of Debian's kernels, the one whose version contains this (of several the cloud kernel), in a root file system of its suite
    #[arg(long, conflicts_with_all = ["debug_kernel", "kcsan"])]
    kernel: Option<String>,
    /// Set by the command that counts instructions
    #[arg(skip)]
    counter: Option<qemu::Counter>,
}

impl VmOptions {
    /// The checkers of the kernel that is asked for, if it is not the distribution's.
    fn checkers(&self) -> Option<Checkers> {
        match (self.debug_kernel, self.kcsan) {
            (true, _) => Some(Checkers::Debug),
            (_, true) => Some(Checkers::Kcsan),
            _ => None,
        }
    }

    /// The same on a kernel with these checkers.
    fn with(&self, checkers: Checkers) -> Self {
        Self {
            memory: self.memory.max(4096),
            debug_kernel: checkers == Checkers::Debug,
            kcsan: checkers == Checkers::Kcsan,
            ..self.clone()
        }
    }

    /// A guest whose instructions are counted: one processor, since on two the ends of a connection spin for each other, and addresses
    /// that are the same in every boot.
    fn counting(counter: qemu::Counter) -> Self {
        Self {
            accel: Some(qemu::Accel::Tcg),
            cpus: 1,
            // A hundred thousand connections have to exist.
            memory: 4096,
            time_limit: 3600,
            append: "nokaslr norandmaps randomize_kstack_offset=off".to_owned(),
            debug_kernel: false,
            kcsan: false,
            kernel: None,
            counter: Some(counter),
        }
    }
}

fn main() -> ExitCode {
    ui::start_clock();
    let result = match Cli::parse().command {
        Task::Vm { vm, command } => commands::vm(&vm, &command),
        Task::Test { vm, filter } => commands::test(&vm, filter.as_deref()),
        Task::TestHost => commands::test_host(),
        Task::TestVm { vm, quick, filter } => commands::test_vm(&vm, quick, filter.as_deref()),
        Task::Demo { vm, more } => commands::demo(&vm, &more),
        Task::Bench { vm, more } => commands::bench(&vm, &more),
        Task::Instructions { options } => instructions::run(&options),
        Task::Costs { vm, boots, more } => commands::costs(&vm, boots, &more),
        Task::Compat { vm, more } => commands::compat(&vm, &more),
        Task::Fuzz { seconds, filter } => commands::fuzz(seconds, filter.as_deref()),
        Task::Checkers { vm, filter } => commands::checkers(&vm, filter.as_deref()),
        Task::Build { vm } => commands::build(&vm),
        Task::Matrix { options } => matrix::run(&options),
        Task::Purge => commands::purge(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            ui::line(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
