// SPDX-License-Identifier: GPL-2.0-only
//! Judging the guest's kernel log: any complaint of the kernel is a failure, whatever the command said.

/// What a line of trouble contains. Each of these is a bug or a warning in every kernel we run.
const TROUBLE: &[&str] = &[
    "WARNING:",
    "BUG:",
    "kernel BUG at",
    "Oops:",
    "Kernel panic",
    "general protection fault",
    "unable to handle",
    "Unable to handle",
    "Call Trace:",
    "KASAN:",
    "KFENCE:",
    "KCSAN:",
    "UBSAN:",
    "ODEBUG:",
    "INFO: possible",
    "INFO: inconsistent lock state",
    "INFO: trying to register non-static key",
    "INFO: rcu",
    "rcu: INFO:",
    "suspicious RCU usage",
    "DEBUG_LOCKS_WARN_ON",
    "blocked for more than",
    "blocked in I/O wait for more than",
    "soft lockup",
    "hard LOCKUP",
    "sleeping function called from invalid context",
    "scheduling while atomic",
    "refcount_t:",
    "list_add corruption",
    "list_del corruption",
    "unreferenced object",
    "new suspected memory leaks",
    "unregister_netdevice: waiting for",
    "page allocation failure",
    "Out of memory:",
    "Attempt to release",
    "stack-protector:",
    "Objects remaining",
    "Bad page state",
    "Unknown symbol",
    "disagrees about version of symbol",
    "invalid module format",
    // a checker that has given up
    "memory leak detector disabled",
    "turning off the locking correctness validator",
];

/// A race that KCSAN has seen. The line names the functions of both accesses.
const RACE: &str = "BUG: KCSAN:";
const OURS: &str = "[tcp_splice]";

/// Bits of `/proc/sys/kernel/tainted` that an unsigned out-of-tree module sets by right.
const TAINT_OUT_OF_TREE: u64 = 1 << 12;
const TAINT_UNSIGNED: u64 = 1 << 13;

/// A race between two places of the kernel itself: strict KCSAN finds many in every kernel, also without us.
fn is_foreign_race(line: &str) -> bool {
    line.contains(RACE) && !line.contains(OURS)
}

/// How many races the kernel has with itself.
pub fn foreign_races(log: &str) -> usize {
    log.lines().filter(|line| is_foreign_race(line)).count()
}

/// The lines of a kernel log that mean trouble.
pub fn trouble(log: &str) -> Vec<String> {
    let bad = |line: &&str| {
        TROUBLE.iter().any(|pattern| line.contains(pattern)) && !is_foreign_race(line)
    };
    log.lines()
        .filter(bad)
        .map(|line| line.trim_end().to_owned())
        .collect()
}

