#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Makes the base image from the root file system, without what is only needed to build. Run as root,
# in a mount namespace of its own.
# usage: make-image.sh ROOT IMAGE VMLINUZ KVER-FILE STUB
set -eu
root=$1 image=$2
cp "$root"/boot/vmlinuz-* "$3"
basename "$root"/boot/vmlinuz-* | sed 's/^vmlinuz-//' >"$4"
chmod 644 "$3" "$4"
install -m 755 "$5" "$root/usr/sbin/tcp-splice-init"

# An empty directory over each of these keeps it out of the image.
for dir in boot usr/src usr/lib/rustlib usr/lib/gcc usr/libexec/gcc usr/share/doc usr/share/locale usr/share/man; do
	[ ! -d "$root/$dir" ] || mount -t tmpfs tmpfs "$root/$dir"
done
rm -f "$(dirname "$image")"/base-*
truncate -s 8G "$image.unfinished"
mke2fs -q -t ext4 -O ^has_journal -E lazy_itable_init=1 -L tcp-splice -d "$root" "$image.unfinished"
chmod 644 "$image.unfinished"
mv "$image.unfinished" "$image"
