#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Installs the Debian packages needed to build the module and the tool on this machine: make deps.
set -eu
if [ "$(id -u)" != 0 ]; then
	echo "installing packages needs root: sudo make deps" >&2
	exit 1
fi
if ! command -v apt-get >/dev/null; then
	echo "this machine has no apt-get; install by hand: headers of kernel $KVER, gcc, make, rustc 1.85 or later with" \
		"rust-src, cargo, pahole, clang, libbpf, libelf and zlib with their headers, pkg-config" >&2
	exit 1
fi

# Under sudo, the user's own Rust counts too: it is the one that make will find.
as_user() {
	if [ -n "${SUDO_USER:-}" ]; then sudo -H -u "$SUDO_USER" bash -lc "$1"; else bash -c "$1"; fi
}

# A rustc that is new enough, and comes with the source of its core library.
rust_is_fine() {
	version=$(as_user 'rustc --version' 2>/dev/null | sed 's/^rustc 1\.\([0-9]*\)\..*/\1/') || return 1
	[ "${version:-0}" -ge 85 ] 2>/dev/null || return 1
	sysroot=$(as_user 'rustc --print sysroot' 2>/dev/null) || return 1
	[ -e "$sysroot/lib/rustlib/src/rust/library/core/src/lib.rs" ] && as_user 'cargo --version' >/dev/null 2>&1
}

packages="gcc make pkg-config clang dwarves kmod libc6-dev libbpf-dev libelf-dev zlib1g-dev"
[ -d "/lib/modules/$KVER/build/" ] || packages="$packages linux-headers-$KVER"
if ! rust_is_fine; then
	if as_user 'command -v rustup' >/dev/null 2>&1; then
		echo "adding rust-src to the Rust that rustup has installed"
		as_user 'rustup component add rust-src'
	else
		packages="$packages rustc rust-src cargo"
	fi
fi
echo "installing: $packages"
apt-get update
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $packages
if ! rust_is_fine; then
	echo "the Rust of this distribution is older than 1.85: install a newer one (rustup) with rust-src" >&2
	exit 1
fi
