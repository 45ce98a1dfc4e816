#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# check.sh KVER KDIR RUSTC: is everything there that the module needs? Says what to install if not.
set -eu
kver=$1 kdir=$2 rustc=$3

die() {
	printf 'tcp_splice: %s\n' "$*" >&2
	exit 1
}

config() {
	grep -qs "^$1=y" "$kdir/.config" "$kdir/include/config/auto.conf"
}

[ -e "$kdir/Makefile" ] ||
	die "no kernel headers in $kdir: install linux-headers-$kver, or name another kernel with KVER="
[ -e "$kdir/.config" ] || [ -e "$kdir/include/config/auto.conf" ] ||
	die "$kdir is not a configured kernel: install linux-headers-$kver"
config CONFIG_DEBUG_INFO_BTF_MODULES ||
	die "kernel $kver was built without CONFIG_DEBUG_INFO_BTF_MODULES: sock_ops programs cannot call into its modules; use another kernel"
command -v "$rustc" >/dev/null ||
	die "no $rustc: install rustc and rust-src (1.85 or later), or name one with RUSTC="
minor=$("$rustc" --version | sed -n 's/^rustc 1\.\([0-9]*\).*/\1/p')
[ "${minor:-0}" -ge 85 ] ||
	die "$("$rustc" --version) is too old: install rustc and rust-src 1.85 or later (Debian 13 has them), or name one with RUSTC="
[ -e "$("$rustc" --print sysroot)/lib/rustlib/src/rust/library/core/src/lib.rs" ] ||
	die "the sources of Rust's core are missing: install rust-src (with rustup: rustup component add rust-src)"
command -v pahole >/dev/null ||
	die "no pahole: install dwarves; the kfunc needs the module's BTF"
