#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Makes the guest's root file system. Run as root.
# usage: make-root.sh DIR SUITE KERNEL_SUITE PACKAGES MIRROR-or-empty [APTOPT...]
set -eu
dir=$1 suite=$2 kernel_suite=$3 packages=$4 mirror=$5
shift 5
for option; do set -- "$@" "--aptopt=$option"; shift; done

# No initrd is used (the disk and file system drivers are built in), so do not spend time on one.
# Signature options of the suite's own line are kept for the second suite.
hook='mkdir -p "$1/etc/apt/sources.list.d" "$1/etc/kernel" "$1/etc/initramfs-tools/conf.d"
	sed -n "s/^deb \(.*\) '"$suite"' main.*/deb \1 '"$kernel_suite"' main/p" "$1"/etc/apt/sources.list >"$1/etc/apt/sources.list.d/kernel.list"
	test -s "$1/etc/apt/sources.list.d/kernel.list"'
mmdebstrap --mode=root --format=directory --variant=minbase --components=main --setup-hook="$hook" \
	--include="$packages" "$@" "$suite" "$dir" ${mirror:+"$mirror"} </dev/null

cd "$dir"
mkdir -p payload src out cargo sys proc
touch etc/resolv.conf
rm -rf var/cache/apt/archives/*.deb var/lib/apt/lists/*
