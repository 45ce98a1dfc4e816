#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Builds the project inside the root file system, the way the README tells its users to. Run as root,
# in a mount namespace of its own, so that no mount can be left behind.
# usage: build.sh ROOT WORK CARGO_HOME TARGET KVER TREE [NAME=VALUE...]
# TREE is empty, or where a kernel of our own was built: its modules' directory is made up for it here.
# TARGET is cargo's target directory, WORK/src is the checkout's copy, WORK/out becomes what is laid over the guest's root.
set -eu
root=$1 work=$2 cargo=$3 target=$4 kver=$5 debug=$6
shift 6

rm -rf "$work/out"
mkdir -p "$work/out" "$work/src/target"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --bind "$work/src" "$root/src"
mount --bind "$target" "$root/src/target"
mount --bind "$work/out" "$root/out"
mount --bind "$cargo" "$root/cargo"
mount --bind /etc/resolv.conf "$root/etc/resolv.conf"
[ ! -e /etc/ssl/certs/ca-certificates.crt ] ||
	mount --bind /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
if [ -n "$debug" ]; then
	mkdir -p "$root/debug" "$root/lib/modules/$kver"
	mount --bind "$debug" "$root/debug"
	mount -t tmpfs tmpfs "$root/lib/modules/$kver"
	ln -s /debug/out "$root/lib/modules/$kver/build"
	cp "$debug/out/modules.order" "$debug/out/modules.builtin" "$debug/out/modules.builtin.modinfo" \
		"$root/lib/modules/$kver/"
fi

chroot "$root" env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
	CARGO_HOME=/cargo CARGO_TERM_COLOR=never "$@" sh -eu -c '
	cd /src
	# What was built for another kernel is no use here.
	[ "$(cat .built-for 2>/dev/null)" = '"$kver"' ] || make -s -C kmod clean
	echo '"$kver"' >.built-for
	make -j"$(nproc)" KVER='"$kver"'
	make install KVER='"$kver"' DESTDIR=/out
	cargo build --release --locked -p tcp-splice-tests
	cd target/release
	install -D -t /out/usr/bin tcp-splice-tests tcp-splice-conformance tcp-splice-compat'

# The index of all modules, ours included, so that modprobe works in the guest without a depmod there.
# Files are shared with the root file system; depmod replaces its own and does not write into them.
modules=$root/lib/modules/$kver tree=$work/modules
rm -rf "$tree"
cp -al "$modules" "$tree" 2>/dev/null || cp -a "$modules/." "$tree/"
mkdir -p "$work/out/lib/modules/$kver"
cp -a "$work/out/lib/modules/$kver/." "$tree/"
mount --bind "$tree" "$modules"
chroot "$root" depmod "$kver"
cp "$tree"/modules.* "$work/out/lib/modules/$kver/"
umount "$modules"
rm -rf "$tree"
