#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# The guest's init: prepares the system, runs one command (or a shell), reports and switches off.
#
# Channels, each a virtio-serial port of its own so that nothing can be mixed up:
#   tcp_splice.output   what the command prints
#   tcp_splice.verdict  JSON lines: hello, exit, end
#   tcp_splice.files    a tar stream: results/ and the kernel log
# The serial console carries the kernel's messages only.

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root LANG=C.UTF-8 TERM=linux RUST_BACKTRACE=1

mount_all() {
	mount -t sysfs sysfs /sys
	mkdir -p /dev/pts /dev/shm
	mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
	for dir in /dev/shm /run /tmp; do mount -t tmpfs tmpfs $dir; done
	mount -t cgroup2 cgroup2 /sys/fs/cgroup
	mount -t bpf bpf /sys/fs/bpf
	mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
	mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null
	mkdir -p /run/netns /run/lock
	ln -snf /proc/self/fd /dev/fd
	ln -snf /proc/self/fd/0 /dev/stdin
	ln -snf /proc/self/fd/1 /dev/stdout
	ln -snf /proc/self/fd/2 /dev/stderr
}

# Loopback, and one address that is not loopback for programs that ask for one.
network() {
	hostname tcp-splice
	printf '127.0.0.1 localhost\n::1 localhost\n10.99.0.1 tcp-splice\n' >/etc/hosts
	echo 1 >/proc/sys/net/ipv6/conf/default/accept_dad
	ip link set lo up
	modprobe -q dummy numdummies=0
	if ip link add guest0 type dummy 2>/dev/null; then
		ip address add 10.99.0.1/24 dev guest0
		ip address add fd99::1/64 dev guest0 nodad
		ip link set guest0 up
	fi
}

# The device of the virtio-serial port named $1; waits a moment for the kernel to find it.
port() {
	tries=0
	while [ $tries -lt 50 ]; do
		for dir in /sys/class/virtio-ports/*; do
			[ "$(cat "$dir/name" 2>/dev/null)" = "$1" ] && echo "/dev/${dir##*/}" && return
		done
		tries=$((tries + 1))
		sleep 0.1
	done
	echo "tcp-splice: no port $1" >/dev/console
	echo /dev/null
}

verdict() { printf "$@" >&3; }

shell() {
	eval "$(cat /payload/job/terminal)"
	stty -F /dev/hvc0 $STTY 2>/dev/null
	grep -v SPDX /payload/job/welcome >/dev/hvc0
	cd /root
	TERM=$GUEST_TERM setsid -c /bin/bash -l </dev/hvc0 >/dev/hvc0 2>&1 3>&-
}

command() {
	mkfifo /run/output
	cat /run/output >"$(port tcp_splice.output)" 3>&- &
	printer=$!
	cd /root
	sh /payload/job/command </dev/null >/run/output 2>&1 3>&-
	status=$?
	# Programs that are still running may hold the pipe open: do not wait for ever.
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		kill -0 $printer 2>/dev/null || break
		sleep 0.1
	done
	return $status
}

# What the host cannot see in the kernel log by itself.
leaks() {
	[ -w /sys/kernel/debug/kmemleak ] || return
	for _ in 1 2; do echo scan >/sys/kernel/debug/kmemleak; sleep 6; done
	cat /sys/kernel/debug/kmemleak >/run/back/kmemleak.txt
}

mount_all
# Looked for once, at the end, and not in between.
[ ! -w /sys/kernel/debug/kmemleak ] || echo scan=off >/sys/kernel/debug/kmemleak
mkdir -p /run/back/results
ln -snf /run/back/results /results
exec 3>"$(port tcp_splice.verdict)"
verdict '{"event":"hello","kernel":"%s","cpus":%s,"uptime":%s}\n' "$(uname -r)" "$(nproc)" "$(cut -d' ' -f1 /proc/uptime)"
tar -C /payload/root -cf - . | tar -C / -xf - --keep-directory-symlink
network
# Notices and worse to the console; everything is in results/log afterwards.
dmesg -n 6
if [ -e /payload/job/command ]; then command; else shell; fi
status=$?
leaks
dmesg >/run/back/dmesg.txt
verdict '{"event":"exit","status":%s,"tainted":%s}\n' "$status" "$(cat /proc/sys/kernel/tainted)"
tar -C /run/back -cf - . >"$(port tcp_splice.files)"
verdict '{"event":"end"}\n'
echo b >/proc/sysrq-trigger
sleep 60
