#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Puts the kernels of a root file system that has several beside it, to be booted from there, and leaves the newest in it. Run as root,
# in a mount namespace of its own.
# usage: keep-kernels.sh ROOT
set -eu
root=$1 kernels=$(dirname "$1")/kernels
mkdir -p "$kernels"
for image in "$root"/boot/vmlinuz-*; do
	cp "$image" "$kernels/"
done
chmod 755 "$kernels"
chmod 644 "$kernels"/*
newest=$(ls "$root/boot" | grep '^vmlinuz-' | sort -V | tail -n 1)
find "$root/boot" -name 'vmlinuz-*' -not -name "$newest" -delete
