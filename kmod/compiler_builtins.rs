// SPDX-License-Identifier: GPL-2.0-only
//! Stands in for the crate of that name: the compiler wants it to exist, and nothing in this module calls into it.
#![feature(compiler_builtins)]
#![allow(internal_features)]
#![compiler_builtins]
#![no_std]
