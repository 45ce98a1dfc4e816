// SPDX-License-Identifier: GPL-2.0-only
//! What a copy costs on this machine, by the ways that kmod/copy.c chooses from, with both buffers in the cache.

use anyhow::Result;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};

use crate::machine::Machine;

/// Where source and destination start, in bytes from the start of a page.
const PLACES: [(usize, usize); 4] = [(0, 0), (1, 0), (0, 1), (0, 16)];
const SIZES: [usize; 7] = [16, 64, 256, 512, 1024, 4096, 8192];

/// Checks each way, measures it, and prints a table.
pub fn run() -> Result<()> {
    println!("{}", Machine::detect(None).line());
    println!(
        "ns for one copy, the best of several; source and destination start so many bytes into a page"
    );
    println!("{}", table(ways::ALL, PLACES, SIZES)?);
    Ok(())
}

fn table(
    ways: &[(&str, ways::Way)],
    places: impl IntoIterator<Item = (usize, usize)>,
    sizes: impl IntoIterator<Item = usize> + Clone,
) -> Result<Table> {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED);
    table.set_content_arrangement(ContentArrangement::Disabled);
    let names = ways.iter().map(|(name, _)| *name);
    table.set_header(["bytes", "source", "destination"].into_iter().chain(names));
    let mut bench = Bench::new();
    for (from, to) in places {
        for size in sizes.clone() {
            let head = [size, from, to].map(|number| number.to_string());
            let mut row = Vec::from(head);
            for (name, way) in ways {
                let ns = bench.measure(*way, from, to, size);
                anyhow::ensure!(bench.is_right(from, to, size), "{name} copied wrong bytes");
                row.push(format!("{ns:.1}"));
            }
            table.add_row(row);
        }
    }
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
    Ok(table)
}

/// The two buffers, each beginning at a page.
struct Bench {
    memory: Vec<u8>,
    source: usize,
    target: usize,
}

/// Space for each buffer: the largest size, and a start within the first page.
const ROOM: usize = 4 * 4096;

impl Bench {
    fn new() -> Self {
        let memory = vec![0; 2 * ROOM + 4096];
        let source = memory.as_ptr().align_offset(4096);
        let mut bench = Self {
            memory,
            source,
            target: source + ROOM,
        };
        for (index, byte) in bench.memory[source..source + ROOM].iter_mut().enumerate() {
            *byte = (index % 251) as u8;
        }
        bench
    }

    /// Nanoseconds.
    fn measure(&mut self, way: ways::Way, from: usize, to: usize, size: usize) -> f64 {
        let (head, tail) = self.memory.split_at_mut(self.target);
        let source = &head[self.source + from..][..size];
        let target = &mut tail[to..][..size];
        target.fill(0);
        let times = (1 << 20) / size;
        let once = || {
            let start = std::time::Instant::now();
            for _ in 0..times {
                way(target, source);
            }
            start.elapsed().as_secs_f64() * 1e9 / times as f64
        };
        std::iter::repeat_with(once)
            .take(9)
            .fold(f64::INFINITY, f64::min)
    }

    fn is_right(&self, from: usize, to: usize, size: usize) -> bool {
        self.memory[self.target + to..][..size] == self.memory[self.source + from..][..size]
    }
}

/// The ways themselves. All unsafe code of the benchmark is here.
mod ways {
    /// Copies all of a slice to one of the same length.
    pub type Way = fn(&mut [u8], &[u8]);

    #[cfg(target_arch = "x86_64")]
    pub const ALL: &[(&str, Way)] = &[
        ("rep movsb", rep_movsb),
        ("rep movsq", rep_movsq),
        ("words", words),
    ];

    /// Elsewhere kmod/copy.c leaves it to the kernel.
    #[cfg(not(target_arch = "x86_64"))]
    pub const ALL: &[(&str, Way)] = &[("memcpy", |to, from| to.copy_from_slice(from))];

    #[cfg(target_arch = "x86_64")]
    fn rep_movsb(to: &mut [u8], from: &[u8]) {
        assert_eq!(to.len(), from.len());
        // SAFETY: reads and writes exactly the two slices; the direction flag is clear.
        unsafe {
            std::arch::asm!("rep movsb", inout("rcx") from.len() => _, inout("rdi") to.as_mut_ptr() => _,
                inout("rsi") from.as_ptr() => _, options(nostack, preserves_flags));
        }
    }

    /// As ts_copy_words() does from 256 bytes on.
    #[cfg(target_arch = "x86_64")]
    fn rep_movsq(to: &mut [u8], from: &[u8]) {
        assert!(to.len() == from.len() && from.len() >= 8);
        // SAFETY: whole words, then the last eight bytes: all within the two slices; the direction flag is clear.
        unsafe {
            std::arch::asm!("rep movsq", "mov {word}, [rsi + {rest} - 8]", "mov [rdi + {rest} - 8], {word}",
                word = out(reg) _, rest = in(reg) from.len() % 8, inout("rcx") from.len() / 8 => _,
                inout("rdi") to.as_mut_ptr() => _, inout("rsi") from.as_ptr() => _, options(nostack));
        }
    }

    /// As ts_copy_words() does below 256 bytes.
    #[cfg(target_arch = "x86_64")]
    fn words(to: &mut [u8], from: &[u8]) {
        assert!(to.len() == from.len() && from.len() >= 8);
        // SAFETY: as above.
        unsafe {
            std::arch::asm!("lea rsi, [rsi + 8 * rcx]", "lea rdi, [rdi + 8 * rcx]", "neg rcx",
                "2:", "mov {word}, [rsi + 8 * rcx]", "mov [rdi + 8 * rcx], {word}", "inc rcx", "jnz 2b",
                "mov {word}, [rsi + {rest} - 8]", "mov [rdi + {rest} - 8], {word}",
                word = out(reg) _, rest = in(reg) from.len() % 8, inout("rcx") from.len() / 8 => _,
                inout("rdi") to.as_mut_ptr() => _, inout("rsi") from.as_ptr() => _, options(nostack));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_copies() {
        for (name, way) in ways::ALL {
            for size in 8..600 {
                let source: Vec<u8> = (0..size).map(|index| index as u8 ^ 0x5a).collect();
                let mut target = vec![0; size];
                way(&mut target, &source);
                assert_eq!(target, source, "{name}, {size} bytes");
            }
        }
    }

    #[test]
    fn a_wrong_way_is_found() {
        let lazy: ways::Way = |to, from| to[1..].copy_from_slice(&from[1..]);
        let said = table(&[("lazy", lazy)], [(1, 0)], [64])
            .unwrap_err()
            .to_string();
        assert_eq!(said, "lazy copied wrong bytes");
    }
}
