// SPDX-License-Identifier: GPL-2.0-only
//! The words on the command line.

use std::str::FromStr;

use anyhow::{Context, Result, bail};

use crate::run::Over;

pub const USAGE: &str = "\
usage: tcp-splice-conformance [fuzz] [OPTION...] [FILTER...]
Runs each case over plain TCP and over a spliced connection and compares what it saw. Needs root and the module.
  fuzz           random programs instead of the cases
  FILTER         run the cases whose name contains one of these words
  --exact        FILTER is a whole name
  --list         print the names and do nothing
  --all          run each case over every link, also those that wait a lot
  --trace        print what each run saw
  --times        print how long each case took
  --self-check   compare plain TCP with plain TCP, without the module: shows that the cases themselves are stable
  --repeat N     run everything N times
  --seconds N    how long to run random programs (60)
  --seed N       run the random program of this seed only";

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
    /// Random programs instead of the cases.
    pub fuzz: bool,
    /// How long.
    pub seconds: u64,
    /// The only one of them.
    pub seed: Option<u64>,
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
            fuzz: false,
            seconds: 60,
            seed: None,
            help: false,
            filters: Vec::new(),
        };
        let mut words = words.into_iter().peekable();
        options.fuzz = words.next_if(|word| word == "fuzz").is_some();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--list" => options.list = true,
                "--exact" => options.exact = true,
                "--all" => options.all = true,
                "--trace" => options.trace = true,
                "--times" => options.times = true,
                "--self-check" => options.self_check = true,
                "--help" | "-h" => options.help = true,
                "--repeat" => options.repeat = number(&word, words.next())?,
                "--seconds" => options.seconds = number(&word, words.next())?,
                "--seed" => options.seed = Some(number(&word, words.next())?),
                _ if word.starts_with('-') => {
                    bail!("failed to read options: unknown {word}\n{USAGE}")
                }
                _ => options.filters.push(word),
            }
        }
        Ok(options)
    }

    /// What the plain run is compared with, and its name.
    pub fn other(&self) -> (&'static str, Over) {
        if self.self_check {
            ("again", Over::Plain)
        } else {
            ("spliced", Over::Spliced)
        }
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

fn number<T: FromStr>(option: &str, word: Option<String>) -> Result<T> {
    let number = word.and_then(|word| word.parse().ok());
    number.with_context(|| format!("failed to read options: {option} needs a number"))
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
        assert!(parse("fuzz --seed").is_err());
    }

    #[test]
    fn fuzz_is_the_first_word() {
        let options = parse("fuzz --seed 7 --seconds 3").unwrap();
        assert!(options.fuzz && options.seed == Some(7) && options.seconds == 3);
        assert!(!parse("recv fuzz").unwrap().fuzz);
    }
}
