// SPDX-License-Identifier: GPL-2.0-only
//! Lists of ports.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use thiserror::Error;

/// How many ports a policy holds (`POLICY_MAX_PORTS` of `bpf/policy.h`).
pub const MAX_PORTS: usize = 64;

/// Up to [`MAX_PORTS`] ports, ascending, each once, none of them 0. Empty stands for every port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Ports(Vec<u16>);

/// Why a text is no list of ports.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum PortsError {
    /// Nothing between two commas, or nothing at all.
    #[error("a port is missing: write ports as 80,443,6379")]
    Missing,
    /// Not a number, or a number that is no port.
    #[error("{0:?} is not a port: ports are 1 to 65535")]
    NotAPort(String),
    /// More than the policy program can hold.
    #[error("{0} ports are too many: a policy holds {MAX_PORTS}")]
    TooMany(usize),
}

impl Ports {
    /// `None` when a port is 0 or when they are too many.
    pub fn new(ports: impl IntoIterator<Item = u16>) -> Option<Self> {
        let ports: BTreeSet<u16> = ports.into_iter().collect();
        let fits = ports.len() <= MAX_PORTS && !ports.contains(&0);
        fits.then(|| Self(ports.into_iter().collect()))
    }

    /// The ports, ascending.
    pub fn as_slice(&self) -> &[u16] {
        &self.0
    }
}

impl FromStr for Ports {
    type Err = PortsError;

    fn from_str(text: &str) -> Result<Self, PortsError> {
        let mut ports = BTreeSet::new();
        for word in text.split(',').map(str::trim) {
            if word.is_empty() {
                return Err(PortsError::Missing);
            }
            ports.insert(port(word).ok_or_else(|| PortsError::NotAPort(word.to_owned()))?);
        }
        let count = ports.len();
        Self::new(ports).ok_or(PortsError::TooMany(count))
    }
}

/// Digits only: the standard parser would also take `+80`.
fn port(word: &str) -> Option<u16> {
    let digits = word.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| word.parse().ok()).flatten();
    number.filter(|&number| number != 0)
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("all");
        }
        for (index, port) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{port}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn are_sorted_and_each_named_once() {
        for (text, want) in [
            ("6379", "6379"),
            ("443,80,443", "80,443"),
            (" 80, 443 ", "80,443"),
            ("1,65535", "1,65535"),
        ] {
            assert_eq!(text.parse::<Ports>().unwrap().to_string(), want);
        }
        assert_eq!(Ports::default().to_string(), "all");
    }

    #[test]
    fn wrong_ones_are_named() {
        for (text, want) in [
            ("0", r#""0" is not a port: ports are 1 to 65535"#),
            ("70000", r#""70000" is not a port: ports are 1 to 65535"#),
            ("80,-1", r#""-1" is not a port: ports are 1 to 65535"#),
            ("+80", r#""+80" is not a port: ports are 1 to 65535"#),
            ("http", r#""http" is not a port: ports are 1 to 65535"#),
            ("80-90", r#""80-90" is not a port: ports are 1 to 65535"#),
            ("", "a port is missing: write ports as 80,443,6379"),
            ("80,,443", "a port is missing: write ports as 80,443,6379"),
            ("80,", "a port is missing: write ports as 80,443,6379"),
        ] {
            assert_eq!(
                text.parse::<Ports>().unwrap_err().to_string(),
                want,
                "{text:?}"
            );
        }
    }

    #[test]
    fn are_at_most_64_different_ones() {
        let list = |count: u32| {
            let words: Vec<String> = (1..=count).map(|port| port.to_string()).collect();
            words.join(",")
        };
        assert_eq!(list(64).parse::<Ports>().unwrap().as_slice().len(), 64);
        assert_eq!(
            format!("{},1,2", list(64))
                .parse::<Ports>()
                .unwrap()
                .as_slice()
                .len(),
            64
        );
        let error = list(65).parse::<Ports>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "65 ports are too many: a policy holds 64"
        );
    }
}
