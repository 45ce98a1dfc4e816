// SPDX-License-Identifier: GPL-2.0-only
//! The world that tests and benchmarks share: the module's counters, the policy tool, network namespaces and data whose every byte is known.

pub mod counters;
pub mod netns;
pub mod pattern;
pub mod policy;
pub mod program;
