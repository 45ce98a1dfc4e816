#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# tails.sh MODULE: do these callbacks reach base in a jump, as proto.c says? A thread that sleeps in base below one of them would return
# into the module when it has gone. Base is what is called through a pointer, tcp_close() and inet_accept().
set -eu
module=$1

objdump -dr --no-show-raw-insn "$module" | awk '
	BEGIN {
		count = split("ts_sendmsg ts_recvmsg ts_close ts_disconnect ts_splice_read ts_accept", names, " ")
		for (i = 1; i <= count; i++) watched[names[i]] = 1
	}
	# Parts of a function that the compiler has put elsewhere count, too.
	/^[0-9a-f]+ <.*>:$/ { name = substr($2, 2, length($2) - 3); sub(/\..*/, "", name); kind = ""; next }
	!(name in watched) { next }
	/^ *[0-9a-f]+:\t/ {
		kind = ""
		if (/\t(cs |notrack |bnd )*callq? /) kind = "call"
		if (/\t(cs |notrack |bnd )*jmpq? /) kind = "jump"
		if (kind == "call" && /callq? +\*/) bad[name] = bad[name] "\n" $0
		if (kind == "jump" && /jmpq? +\*/) jumps[name]++
		line = $0
		next
	}
	kind != "" && /R_[A-Z0-9_]+/ && /indirect_thunk|tcp_close|inet_accept/ {
		if (kind == "call") bad[name] = bad[name] "\n" line " " $NF
		else jumps[name]++
	}
	END {
		for (i = 1; i <= count; i++) {
			name = names[i]
			if (!jumps[name]) bad[name] = bad[name] "\nno jump to base at all"
			if (bad[name] == "") continue
			print "tcp_splice: " name " does not end in a jump to base:" bad[name] > "/dev/stderr"
			failed = 1
		}
		exit failed
	}'
