// SPDX-License-Identifier: GPL-2.0-only
//! All cases, by group.

mod ends;
mod epoll;
mod gone;
mod options;
mod others;
mod peek;
mod processes;
mod ready;
mod recv;
mod rings;
mod send;
mod stamps;
mod threads;
pub mod transfer;
mod urgent;
mod waits;

use crate::case::Case;

/// Each group with its name, in the order they run.
const GROUPS: &[(&str, &[Case])] = &[
    ("recv", recv::ALL),
    ("peek", peek::ALL),
    ("waits", waits::ALL),
    ("send", send::ALL),
    ("gone", gone::ALL),
    ("ends", ends::ALL),
    ("transfer", transfer::ALL),
    ("urgent", urgent::ALL),
    ("stamps", stamps::ALL),
    ("ready", ready::ALL),
    ("epoll", epoll::ALL),
    ("rings", rings::ALL),
    ("processes", processes::ALL),
    ("threads", threads::ALL),
    ("options", options::ALL),
    ("others", others::ALL),
];

/// Every case with the name of its group.
pub fn all() -> impl Iterator<Item = (&'static str, &'static Case)> {
    let flat = |(group, list): &(&'static str, &'static [Case])| {
        let group = *group;
        list.iter().map(move |case| (group, case))
    };
    GROUPS.iter().flat_map(flat)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::all;

    #[test]
    fn there_are_enough_cases_with_names_of_their_own() {
        let names: BTreeSet<_> = all().map(|(group, case)| (group, case.name)).collect();
        assert_eq!(names.len(), all().count());
        assert!(names.len() >= 120, "only {} cases", names.len());
    }
}
