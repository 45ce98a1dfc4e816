// SPDX-License-Identifier: GPL-2.0-only
//! `tcp-splice-ctl`: which connections are offered to the kernel module `tcp_splice`.
//!
//! Pure parts: [`args`], [`policy`], [`ports`], [`counters`], [`connections`], [`list`], [`status`], [`release`], [`fault`].
//! Effects: [`host`], [`owners`], [`cgroup`], [`program`], [`pins`], [`polling`], [`mod@drain`], [`mod@bench`]. There is no state file: what is in force is read back from the kernel.

mod args;
mod bench;
mod cgroup;
mod connections;
mod counters;
mod drain;
mod fault;
mod host;
mod list;
mod owners;
mod pins;
mod policy;
mod polling;
mod ports;
mod program;
mod release;
mod status;

use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser};

use args::{Cli, Command, Disable, Drain, Enable};
use connections::{Connection, Plain};
use ports::Ports;

/// Bytes that are written at once, as many as a pipe holds.
const BLOCK: usize = 64 << 10;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    program::collect_messages();
    let Err(error) = run(&cli.command) else {
        return ExitCode::SUCCESS;
    };
    complain(&format!("tcp-splice-ctl: {error:#}"));
    if cli.verbose {
        program::messages()
            .iter()
            .for_each(|message| complain(message));
    }
    ExitCode::FAILURE
}

/// Unlike `eprintln!`, does not panic when nobody reads it.
fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Something that is no error.
fn tell(text: Option<String>) {
    if let Some(text) = text {
        complain(&text);
    }
}

/// Help and version go to stdout as clap writes them; a mistake gets one line.
fn usage(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand as NoCommand;
    if !error.use_stderr() || error.kind() == NoCommand {
        let _ = error.print();
    } else {
        complain(&format!("tcp-splice-ctl: {}", args::usage_line(error)));
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

fn run(command: &Command) -> Result<()> {
    match command {
        Command::Enable(options) => enable(options),
        Command::Status { json } => show(*json),
        Command::List {
            json,
            extended,
            ports,
        } => list(*json, *extended, ports.as_ref()),
        Command::Disable(options) => disable(options),
        Command::Drain(options) => drain(options),
        Command::Bench { options } => bench(options),
        Command::Man { dir } => man(dir),
        Command::Completions { shell } => {
            clap_complete::generate(
                *shell,
                &mut Cli::command(),
                "tcp-splice-ctl",
                &mut io::stdout(),
            );
            Ok(())
        }
    }
}

fn enable(options: &Enable) -> Result<()> {
    host::check_root()?;
    let cgroup = cgroup::Dir::open(&options.cgroup)?;
    host::check_kernel()?;
    tell(pins::enable(&options.policy(), &cgroup)?);
    Ok(())
}

fn disable(options: &Disable) -> Result<()> {
    host::check_root()?;
    tell(pins::disable()?);
    if !options.drain || !host::module().loaded {
        return Ok(());
    }
    drained(drain::drain(None, options.timeout())?)?;
    drain::release(options.timeout())
}

fn drain(options: &Drain) -> Result<()> {
    host::check_root()?;
    drained(drain::drain(options.ports.as_ref(), options.timeout())?)
}

fn bench(options: &[OsString]) -> Result<()> {
    host::check_root()?;
    host::check_kernel()?;
    bench::become_it(options)
}

fn drained(sockets: u64) -> Result<()> {
    let plural = if sockets == 1 { "" } else { "s" };
    print(&format!("drained {sockets} socket{plural}\n"))
}

fn show(json: bool) -> Result<()> {
    host::check_root()?;
    let status = pins::inspect()?;
    let text = match json {
        true => {
            status
                .json()
                .context("failed to write the status as JSON")?
                + "\n"
        }
        false => status.text(),
    };
    print(&text)
}

fn list(json: bool, extended: bool, ports: Option<&Ports>) -> Result<()> {
    host::check_root()?;
    let (spliced, plain) = (host::connections()?, host::plain()?);
    let mut connections = Connection::read_all(&spliced);
    let mut plain = Plain::read_all(&plain);
    if let Some(ports) = ports {
        connections.retain(|connection| connection.has_port(ports));
        plain.retain(|one| one.socket.has_port(ports));
    }
    let sockets = connections.iter().flat_map(Connection::sockets);
    let sockets = sockets.chain(plain.iter().map(|one| &one.socket));
    let (inodes, cgroups) = sockets.map(|socket| (socket.inode, socket.cgroup)).unzip();
    let extended = extended.then(|| list::Extended {
        cgroups: cgroup::names_of(&cgroups),
    });
    let owners = owners::of(&inodes);
    for connection in &mut connections {
        connection.find_processes(&owners);
    }
    for one in &mut plain {
        one.socket.find_processes(&owners);
    }
    match json {
        true => written(print_json(&connections, &plain)),
        false => print(&list::text(&connections, &plain, extended.as_ref())),
    }
}

/// Writes as it goes: a reader need not wait for the last connection, and the text, of more than a KiB for each, is never there as a whole.
fn print_json(connections: &[Connection], plain: &[Plain]) -> io::Result<()> {
    let mut stdout = BufWriter::with_capacity(BLOCK, io::stdout().lock());
    list::json(&mut stdout, connections, plain)?;
    writeln!(stdout)?;
    stdout.flush()
}

fn print(text: &str) -> Result<()> {
    written(io::stdout().write_all(text.as_bytes()))
}

fn written(result: io::Result<()>) -> Result<()> {
    match result {
        // As when piped into head: whoever read it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("failed to write to standard output"),
    }
}

fn man(dir: &Path) -> Result<()> {
    let written = clap_mangen::generate_to(Cli::command(), dir);
    written.with_context(|| format!("failed to write manual pages into {}", dir.display()))
}
