#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# tails.sh MODULE: do these callbacks reach base in a jump, as proto.c says? A thread that sleeps in base below one of them would return
# into the module when it has gone. Base is what is called through a pointer, and tcp_close().
set -eu
module=$1

for function in ts_sendmsg ts_recvmsg ts_close ts_splice_read; do
	objdump -dr --no-show-raw-insn --disassemble="$function" "$module" | awk -v name="$function" '
		/^[0-9a-f]+ <.*>:$/ { inside = ($2 == "<" name ">:") }
		!inside { next }
		/^ *[0-9a-f]+:\tjmp/ { jumps++ }
		/^ *[0-9a-f]+:\tcall/ { call = $0; if (call ~ /call +\*/) bad = bad "\n" call; next }
		call != "" && /R_[A-Z0-9_]+/ { if (/indirect_thunk|tcp_close/) bad = bad "\n" call " " $NF }
		{ call = "" }
		END {
			if (!jumps) bad = bad "\nno jump at all"
			if (bad != "") { print "tcp_splice: " name " calls what it should jump to:" bad > "/dev/stderr"; exit 1 }
		}'
done
