#!/usr/bin/env bash
# Runs one package's Go tests on the oldest kernel that Warren supports, whatever the host runs and is: boots Debian's kernel
# under QEMU with the test binary as its payload. Exits with the tests' exit code; a kernel oops or warning meanwhile, and a
# machine that stops without a result line, are failures too.  usage: test/kernel/run.sh <package> [-test.run=... and the like]
set -euo pipefail
shopt -s inherit_errexit

arch=${ARCH:-amd64}                      # amd64 or arm64, of the machine; both run on either
series=${KERNEL:-6.1}                    # Debian kernel series, or the path of a linux-image .deb
timeout=${TIMEOUT:-600}                  # seconds the tests may take; the boot has 120 more, so a hung test dumps its stacks first
modules=${MODULES:-veth dummy bridge tcp_diag tls sch_netem} # loaded before the tests, with what they depend on
files=${FILES:-}                         # "host=guest ..." extra files and folders; testdata comes along unasked
commands=${COMMANDS:-}                   # "./cmd/agent ..." programs of the module that the tests start; see WARREN_TEST_BIN
memory=${MEMORY:-1024}                   # MiB; files and programs lie in it too
cache=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/warren/kernel}
accel=${ACCEL:-tcg}                      # tcg emulates and runs everywhere; kvm is faster where there is one

die() { echo "test/kernel: $*" >&2; exit 2; }

# machine says what differs between architectures.
machine() {
	case $arch in
	amd64) qemu=(qemu-system-x86_64 -cpu max) console=ttyS0 qemu_package=qemu-system-x86 ;;
	arm64) # A server's core of 2019 (Armv8.2). `max` signs pointers, which takes an emulator far longer than it tells us anything.
		qemu=(qemu-system-aarch64 -machine virt,gic-version=max -cpu neoverse-n1) console=ttyAMA0 qemu_package=qemu-system-arm
		[[ $accel == tcg ]] || qemu+=(-cpu max) ;; # the last one counts
	*) die "ARCH=$arch: want amd64 or arm64" ;;
	esac
}

