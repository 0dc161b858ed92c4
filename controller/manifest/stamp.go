package manifest

import (
	"io/fs"
	"os"
	"syscall"
)

func stampOf(f *os.File) (stamp, fs.FileInfo, error) {
	info, err := f.Stat()
	if err != nil {
		return stamp{}, nil, err
	}
	s := stamp{size: info.Size(), mtime: info.ModTime()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		s.inode = sys.Ino
	}
	return s, info, nil
}
