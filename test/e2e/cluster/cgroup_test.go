package cluster

import "testing"

func TestParseCgroupMount(t *testing.T) {
	for _, test := range []struct {
		line string
		want hierarchy
		ok   bool
	}{
		{"30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate", hierarchy{dir: "/sys/fs/cgroup"}, true},
		{"41 31 0:36 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw", hierarchy{dir: "/sys/fs/cgroup/unified"}, true},
		{"33 31 0:28 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu", hierarchy{dir: "/sys/fs/cgroup/cpu", v1: "cpu"}, true},
		{"33 31 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct", hierarchy{dir: "/sys/fs/cgroup/cpu,cpuacct", v1: "cpu,cpuacct"}, true},
		{
			"40 31 0:35 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/lib/systemd/agent,name=systemd",
			hierarchy{dir: "/sys/fs/cgroup/systemd", v1: "none,name=systemd"}, true,
		},
		{"31 24 0:27 / /sys/fs/cgroup rw shared:5 - tmpfs tmpfs rw,mode=755", hierarchy{}, false},
		{"99 24 0:26 / /tmp/x/sys/fs/cgroup rw - cgroup2 cgroup2 rw", hierarchy{}, false},
		{"99 24 0:26 / /sys/fs/cgroup rw", hierarchy{}, false},
	} {
		got, ok := parseCgroupMount(test.line)
		if ok != test.ok || ok && got != test.want {
			t.Errorf("%s:\ngot %+v, %t\nwant %+v, %t", test.line, got, ok, test.want, test.ok)
		}
	}
}