/// What the kernel's taint flags say beyond "there is an unsigned out-of-tree module".
pub fn unexpected_taint(tainted: u64) -> Option<String> {
    let rest = tainted & !(TAINT_OUT_OF_TREE | TAINT_UNSIGNED);
    (rest != 0)
        .then(|| format!("the kernel is tainted: flags {rest:#x} beyond out-of-tree and unsigned"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quiet_log_is_fine() {
        let log = "[    0.1] Linux version 7.2\n\
            [    2.0] tcp_splice: loading out-of-tree module taints kernel.\n\
            [    2.0] tcp_splice: module verification failed: signature and/or required key missing - tainting kernel\n\
            [    2.1] Warning: unable to open an initial console.\n\
            [    2.2] rcu: Hierarchical RCU implementation.\n\
            [    2.3] kmemleak: Kernel memory leak detector initialized\n\
            [    2.4] Lock dependency validator: Copyright (c) 2006 Red Hat, Inc., Ingo Molnar\n\
            [    2.5] clocksource: timekeeping watchdog on CPU1: Marking clocksource 'tsc' as unstable\n";
        assert_eq!(trouble(log), Vec::<String>::new());
    }

    /// Lines as the kernel prints them, one for each pattern at least.
    const REAL: &[&str] = &[
        "WARNING: CPU: 0 PID: 1 at net/ipv4/tcp.c:1 tcp_recvmsg+0x1/0x2",
        "WARNING: possible circular locking dependency detected",
        "WARNING: suspicious RCU usage",
        "BUG: KASAN: slab-use-after-free in foo+0x1/0x2 [tcp_splice]",
        "BUG: kernel NULL pointer dereference, address: 0000000000000008",
        "BUG: unable to handle page fault for address: ffffffff",
        "Unable to handle kernel paging request at virtual address 0",
        "kernel BUG at net/core/sock.c:1!",
        "Oops: 0002 [#1] PREEMPT SMP",
        "Kernel panic - not syncing: Fatal exception",
        "Oops: general protection fault, probably for non-canonical address",
        "Call Trace:",
        "BUG: KFENCE: out-of-bounds read in foo",
        "BUG: KCSAN: data-race in tcp_splice_send [tcp_splice] / tcp_poll",
        "UBSAN: array-index-out-of-bounds in foo.c:1:2",
        "ODEBUG: free active (active state 0) object",
        "INFO: possible recursive locking detected",
        "INFO: inconsistent lock state",
        "INFO: trying to register non-static key.",
        "INFO: rcu_preempt detected stalls on CPUs/tasks:",
        "rcu: INFO: rcu_preempt self-detected stall on CPU",
        "net/ipv4/x.c:1 suspicious RCU usage",
        "DEBUG_LOCKS_WARN_ON(1)",
        "INFO: task kworker/0:1:10 blocked for more than 120 seconds.",
        "INFO: task kworker/0:1:10 blocked in I/O wait for more than 120 seconds.",
        "kmemleak: Kernel memory leak detector disabled",
        "turning off the locking correctness validator.",
        "watchdog: BUG: soft lockup - CPU#0 stuck for 22s!",
        "watchdog: CPU0: Watchdog detected hard LOCKUP on cpu 0",
        "BUG: sleeping function called from invalid context at mm/slab.h:1",
        "BUG: scheduling while atomic: a/1/0x00000002",
        "refcount_t: underflow; use-after-free.",
        "list_add corruption. prev->next should be next",
        "list_del corruption, ffff->next is LIST_POISON1",
        "unreferenced object 0xffff888 (size 64):",
        "kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
        "unregister_netdevice: waiting for lo to become free. Usage count = 2",
        "page allocation failure: order:4, mode:0x40dc0",
        "Out of memory: Killed process 1 (x)",
        "Attempt to release alive inet socket 00000",
        "Attempt to release TCP socket in state 1 00000",
        "stack-protector: Kernel stack is corrupted in: foo",
        "BUG tcp_splice (Tainted: G): Objects remaining on __kmem_cache_shutdown()",
        "BUG: Bad page state in process x  pfn:1",
        "tcp_splice: Unknown symbol foo (err -2)",
        "tcp_splice: disagrees about version of symbol module_layout",
        "tcp_splice: invalid module format",
    ];

    #[test]
    fn each_line_of_trouble_is_caught() {
        for line in REAL {
            let log = format!("[    1.0] fine\n[    2.000000] {line}\n");
            assert_eq!(trouble(&log), [format!("[    2.000000] {line}")]);
        }
    }

    #[test]
    fn each_pattern_has_a_real_line() {
        for pattern in TROUBLE {
            assert!(
                REAL.iter().any(|line| line.contains(pattern)),
                "no example for {pattern}"
            );
        }
    }

    #[test]
    fn races_of_the_kernel_with_itself_are_not_ours() {
        let log = "BUG: KCSAN: data-race in tcp_poll / tcp_ack\n\
            BUG: KCSAN: data-race in ts_poll [tcp_splice] / tcp_ack\n\
            BUG: KCSAN: assert: race in dequeue_entities\n";
        assert_eq!(foreign_races(log), 2);
        assert_eq!(trouble(log).len(), 1);
    }

    #[test]
    fn taint_of_our_own_making_is_expected() {
        assert_eq!(unexpected_taint(0), None);
        assert_eq!(unexpected_taint(0x3000), None);
        assert!(unexpected_taint(0x3200).is_some());
    }
}
