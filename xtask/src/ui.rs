// SPDX-License-Identifier: GPL-2.0-only
//! Progress: a spinner on a terminal, plain lines with the elapsed time elsewhere.

use std::fmt::Display;
use std::io::{IsTerminal, stderr};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

static BARS: OnceLock<MultiProgress> = OnceLock::new();
static START: OnceLock<Instant> = OnceLock::new();

/// How often a long step says that it is still at it when there is no spinner.
const HEARTBEAT: Duration = Duration::from_secs(30);

fn bars() -> &'static MultiProgress {
    BARS.get_or_init(MultiProgress::new)
}

/// Starts the clock that plain lines show; the first call counts.
pub fn start_clock() -> Instant {
    *START.get_or_init(Instant::now)
}

/// True if progress may be drawn and redrawn.
pub fn is_tty() -> bool {
    stderr().is_terminal()
}

/// Prints one line above the spinners.
pub fn line(text: impl Display) {
    if is_tty() {
        bars().suspend(|| eprintln!("{text}"));
    } else {
        eprintln!("[{:6.1} s] {text}", start_clock().elapsed().as_secs_f64());
    }
}

/// One announced step; finish it with [`Step::done`], dropping it means that it failed.
pub struct Step {
    what: String,
    begun: Instant,
    heartbeat: Instant,
    bar: Option<ProgressBar>,
    finished: bool,
}

impl Step {
    /// Announces a step.
    pub fn start(what: impl Into<String>) -> Self {
        let what = what.into();
        let now = Instant::now();
        start_clock();
        let bar = is_tty().then(|| {
            let style =
                ProgressStyle::with_template("{spinner} {prefix} {elapsed} {wide_msg:.dim}")
                    .unwrap_or_else(|_| ProgressStyle::default_spinner());
            let bar = bars().add(ProgressBar::new_spinner().with_style(style));
            bar.set_prefix(what.clone());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            line(format_args!("{what} ..."));
        }
        Self {
            what,
            begun: now,
            heartbeat: now,
            bar,
            finished: false,
        }
    }

    /// Shows the latest detail, for example the last line of a log.
    pub fn detail(&mut self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_owned());
        } else if self.heartbeat.elapsed() > HEARTBEAT {
            self.heartbeat = Instant::now();
            line(format_args!("{} ... {text}", self.what));
        }
    }

    /// Ends the step well; returns what it took.
    pub fn done(self, result: impl Display) -> Duration {
        self.end("ok", &result.to_string())
    }

    fn end(mut self, mark: &str, result: &str) -> Duration {
        let took = self.begun.elapsed();
        self.finished = true;
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let gap = if result.is_empty() { "" } else { ": " };
        line(format_args!(
            "{mark} {}{gap}{result} ({:.1} s)",
            self.what,
            took.as_secs_f64()
        ));
        took
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        line(format_args!(
            "FAILED {} ({:.1} s)",
            self.what,
            self.begun.elapsed().as_secs_f64()
        ));
    }
}
