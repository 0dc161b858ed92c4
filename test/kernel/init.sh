#!/bin/busybox sh
# Process 1 of the machine that run.sh boots: mounts what a node has, loads the modules, runs the payload, prints one result line.
/bin/busybox --install -s /bin
export PATH=/bin HOME=/tmp TMPDIR=/tmp

finish() { # finish <exit code>: the line run.sh looks for, then power off once that is out
	echo
	echo "### warren-kernel exit=$1 taint=$(cat /proc/sys/kernel/tainted) ###"
	stty -echo </dev/console # waits until the serial line has drained, which powering off does not
	poweroff -f
}

{
	mount -t devtmpfs dev /dev && mount -t proc proc /proc && mount -t sysfs sys /sys &&
	mount -t tmpfs tmp /tmp && mount -t tmpfs run /run && mount --make-rshared / &&
	mount -t cgroup2 cgroup /sys/fs/cgroup && mount -t bpf bpf /sys/fs/bpf &&
	ip link set lo up
} || finish 125

while read -r module; do
	insmod "$module" || finish 125
done </modules/order

ulimit -n 65536
# For internal/labtest: there is no Go to build with, and whole meshes come up slowly.
[ ! -d /test/bin ] || export WARREN_TEST_BIN=/test/bin
export WARREN_TEST_PATIENCE=6
set --
while read -r arg; do
	set -- "$@" "$arg"
done </test/args
cd /test && ./payload "$@" </dev/null
finish $?
