#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Builds those of the kernel's own network tests that use TCP, from Debian's linux-source, inside the root file system they are for.
# Run as root, in a mount namespace of its own.
# usage: make-selftests.sh ROOT
set -eu
root=$1
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"

chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 sh -eu -c '
	rm -rf /src/selftests
	mkdir -p /src/selftests /usr/lib/tcp-splice-compat
	cd /src/selftests
	tar --strip-components=1 --wildcards -xf /usr/src/linux-source-*.tar.xz "linux-source-*/tools/include" \
		"linux-source-*/tools/testing/selftests/kselftest*" "linux-source-*/tools/testing/selftests/net/*.[ch]"
	cd tools/testing/selftests/net
	# 32 GiB are too much for an emulated processor, and half a minute is too little for one that is not alone.
	sed -i "s/^#define FILE_SZ .*/#define FILE_SZ (1ULL << 26)/" tcp_mmap.c
	sed -i "s/^#define TEST_TIMEOUT_DEFAULT .*/#define TEST_TIMEOUT_DEFAULT 120/" ../kselftest_harness.h
	for test in tls tcp_inq tcp_mmap msg_zerocopy sk_so_peek_off af_unix/so_peek_off io_uring_zerocopy_tx; do
		more=
		[ $test != io_uring_zerocopy_tx ] || more=-I../../../include
		gcc -O2 -D_GNU_SOURCE= -I.. $more -o /usr/lib/tcp-splice-compat/${test#*/} $test.c -lpthread -lcrypto
	done
	rm -rf /src/selftests'
