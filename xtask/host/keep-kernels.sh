#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Puts the kernels of a root file system that has several beside it, to be booted from there, each with an initrd if it needs one, and
# leaves the newest in it. Run as root, in a mount namespace of its own.
# usage: keep-kernels.sh ROOT
set -eu
root=$1 kernels=$(dirname "$1")/kernels
mkdir -p "$kernels"
for image in "$root"/boot/vmlinuz-*; do
	cp "$image" "$kernels/"
done

# What the root file system needs (xtask/src/qemu.rs). A kernel that has all of it built in gets no initrd; the others get one which loads
# it and hands over in the state that the kernel itself would have. The modules are not compressed in there: any kernel loads those.
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/src"
for image in "$kernels"/vmlinuz-*; do
	kver=${image##*/vmlinuz-}
	chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 sh -eu -c '
		modprobe --show-depends --all --set-version "$1" nvme ext4 >/src/needed
		sed -n "s/^insmod \([^ ]*\).*/\1/p" /src/needed >/src/files
		[ -s /src/files ] || exit 0
		rm -rf /src/tree
		mkdir -p /src/tree/bin /src/tree/dev /src/tree/proc /src/tree/root /src/tree/modules
		cp /usr/bin/busybox /src/tree/bin/
		while read -r file; do
			name=${file##*/}
			case $name in
			*.ko) cp "$file" /src/tree/modules/ ;;
			*.ko.xz) busybox xzcat "$file" >"/src/tree/modules/${name%.xz}" ;;
			*) echo "no way to unpack $file" >&2; exit 1 ;;
			esac
			name=${name%.xz}
			grep -qsx "$name" /src/tree/order || echo "$name" >>/src/tree/order
		done </src/files
		cat >/src/tree/init
		chmod 755 /src/tree/init
		cd /src/tree
		find . | busybox cpio -o -H newc >/src/initrd' sh "$kver" <<'INIT'
#!/bin/busybox sh
# The kernel reads root= and init= itself and does not pass them on.
busybox mount -t proc proc /proc
busybox mount -t devtmpfs dev /dev
for word in $(busybox cat /proc/cmdline); do
	case $word in
	root=*) root=${word#root=} ;;
	init=*) init=${word#init=} ;;
	esac
done
while read -r module; do
	busybox insmod "/modules/$module" || echo "initrd: failed to load $module"
done </order
# Devices are looked for beside the loading.
tries=0
while [ ! -b "$root" ] && [ $tries -lt 600 ]; do
	tries=$((tries + 1))
	busybox sleep 0.1
done
busybox mount -t ext4 "$root" /root || echo "initrd: failed to mount $root"
busybox mount -o move /dev /root/dev
busybox umount /proc
exec busybox switch_root /root "$init"
INIT
	[ ! -e "$root/src/initrd" ] || mv "$root/src/initrd" "$kernels/initrd-$kver"
done
chmod 755 "$kernels"
chmod 644 "$kernels"/*
newest=$(ls "$root/boot" | grep '^vmlinuz-' | sort -V | tail -n 1)
find "$root/boot" -name 'vmlinuz-*' -not -name "$newest" -delete
