// SPDX-License-Identifier: GPL-2.0-only
//! Compiles the policy program with clang; `src/program.rs` embeds the object.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, exit};

const SOURCE: &str = "../bpf/policy.bpf.c";
const HEADER: &str = "../bpf/policy.h";

fn main() {
    for path in [SOURCE, HEADER] {
        println!("cargo:rerun-if-changed={path}");
    }
    println!("cargo:rerun-if-env-changed=CLANG");

    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let object = PathBuf::from(env::var("OUT_DIR").unwrap_or_default()).join("policy.bpf.o");
    let output = compile(&clang, &object);
    if !output.status.success() {
        fail(&format!(
            "failed to compile the policy program with {clang}:\n{}",
            String::from_utf8_lossy(&output.stderr)
        ));
    }
}

fn compile(clang: &str, object: &Path) -> Output {
    let mut command = Command::new(clang);
    command
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g"])
        .args(["-Wall", "-Wextra", "-Werror"]);
    if let Ok(libbpf) = env::var("DEP_BPF_INCLUDE") {
        command.arg("-isystem").arg(libbpf);
    }
    for dir in host_include_dirs(clang) {
        command.arg("-idirafter").arg(dir);
    }
    command.arg("-c").arg(SOURCE).arg("-o").arg(object);
    run(&mut command)
}

/// Where the host's compiler looks for headers. With `-target bpf` clang leaves out the directory of the host's architecture,
/// and with it <asm/types.h>, which <linux/bpf.h> needs.
fn host_include_dirs(clang: &str) -> Vec<String> {
    let output = run(Command::new(clang).args(["-v", "-E", "-x", "c", "/dev/null"]));
    String::from_utf8_lossy(&output.stderr)
        .lines()
        .skip_while(|line| !line.starts_with("#include <...>"))
        .skip(1)
        .take_while(|line| line.starts_with(' '))
        .map(|line| line.trim().to_owned())
        .collect()
}

fn run(command: &mut Command) -> Output {
    match command.output() {
        Ok(output) => output,
        Err(error) => fail(&format!(
            "failed to run clang, which compiles the policy program: {error}; install it (Debian, Ubuntu: apt install clang)"
        )),
    }
}

fn fail(message: &str) -> ! {
    eprintln!("error: {message}");
    exit(1);
}
