#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Builds the debug kernel from Debian's linux-source inside a root file system of its own. Run as root,
# in a mount namespace of its own.
# usage: make-kernel.sh ROOT TREE CONFIG
# TREE is /debug while building, here and whenever a module is built for this kernel.
set -eu
root=$1 tree=$2
mkdir -p "$tree/src" "$tree/out" "$root/debug"
cp "$3" "$tree/debug.config"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --bind "$tree" "$root/debug"

chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 KBUILD_BUILD_HOST=tcp-splice sh -eu -c '
	tar -C /debug/src --strip-components=1 -xf /usr/src/linux-source-*.tar.xz
	cd /debug/src
	make O=/debug/out allnoconfig
	cd /debug/out
	../src/scripts/kconfig/merge_config.sh -m .config ../debug.config
	make olddefconfig
	# A kernel need not know all of it (an option may have got another name), but has to take what it knows.
	grep -rhoE --include="Kconfig*" "^[[:space:]]*(menu)?config [A-Za-z0-9_]+" ../src | sed "s/.*config /CONFIG_/" >known
	grep "^CONFIG_" ../debug.config | while read -r line; do
		grep -qx "${line%%=*}" known || continue
		grep -qx "$line" .config || { echo "the kernel does not take $line" >&2; exit 1; }
	done
	make -j"$(nproc)" bzImage modules
	# Modules need the headers, the tools and vmlinux for its BTF, not the objects it was linked from.
	find . -name "*.o" -not -path "./scripts/*" -not -path "./tools/*" -delete
	rm -f vmlinux.a vmlinux.unstripped'
cp "$tree/out/arch/x86/boot/bzImage" "$tree/bzImage"
cp "$tree/out/include/config/kernel.release" "$tree/kver"
chmod 644 "$tree/bzImage" "$tree/kver"