# need_tools installs what is missing as root, else says what to install.
need_tools() {
	local missing=() pair
	for pair in "${qemu[0]}=$qemu_package" cpio=cpio modprobe=kmod; do
		PATH=$PATH:/usr/sbin:/sbin command -v "${pair%=*}" >/dev/null || missing+=("${pair#*=}")
	done
	((${#missing[@]})) || return 0
	((EUID == 0)) || die "missing Debian packages: apt-get install ${missing[*]}"
	apt-get install -qq -y --no-install-recommends "${missing[@]}" >&2 || die "cannot install ${missing[*]}: try apt-get update"
}

# apt_of sets `apt` to options with which apt reads packages of $arch, and `refresh` to what renews its lists of them. For
# another architecture than the host's these are lists of its own under $cache, from the host's sources: the host itself is given
# no foreign architecture.
apt_of() {
	local dir=$cache/apt-$arch
	apt=(-o "APT::Sandbox::User=root") refresh="apt-get update"
	[[ $arch != "$(dpkg --print-architecture)" ]] || return 0
	refresh="rm $dir/fresh"
	apt+=(-o "APT::Architecture=$arch" -o "APT::Architectures=$arch")
	apt+=(-o "Dir::State=$dir/state" -o "Dir::Cache=$dir/cache" -o "Dir::State::status=$dir/status")
	mkdir -p "$dir"/state/lists/partial "$dir"/cache/archives/partial
	: >>"$dir/status" # no package is installed
	(
		flock 9 # one run at a time
		[[ ! $(find "$dir/fresh" -mtime -1 2>/dev/null) ]] || exit 0
		apt-get update -qq "${apt[@]}" >&2 && touch "$dir/fresh"
	) 9>"$dir/lock" || [[ -e $dir/fresh ]] || die "cannot fetch the lists of packages for $arch" # older ones may do
}

# unpack prints the folder of an unpacked package, which it downloads unless it is a .deb.
unpack() {
	local deb=$1 name tmp
	name=$(basename "$deb" .deb)
	[[ $name == *"$arch"* ]] || name+=-$arch
	if [[ ! -d $cache/$name ]]; then
		tmp=$(mktemp -d "$cache/.unpack-XXXXXX")
		if [[ $deb != *.deb ]]; then
			(cd "$tmp" && apt-get download -qq "${apt[@]}" "$deb" >&2) || die "cannot download $deb for $arch: try $refresh"
			deb=$(echo "$tmp"/*.deb)
		fi
		dpkg-deb -x "$deb" "$tmp/root"
		[[ -e $tmp/root/lib ]] || ln -s usr/lib "$tmp/root/lib" # where a newer Debian has the modules, and kmod does not look
		[[ ! -d $tmp/root/boot ]] || depmod -b "$tmp/root" "$(basename "$tmp"/root/boot/vmlinuz-* | cut -d- -f2-)"
		mv -T "$tmp/root" "$cache/$name" || [[ -d $cache/$name ]] # another run was faster
		rm -rf "$tmp"
	fi
	echo "$cache/$name"
}

# newest_kernel prints the series' newest package of the cloud flavour, which differs from the full one in drivers only and is a
# third of its size.
newest_kernel() {
	[[ $series != *.deb ]] || { echo "$series"; return; }
	apt-cache "${apt[@]}" pkgnames "linux-image-$series." | grep -E -- "-cloud-$arch\$" | sort -V | tail -n1 ||
		die "the apt sources have no linux-image-$series.*-cloud-$arch: try $refresh, or KERNEL=<path of a .deb>"
}

# build_root fills $1 with the guest's file system: init, busybox, modules, the test binary and what lies next to it.
build_root() {
	local root=$1 module line pair dir
	shift
	mkdir -p "$root"/{bin,dev,etc,proc,sys,tmp,run,modules,test}
	echo '127.0.0.1 localhost' >"$root/etc/hosts"
	: >"$root/etc/resolv.conf" # nobody to ask
	install -m 755 "$here/init.sh" "$root/init"
	install -m 755 "$busybox/bin/busybox" "$root/bin/busybox"
	export CGO_ENABLED=0 GOOS=linux GOARCH=$arch GOAMD64=v1 GOARM64=v8.0 # as hack/images builds what is shipped
	go test -c -o "$root/test/payload" "$pkg"
	[[ -x $root/test/payload ]] || die "package $pkg has no tests"
	printf '%s\n' -test.v "-test.timeout=${timeout}s" "$@" >"$root/test/args"
	for module in $modules; do
		modprobe -d "$kernel" -S "$release" --show-depends "$module" >"$work/depends" || die "kernel $release has no module $module"
		sed -n 's/^insmod //p' "$work/depends" >>"$work/insmod"
	done
	awk '!seen[$1]++ { print $1 }' "$work/insmod" | while read -r line; do
		cp "$line" "$root/modules/" && echo "/modules/${line##*/}" >>"$root/modules/order"
	done
	# shellcheck disable=SC2086 # a list
	[[ ! $commands ]] || go build -trimpath -ldflags "-s -w" -o "$root/test/bin/" $commands
	dir=$(go list -f '{{.Dir}}' "$pkg")
	[[ ! -d $dir/testdata ]] || cp -rL "$dir/testdata" "$root/test/"
	for pair in $files; do
		mkdir -p "$root/$(dirname "${pair#*=}")" && cp -rL "${pair%%=*}" "$root/${pair#*=}"
	done
}

(($#)) || die "usage: [ARCH=amd64] [KERNEL=6.1] [TIMEOUT=600] [MODULES=...] [FILES=host=guest] test/kernel/run.sh <package> [-test.run=...]"
PATH=$PATH:/usr/sbin:/sbin
here=$(cd "$(dirname "$0")" && pwd)
pkg=$1
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
machine
need_tools
mkdir -p "$cache"
apt_of
package=$(newest_kernel)
kernel=$(unpack "$package")
busybox=$(unpack busybox-static)
release=$(basename "$kernel"/boot/vmlinuz-* | cut -d- -f2-)
build_root "$work/root" "$@"
(cd "$work/root" && find . | cpio -o -H newc --quiet) >"$work/initramfs"

start=$(date +%s%N)
status=0
timeout --foreground $((timeout + 120)) "${qemu[@]}" -accel "$accel" -smp 2 -m "$memory" -no-reboot \
	-display none -monitor none -nic none -serial stdio -kernel "$kernel"/boot/vmlinuz-* -initrd "$work/initramfs" \
	-append "console=$console quiet panic=-1" </dev/null | tee "$work/console" || status=$?
took=$((($(date +%s%N) - start) / 100000000))
echo "test/kernel: $release, boot to exit $((took / 10)).$((took % 10)) s"

verdict=$(tr -d '\r' <"$work/console" | sed -nE 's/^### warren-kernel exit=([0-9]+) taint=([0-9]+) ###$/\1 \2/p' | tail -n1)
[[ $verdict ]] || die "the machine stopped without a result line (qemu status $status, 124 is out of time); see the console above"
read -r exit taint <<<"$verdict"
# Bits 7 and 9: oops and warning (Documentation/admin-guide/tainted-kernels.rst).
((exit || !(taint & (1 << 7 | 1 << 9)))) || die "the tests passed but the kernel oopsed or warned meanwhile, taint $taint"
exit "$exit"
