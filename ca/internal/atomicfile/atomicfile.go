// Package atomicfile writes the CA's secrets: files of mode 0600 that are there whole or not at all.
package atomicfile

import (
	"errors"
	"os"
	"path/filepath"
)

// Replace makes path hold data. A crash leaves the old content or the new.
func Replace(path string, data []byte) error {
	return write(path, data, func(temp string) error { return os.Rename(temp, path) })
}

// Create makes path hold data unless it exists.
// Returns an error that wraps fs.ErrExist if it does.
func Create(path string, data []byte) error {
	return write(path, data, func(temp string) error {
		defer os.Remove(temp)
		return os.Link(temp, path)
	})
}

func write(path string, data []byte, publish func(temp string) error) error {
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.tmp") // 0600, O_EXCL
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	err = errors.Join(err, file.Sync(), file.Close())
	if err == nil {
		err = publish(file.Name())
	}
	if err != nil {
		os.Remove(file.Name())
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes the new name outlive a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
