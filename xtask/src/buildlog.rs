// SPDX-License-Identifier: GPL-2.0-only
//! Judging the log of the module's build: it has to be free of warnings.

/// What a line of complaint contains, be it the compilers', objtool's or modpost's.
const COMPLAINTS: &[&str] = &[
    "warning:",
    "WARNING:",
    "ERROR:",
    "objtool:",
    "Skipping BTF generation",
];

/// The complaints in a build log.
pub fn complaints(log: &str) -> Vec<&str> {
    let complains = |line: &&str| COMPLAINTS.iter().any(|pattern| line.contains(pattern));
    log.lines().filter(complains).collect()
}

#[cfg(test)]
mod tests {
    use super::complaints;

    #[test]
    fn quiet_build_is_fine() {
        let log = "  CC [M]  main.o\n  RUSTC   [M] rust.o\n  MODPOST Module.symvers\n  BTF [M] tcp_splice.ko\n   Compiling x v0.1\n";
        assert!(complaints(log).is_empty());
    }

    #[test]
    fn each_complaint_is_found() {
        for line in [
            "main.c:3:5: warning: unused variable 'a' [-Wunused-variable]",
            "warning: unused import: `a`",
            "tcp_splice.o: warning: objtool: foo() falls through to next function bar()",
            "WARNING: modpost: missing MODULE_LICENSE() in tcp_splice.o",
            "ERROR: modpost: \"foo\" [tcp_splice.ko] undefined!",
            "Skipping BTF generation for tcp_splice.ko due to unavailability of vmlinux",
        ] {
            assert_eq!(complaints(&format!("  LD [M] x\n{line}\n")), [line]);
        }
    }
}
