// Package version says which build this is.
package version

import "runtime/debug"

// release is set by the linker when images and releases are built (-X, see hack/images): such builds know no commit.
var release string

// String returns the release, else the module's version, else "dev" with the commit if the build knows one.
func String() string {
	if release != "" {
		return release
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "dev"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "dev-" + s.Value[:12]
		}
	}
	return "dev"
}
