#!/usr/bin/env bash
# Runs one package's Go tests on the oldest kernel that Warren supports, whatever the host runs: boots Debian's kernel under
# QEMU with the test binary as its payload. Exits with the tests' exit code; a kernel oops or warning meanwhile, and a machine
# that stops without a result line, are failures too.  usage: test/kernel/run.sh <package> [-test.run=... and the like]
set -euo pipefail

series=${KERNEL:-6.1}                    # Debian kernel series, or the path of a linux-image .deb
timeout=${TIMEOUT:-600}                  # seconds the tests may take; the boot has 120 more, so a hung test dumps its stacks first
modules=${MODULES:-veth dummy bridge tcp_diag tls sch_netem} # loaded before the tests, with what they depend on
files=${FILES:-}                         # "host=guest ..." extra files and folders; testdata comes along unasked
cache=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/warren/kernel}
accel=${ACCEL:-tcg}                      # tcg emulates and runs everywhere; kvm is faster where there is one

die() { echo "test/kernel: $*" >&2; exit 2; }

# need_tools installs what is missing as root, else says what to install.
need_tools() {
	local missing=() pair
	for pair in qemu-system-x86_64=qemu-system-x86 cpio=cpio busybox=busybox-static modprobe=kmod; do
		PATH=$PATH:/usr/sbin:/sbin command -v "${pair%=*}" >/dev/null || missing+=("${pair#*=}")
	done
	((${#missing[@]})) || return 0
	((EUID == 0)) || die "missing Debian packages: apt-get install ${missing[*]}"
	apt-get install -qq -y --no-install-recommends "${missing[@]}" >&2 || die "cannot install ${missing[*]}: try apt-get update"
}

# unpack_kernel prints the folder of the unpacked kernel package: the series' newest cloud flavour, which differs from the full
# one in drivers only and is a third of its size.
unpack_kernel() {
	local pkg deb tmp
	if [[ $series == *.deb ]]; then
		pkg=$(basename "$series" .deb)
	else
		pkg=$(apt-cache pkgnames "linux-image-$series." | grep -E -- '-cloud-amd64$' | sort -V | tail -n1) ||
			die "the apt sources have no linux-image-$series.*-cloud-amd64: try apt-get update, or KERNEL=<path of a .deb>"
	fi
	if [[ ! -d $cache/$pkg ]]; then
		mkdir -p "$cache"
		tmp=$(mktemp -d "$cache/.unpack-XXXXXX")
		deb=$series
		if [[ $deb != *.deb ]]; then
			(cd "$tmp" && apt-get download -qq -o APT::Sandbox::User=root "$pkg" >&2) || die "cannot download $pkg: try apt-get update"
			deb=$(echo "$tmp"/*.deb)
		fi
		dpkg-deb -x "$deb" "$tmp/root"
		depmod -b "$tmp/root" "$(basename "$tmp"/root/boot/vmlinuz-* | cut -d- -f2-)"
		mv -T "$tmp/root" "$cache/$pkg" || [[ -d $cache/$pkg ]] # another run was faster
		rm -rf "$tmp"
	fi
	echo "$cache/$pkg"
}

# build_root fills $1 with the guest's file system: init, busybox, modules, the test binary and what lies next to it.
build_root() {
	local root=$1 kernel=$2 module line pair dir
	shift 2
	mkdir -p "$root"/{bin,dev,proc,sys,tmp,run,modules,test}
	install -m 755 "$here/init.sh" "$root/init"
	install -m 755 "$(command -v busybox)" "$root/bin/busybox"
	CGO_ENABLED=0 GOOS=linux GOARCH=amd64 go test -c -o "$root/test/payload" "$pkg"
	[[ -x $root/test/payload ]] || die "package $pkg has no tests"
	printf '%s\n' -test.v "-test.timeout=${timeout}s" "$@" >"$root/test/args"
	for module in $modules; do
		modprobe -d "$kernel" -S "$release" --show-depends "$module" >"$work/depends" || die "kernel $release has no module $module"
		sed -n 's/^insmod //p' "$work/depends" >>"$work/insmod"
	done
	awk '!seen[$1]++ { print $1 }' "$work/insmod" | while read -r line; do
		cp "$line" "$root/modules/" && echo "/modules/${line##*/}" >>"$root/modules/order"
	done
	dir=$(go list -f '{{.Dir}}' "$pkg")
	[[ ! -d $dir/testdata ]] || cp -rL "$dir/testdata" "$root/test/"
	for pair in $files; do
		mkdir -p "$root/$(dirname "${pair#*=}")" && cp -rL "${pair%%=*}" "$root/${pair#*=}"
	done
}

(($#)) || die "usage: [KERNEL=6.1] [TIMEOUT=600] [MODULES=...] [FILES=host=guest] test/kernel/run.sh <package> [-test.run=...]"
PATH=$PATH:/usr/sbin:/sbin
here=$(cd "$(dirname "$0")" && pwd)
pkg=$1
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
need_tools
kernel=$(unpack_kernel)
release=$(basename "$kernel"/boot/vmlinuz-* | cut -d- -f2-)
build_root "$work/root" "$kernel" "$@"
(cd "$work/root" && find . | cpio -o -H newc --quiet) >"$work/initramfs"

start=$(date +%s.%N)
status=0
timeout --foreground $((timeout + 120)) qemu-system-x86_64 -accel "$accel" -cpu max -smp 2 -m 1024 -no-reboot \
	-display none -monitor none -nic none -serial stdio -kernel "$kernel"/boot/vmlinuz-* -initrd "$work/initramfs" \
	-append "console=ttyS0 quiet panic=-1" </dev/null | tee "$work/console" || status=$?
printf 'test/kernel: %s, boot to exit %.1f s\n' "$release" "$(echo "$(date +%s.%N) - $start" | busybox bc)"

verdict=$(tr -d '\r' <"$work/console" | sed -nE 's/^### warren-kernel exit=([0-9]+) taint=([0-9]+) ###$/\1 \2/p' | tail -n1)
[[ $verdict ]] || die "the machine stopped without a result line (qemu status $status, 124 is out of time); see the console above"
read -r exit taint <<<"$verdict"
# Bits 7 and 9: oops and warning (Documentation/admin-guide/tainted-kernels.rst).
((exit || !(taint & (1 << 7 | 1 << 9)))) || die "the tests passed but the kernel oopsed or warned meanwhile, taint $taint"
exit "$exit"
