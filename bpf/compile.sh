#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Compiles the policy program: sh compile.sh OBJECT
#
# CLANG names the compiler, LIBBPF_INCLUDE the directory that holds bpf/bpf_helpers.h if the system's is not to be used.
set -eu

object=$1
dir=$(dirname "$0")
clang=${CLANG:-clang}

command -v "$clang" >/dev/null || {
	echo "$clang, which compiles the policy program, was not found: install it (Debian, Ubuntu: apt install clang)" >&2
	exit 1
}

# With -target bpf clang leaves out the directory of the host's architecture, and with it the <asm/types.h> that <linux/bpf.h>
# needs. So ask it where it looks for headers of the host.
set --
for include in $("$clang" -v -E -x c /dev/null 2>&1 | sed -n '/^#include <\.\.\.>/,/^End of/s/^ \(.*\)$/\1/p'); do
	set -- "$@" -idirafter "$include"
done
if [ -n "${LIBBPF_INCLUDE:-}" ]; then
	set -- -isystem "$LIBBPF_INCLUDE" "$@"
fi

exec "$clang" -target bpf -mcpu=v3 -O2 -g -Wall -Wextra -Werror "$@" -c "$dir/policy.bpf.c" -o "$object"
