// SPDX-License-Identifier: GPL-2.0-only
//! What was made is gone: objects, memory, references to the module. Each wait has an end, and an error that says what is left.

use std::fs;

use anyhow::{Context, Result, ensure};
use tcp_splice_world::counters::Counters;
use tcp_splice_world::policy;

use crate::cgroup::Cgroup;
use crate::env::{SOON, wait_until};

/// Counters that are equal when no socket is left: what was made, and what of it is gone.
const MADE_AND_GONE: [(&str, &str); 3] = [
    ("pairs_made", "pairs_gone"),
    ("endpoints_made", "endpoints_gone"),
    ("ring_memory_made", "ring_memory_gone"),
];

/// The module's caches of objects.
const CACHES: [&str; 2] = ["tcp_splice_endpoint", "tcp_splice_pair"];

/// Bytes of the kernel's that a memory cgroup may have left when nothing of its processes is: what each processor keeps in stock.
const STOCK: u64 = 512 << 10;

/// What was made less what is gone, where that is not nothing.
fn unbalanced() -> Result<Vec<String>> {
    let now = Counters::read()?;
    let mut left = Vec::new();
    for (made, gone) in MADE_AND_GONE {
        let (made_so_far, gone_so_far) = (now.get(made)?, now.get(gone)?);
        if made_so_far != gone_so_far {
            left.push(format!("{made} {made_so_far}, {gone} {gone_so_far}"));
        }
    }
    let offers = now.get("offers_held")?;
    if offers != 0 {
        left.push(format!("offers_held {offers}"));
    }
    Ok(left)
}

/// How many objects of a cache are in use.
fn objects(cache: &str) -> Result<u64> {
    let cache = format!("/sys/kernel/slab/{cache}");
    // What processors keep in stock counts as in use.
    fs::write(format!("{cache}/shrink"), "1").context("failed to shrink a cache of objects")?;
    let text = fs::read_to_string(format!("{cache}/objects"))
        .with_context(|| format!("failed to ask for the objects of {cache}"))?;
    let count = text.split(' ').next().unwrap_or_default();
    count
        .trim()
        .parse()
        .context("failed to parse a number of objects")
}

/// No socket has anything of ours: all objects, offers and memory of rings are gone, to the byte, and no more than were made.
pub fn nothing_left() -> Result<()> {
    let mut left = Vec::new();
    let balanced = wait_until("all that was made to be gone", || {
        left = unbalanced()?;
        Ok(left.is_empty())
    });
    balanced.with_context(|| format!("left over: {}", left.join("; ")))?;
    for cache in CACHES {
        let mut count = 0;
        let empty = wait_until("no object in use", || {
            count = objects(cache)?;
            Ok(count == 0)
        });
        empty.with_context(|| format!("{count} objects of {cache} are in use"))?;
    }
    Ok(())
}

/// The kernel's memory of those who were in this cgroup is back.
pub fn memory_is_back(cgroup: &Cgroup) -> Result<()> {
    let mut held = 0;
    let back = wait_until("the kernel's memory to come back", || {
        // What the kernel keeps only because nobody wanted the memory is no loss.
        let (all, names) = (cgroup.stat("kernel")?, cgroup.stat("slab_reclaimable")?);
        held = all.saturating_sub(names) + cgroup.stat("sock")?;
        let back = held <= STOCK;
        if !back {
            cgroup.take_back_stock()?;
        }
        Ok(back)
    });
    back.with_context(|| format!("{held} bytes are still charged to {}", cgroup.path()))?;
    println!("{held} bytes are charged to {} in the end", cgroup.path());
    Ok(())
}

/// The end of all tests: nothing is left, nobody has a reference to the module, and it goes.
pub fn module_goes() -> Result<()> {
    nothing_left()?;
    policy::disable()?;
    let mut users = String::new();
    let unused = wait_until("nobody to use the module", || {
        users = fs::read_to_string("/sys/module/tcp_splice/refcnt")
            .context("failed to count the module's users")?;
        Ok(users.trim() == "0")
    });
    unused.with_context(|| format!("the module has {} users", users.trim()))?;
    policy::unload(SOON)?;
    for cache in CACHES {
        ensure!(
            fs::metadata(format!("/sys/kernel/slab/{cache}")).is_err(),
            "{cache} is there although the module is not"
        );
    }
    Ok(())
}
