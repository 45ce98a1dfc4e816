#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# The init of the base image: mounts the payload and hands over to the init in there, so that the
# base image need not be made again when anything of ours changes. The kernel puts SPLICE_PAYLOAD
# from its command line into our environment.
mount -t proc proc /proc
[ -e /dev/ttyS0 ] || mount -t devtmpfs dev /dev
# Debian's kernel has this one as a module.
modprobe -q virtio_blk
mount -o ro "$SPLICE_PAYLOAD" /payload && exec /payload/init
echo "tcp-splice: failed to mount the payload $SPLICE_PAYLOAD"
echo b >/proc/sysrq-trigger
