// SPDX-License-Identifier: GPL-2.0-only
//! The world that tests and benchmarks share: the module's counters, the policy tool, network namespaces, links between two ends, and data
//! whose every byte is known.

pub mod absent;
pub mod asleep;
pub mod counters;
pub mod link;
pub mod netns;
pub mod pace;
pub mod pattern;
pub mod picture;
pub mod policy;
pub mod program;
pub mod shared;
pub mod sizes;
pub mod space;
pub mod steady;
pub mod sys;
pub mod waiting;
