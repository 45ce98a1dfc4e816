#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# probes.sh PROBES.C API.H COMPILER...: compiles each probe with these words and writes down which of them this kernel passes. Says which
# one it does not, and should have.
set -eu
probes=$1 header=$2
shift 2
log=$header.log

die() {
	printf 'tcp_splice: %s\n' "$*" >&2
	echo "tcp_splice: see kmod/probes.c and docs/kernels.md; the compiler's own words are in $log" >&2
	exit 1
}

# Functions that are looked at as text: the preprocessor's, from their name to their end.
text_has() {
	"$@" >"$header.i" 2>/dev/null || return 1
	sed -n 's/^TS_PROBE_TEXT(\([a-z_]*\), \([a-z_]*\))$/\1 \2/p' "$header.i" >"$header.text"
	while read -r function word; do
		sed -n "/^static inline.* $function(/,/^}/p" "$header.i" | grep -q "\<$word\>" ||
			{ echo "no $word in $function()" >>"$log"; return 1; }
	done <"$header.text"
}

passes() {
	name=$1
	shift
	echo "--- $name" >>"$log"
	if grep -q '^TS_PROBE_TEXT' "$probes" && sed -n "/^#ifdef PROBE_$name\$/,/^#endif/p" "$probes" | grep -q '^TS_PROBE_TEXT'; then
		text_has "$@" "-DPROBE_$name" -E -P "$probes"
	else
		"$@" -Werror "-DPROBE_$name" -fsyntax-only "$probes" >>"$log" 2>&1
	fi
}

: >"$log"
echo "--- no probe" >>"$log"
"$@" -fsyntax-only "$probes" >>"$log" 2>&1 || die "the kernel's headers that it needs do not compile"
{
	echo "/* Made by probes.sh from probes.c for one kernel. */"
	sed -n 's#^/\* \(need\|either\|may\) \([A-Z_]*\|[A-Z_]* or [A-Z_]*\): \(.*\) \*/$#\1|\2|\3#p' "$probes" | while IFS='|' read -r kind names what; do
		case $kind in
		need)
			passes "$names" "$@" || die "this kernel does not have what it needs: $what"
			;;
		either)
			one=${names% or *} other=${names#* or } have_one=0 have_other=0
			! passes "$one" "$@" || have_one=1
			! passes "$other" "$@" || have_other=1
			[ $((have_one + have_other)) = 1 ] || die "this kernel is not known: neither, or both: $what"
			printf '#define TS_HAVE_%s %s\n#define TS_HAVE_%s %s\n' "$one" $have_one "$other" $have_other
			;;
		may)
			have=0
			! passes "$names" "$@" || have=1
			printf '#define TS_HAVE_%s %s\n' "$names" $have
			;;
		esac
	done
} >"$header.new"
rm -f "$header.i" "$header.text"
mv "$header.new" "$header"
