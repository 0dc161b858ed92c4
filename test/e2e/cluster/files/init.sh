#!/bin/bash
# The first process of a node. Net, pid, mount, uts, ipc and cgroup namespaces are its own; it makes its mounts and
# starts its services. Everything it changes is in $N or goes with the namespaces.
set -eu
hostname "$NODE"
mount --make-rprivate /
mkdir -p "$N"/{cgroup,sysctl,kubelet,containerd,cni-state,pods-log,containers-log,overlay}
mount -t proc proc /proc

# Cgroups, whose root is the node's, then the sysfs of this network namespace, and a bpffs.
if [ -n "$UNIFIED" ]; then
	umount -l -R /sys
	mount -t sysfs sysfs /sys
	mount -t cgroup2 cgroup2 /sys/fs/cgroup
else
	mount -t tmpfs tmpfs "$N/cgroup"
	for name_options in $CGROUP_V1; do
		mkdir "$N/cgroup/${name_options%%=*}"
		mount -t cgroup -o "${name_options#*=}" cgroup "$N/cgroup/${name_options%%=*}"
	done
	mkdir "$N/cgroup/unified"
	mount -t cgroup2 cgroup2 "$N/cgroup/unified"
	umount -l -R /sys
	mount -t sysfs sysfs /sys
	mount --move "$N/cgroup" /sys/fs/cgroup
fi
mount -t bpf bpf /sys/fs/bpf

# A kubelet insists on sysctls that belong to the whole machine: it gets files that hold its values.
for pair in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
	kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
	file=$N/sysctl/$(echo "${pair%=*}" | tr / _)
	echo "${pair#*=}" >"$file"
	mount --bind "$file" "/proc/sys/${pair%=*}"
done

# The disk: the machine's directories with the node's changes above them, and plain ones where containerd needs them.
for dir in etc opt var root; do
	mkdir -p "$N/overlay/$dir".{upper,work}
	mount -t overlay overlay -o "lowerdir=/$dir,upperdir=$N/overlay/$dir.upper,workdir=$N/overlay/$dir.work" "/$dir"
done
mount -t tmpfs tmpfs /run
mkdir -p /run/netns /run/lock
[ -L /var/run ] || { mkdir -p /var/run && mount --bind /run /var/run; }
for pair in kubelet:/var/lib/kubelet containerd:/var/lib/containerd cni-state:/var/lib/cni etc-cni:/etc/cni \
	opt-cni:/opt/cni pods-log:/var/log/pods containers-log:/var/log/containers; do
	mkdir -p "${pair#*:}"
	mount --bind "$N/${pair%%:*}" "${pair#*:}"
done
ln -sf "$CNI_PLUGINS"/* /opt/cni/bin/
chmod 755 "$N/interface.sh"
for plugin in ptp bridge; do ln -sf "$N/interface.sh" /opt/cni/bin/$plugin; done
printf '127.0.0.1 localhost\n::1 localhost\n%s %s\n' "${NODE_IPS%%,*}" "$NODE" >"$N/hosts"
: >"$N/resolv.conf"
mount --bind "$N/hosts" /etc/hosts
mount --bind "$N/resolv.conf" /etc/resolv.conf
mount --make-rshared /
if [ -e /proc/sys/net/bridge/bridge-nf-call-iptables ]; then
	echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables
	echo 1 >/proc/sys/net/bridge/bridge-nf-call-ip6tables
fi

containerd -c "$N/containerd.toml" >>"$LOGS/$NODE-containerd.log" 2>&1 &
until ctr version >/dev/null 2>&1; do sleep 0.1; done
for archive in "$N"/images/*.tar; do # a node that was killed has them already
	[ -e "$archive.imported" ] || ctr -n k8s.io images import "$archive" >/dev/null
	touch "$archive.imported"
done
touch "$N/booted"
until [ -e "$N/join" ]; do sleep 0.05; done
# A kubelet that ends is started again, as a node's init does, but not while somebody else is the kubelet.
while true; do
	[ -e "$N/kubelet-off" ] || "$BIN/kubelet" --config="$N/kubelet.yaml" --kubeconfig="$PKI/$NODE.kubeconfig" \
		--hostname-override="$NODE" --node-ip="$NODE_IPS" --root-dir=/var/lib/kubelet --v=2 || true
	sleep 0.2
done >>"$LOGS/$NODE-kubelet.log" 2>&1 &
"$BIN/kube-proxy" --config="$N/kube-proxy.yaml" --v=1 >>"$LOGS/$NODE-kube-proxy.log" 2>&1 &
set +e
while true; do wait; sleep 1; done # also for what others leave to it
