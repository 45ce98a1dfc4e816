#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# The init of the base image: finds the payload and hands over to the init in there, so that the
# base image need not be made again when anything of ours changes.
mount -t proc proc /proc
[ -e /dev/ttyS0 ] || mount -t devtmpfs dev /dev
for word in $(cat /proc/cmdline); do
	case $word in tcp_splice.payload=*) device=${word#*=} ;; esac
done
# Debian's kernel has this one as a module.
modprobe -q virtio_blk
mount -o ro "$device" /payload && exec /payload/init
echo "tcp-splice: failed to mount the payload $device"
echo b >/proc/sysrq-trigger
