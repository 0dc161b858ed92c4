package identity

import (
	"bytes"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func openCache(t *testing.T, dir string) *Cache {
	t.Helper()
	c, err := OpenCache(dir, time.Now(), quiet())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCacheKeepsSVIDsPrivately(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state", "svid")
	c := openCache(t, dir)
	svid := newTestCA(t, nil).svid(t, webID, time.Hour)
	if _, ok := c.Load(webID, time.Now()); ok || c.Ignored() != 0 {
		t.Error("an empty cache has it")
	}
	if err := c.Save(svid); err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]os.FileMode{dir: 0o700, c.path(webID): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
		t.Errorf("%d files, %v", len(files), err)
	}
	got, ok := c.Load(webID, time.Now())
	if !ok || got.Serial() != svid.Serial() || got.ID != webID || !got.NotAfter.Equal(svid.NotAfter) || got.Certificate().PrivateKey == nil {
		t.Errorf("Load = %+v, %t", got, ok)
	}
	if _, ok := c.Load(webID, svid.NotAfter.Add(time.Second)); ok {
		t.Error("an expired one is served")
	}
	c.Remove(webID)
	c.Remove(webID)
	if _, ok := c.Load(webID, time.Now()); ok {
		t.Error("a removed one is served")
	}
}

func TestNilCacheHoldsNothing(t *testing.T) {
	var c *Cache
	if err := c.Save(newTestCA(t, nil).svid(t, webID, time.Hour)); err != nil {
		t.Error(err)
	}
	c.Remove(webID)
	if _, ok := c.Load(webID, time.Now()); ok || c.Ignored() != 0 {
		t.Error("a nil cache has something")
	}
}

// TestUnusableFilesAreIgnoredAndCounted damages a good file in each way.
func TestUnusableFilesAreIgnoredAndCounted(t *testing.T) {
	ca := newTestCA(t, nil)
	svid, other := ca.svid(t, webID, time.Hour), ca.svid(t, webID, time.Hour)
	write := func(text []byte, mode os.FileMode) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			if err := os.WriteFile(path, text, mode); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	good := fileOf(t, svid)
	firstBlock, rest := pem.Decode(good)
	key := pem.EncodeToMemory(firstBlock)
	_, certs := pem.Decode(fileOf(t, other))
	for name, damage := range map[string]func(t *testing.T, path string){
		"empty":            write(nil, 0o600),
		"garbage":          write([]byte("\x00\x01garbage"), 0o600),
		"cut short":        write(good[:len(good)/2], 0o600),
		"no key":           write(rest, 0o600),
		"no certificate":   write(key, 0o600),
		"two keys":         write(append(bytes.Clone(key), good...), 0o600),
		"another's key":    write(append(bytes.Clone(key), certs...), 0o600),
		"bad key":          write(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1, 2, 3}}), 0o600),
		"foreign block":    write(append(bytes.Clone(good), pem.EncodeToMemory(&pem.Block{Type: "X"})...), 0o600),
		"too long":         write(bytes.Repeat([]byte("\n"), maxCachedFile+1), 0o600),
		"others may read":  write(good, 0o640),
		"another identity": write(fileOf(t, ca.svid(t, evilID, time.Hour)), 0o600),
		"directory": func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		},
		"symbolic link": func(t *testing.T, path string) {
			write(good, 0o600)(t, path+".elsewhere")
			if err := os.Symlink(path+".elsewhere", path); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := openCache(t, t.TempDir())
			damage(t, c.path(webID))
			if got, ok := c.Load(webID, time.Now()); ok || c.Ignored() != 1 {
				t.Errorf("Load = %v, %t; %d ignored", got, ok, c.Ignored())
			}
			openCache(t, c.dir) // does not fail either
		})
	}
}

func fileOf(t *testing.T, svid *SVID) []byte {
	t.Helper()
	c := openCache(t, t.TempDir())
	if err := c.Save(svid); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(c.path(svid.ID))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestOpenCacheCleansUp(t *testing.T) {
	dir := t.TempDir()
	ca := newTestCA(t, nil)
	c := openCache(t, dir)
	old, fresh := ca.svid(t, evilID, time.Minute), ca.svid(t, webID, time.Hour)
	for _, svid := range []*SVID{old, fresh} {
		if err := c.Save(svid); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"x" + tempSuffix, "note.txt"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenCache(dir, time.Now().Add(2*time.Minute), quiet()); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 2 || files[1].Name() != "note.txt" && files[0].Name() != "note.txt" {
		t.Errorf("left: %v, %v", files, err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory's mode: %v, %v", info.Mode(), err)
	}
}

func TestOpenCacheRefusesWhatIsNoDirectory(t *testing.T) {
	base := t.TempDir()
	link, file := filepath.Join(base, "link"), filepath.Join(base, "file")
	if err := os.Symlink(t.TempDir(), link); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{link, file} {
		if _, err := OpenCache(path, time.Now(), quiet()); err == nil || !strings.Contains(err.Error(), "SVID cache") {
			t.Errorf("OpenCache(%s) = %v", path, err)
		}
	}
}
