// SPDX-License-Identifier: GPL-2.0-only
//! Compiles the policy program with clang; `src/program.rs` embeds the object.

use std::env;
use std::path::PathBuf;
use std::process::{Command, exit};

const SCRIPT: &str = "../bpf/compile.sh";

fn main() {
    println!("cargo:rerun-if-changed=../bpf");
    println!("cargo:rerun-if-env-changed=CLANG");

    let object = PathBuf::from(env::var("OUT_DIR").unwrap_or_default()).join("policy.bpf.o");
    let mut command = Command::new("sh");
    command.arg(SCRIPT).arg(object);
    // The headers of the libbpf that will load the object.
    if let Ok(include) = env::var("DEP_BPF_INCLUDE") {
        command.env("LIBBPF_INCLUDE", include);
    }
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(_) => fail("failed to compile the policy program; the reason is above"),
        Err(error) => fail(&format!("failed to run sh {SCRIPT}: {error}")),
    }
}

fn fail(message: &str) -> ! {
    eprintln!("error: {message}");
    exit(1);
}
