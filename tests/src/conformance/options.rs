// SPDX-License-Identifier: GPL-2.0-only
//! The words on the command line.

use anyhow::{Result, bail};

pub const USAGE: &str = "\
usage: tcp-splice-conformance [OPTION...] [FILTER...]
Runs each case over plain TCP and over a spliced connection and compares what it saw. Needs root and the module.
  FILTER         run the cases whose name contains one of these words
  --exact        FILTER is a whole name
  --list         print the names and do nothing
  --all          run each case over every link, also those that wait a lot
  --trace        print what each run saw
  --times        print how long each case took
  --self-check   compare plain TCP with plain TCP, without the module: shows that the cases themselves are stable
  --repeat N     run everything N times";

/// What is to be done.
#[derive(Debug)]
pub struct Options {
    /// Print names only.
    pub list: bool,
    /// Filters are whole names.
    pub exact: bool,
    /// Every case over every link.
    pub all: bool,
    /// Print the traces too.
    pub trace: bool,
    /// Print how long each case took.
    pub times: bool,
    /// Plain TCP against itself.
    pub self_check: bool,
    /// How often.
    pub repeat: usize,
    /// Print the usage.
    pub help: bool,
    filters: Vec<String>,
}

impl Options {
    /// Reads the words.
    pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            list: false,
            exact: false,
            all: false,
            trace: false,
            times: false,
            self_check: false,
            repeat: 1,
            help: false,
            filters: Vec::new(),
        };
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--list" => options.list = true,
                "--exact" => options.exact = true,
                "--all" => options.all = true,
                "--trace" => options.trace = true,
                "--times" => options.times = true,
                "--self-check" => options.self_check = true,
                "--help" | "-h" => options.help = true,
                "--repeat" => match words.next().map(|count| count.parse()) {
                    Some(Ok(count)) => options.repeat = count,
                    _ => bail!("failed to read options: --repeat needs a number"),
                },
                _ if word.starts_with('-') => {
                    bail!("failed to read options: unknown {word}\n{USAGE}")
                }
                _ => options.filters.push(word),
            }
        }
        Ok(options)
    }

    /// True when the case with this name is to run.
    pub fn chooses(&self, name: &str) -> bool {
        let fits = |filter: &String| {
            if self.exact {
                name == filter
            } else {
                name.contains(filter)
            }
        };
        self.filters.is_empty() || self.filters.iter().any(fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        Options::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn filters_choose() {
        let options = parse("recv/ v6").unwrap();
        assert!(options.chooses("loopback/v4/recv/peek"));
        assert!(options.chooses("netns/v6/send/more"));
        assert!(!options.chooses("loopback/v4/send/more"));
        let options = parse("--exact a/b").unwrap();
        assert!(options.chooses("a/b") && !options.chooses("a/bc"));
        assert!(parse("").unwrap().chooses("anything"));
    }

    #[test]
    fn unknown_options_are_refused() {
        assert!(parse("--frobnicate").is_err());
        assert!(parse("--repeat x").is_err());
    }
}
