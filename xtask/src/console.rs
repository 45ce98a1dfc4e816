// SPDX-License-Identifier: GPL-2.0-only
//! Following the guest's console log while it grows.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use crate::ui;

/// Prints each new line of the log, marked as the guest kernel's.
pub struct Console {
    path: PathBuf,
    position: u64,
    partial: Vec<u8>,
    loud: bool,
}

impl Console {
    /// Follows `path`, which need not exist yet.
    pub fn new(path: PathBuf, loud: bool) -> Self {
        Self {
            path,
            position: 0,
            partial: Vec::new(),
            loud,
        }
    }

    /// Prints what has been added since the last call, up to the last complete line.
    pub fn follow(&mut self) {
        let Ok(new) = self.read_new() else { return };
        self.partial.extend_from_slice(&new);
        let Some(end) = self.partial.iter().rposition(|&byte| byte == b'\n') else {
            return;
        };
        let lines: Vec<u8> = self.partial.drain(..=end).collect();
        self.print(&lines);
    }

    /// Prints the rest, complete or not.
    pub fn finish(&mut self) {
        self.follow();
        let rest = std::mem::take(&mut self.partial);
        self.print(&rest);
    }

    fn read_new(&mut self) -> std::io::Result<Vec<u8>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.position))?;
        let mut new = Vec::new();
        self.position += u64::try_from(file.read_to_end(&mut new)?).unwrap_or(0);
        Ok(new)
    }

    fn print(&self, bytes: &[u8]) {
        if !self.loud {
            return;
        }
        let text = String::from_utf8_lossy(bytes);
        // The firmware clears the screen and sets colours: not on our terminal.
        for line in text
            .lines()
            .map(str::trim_end)
            .filter(|line| !line.is_empty() && !line.contains('\u{1b}'))
        {
            ui::line(format_args!("kernel| {line}"));
        }
    }
}
