package feed

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/warren-mesh/warren/api/meshv1"
)

// The state file is stateMagic, the payload's SHA-256, its length (8 bytes, big endian) and the payload: a
// warren.mesh.v1.Update that replaces everything.
const (
	stateMagic = "warren-state/1\n"
	// MaxState bounds a state on disk and on the wire.
	MaxState = 64 << 20
)

// ErrStateFile is wrapped by every error about the content of a state file.
var ErrStateFile = errors.New("damaged state file")

// encodeState returns the content of a state file.
func encodeState(s *State) ([]byte, error) {
	u := &meshv1.Update{Epoch: s.Epoch, Version: s.Version}
	for _, r := range s.resources {
		u.Set = append(u.Set, r)
	}
	payload, err := proto.Marshal(u)
	if err != nil {
		return nil, fmt.Errorf("marshal state: %w", err)
	}
	if len(payload) > MaxState {
		return nil, fmt.Errorf("state of %d bytes, more than %d", len(payload), MaxState)
	}
	sum := sha256.Sum256(payload)
	out := append([]byte(stateMagic), sum[:]...)
	out = binary.BigEndian.AppendUint64(out, uint64(len(payload)))
	return append(out, payload...), nil
}

// decodeState reads the content of a state file.
// Returns an error that wraps ErrStateFile.
func decodeState(data []byte, now time.Time) (*State, error) {
	rest, ok := bytes.CutPrefix(data, []byte(stateMagic))
	if !ok || len(rest) < sha256.Size+8 {
		return nil, fmt.Errorf("%w: it does not begin with %q and a checksum", ErrStateFile, stateMagic)
	}
	sum, rest := rest[:sha256.Size], rest[sha256.Size:]
	size, payload := binary.BigEndian.Uint64(rest), rest[8:]
	if size != uint64(len(payload)) {
		return nil, fmt.Errorf("%w: %d bytes, but it should have %d", ErrStateFile, len(payload), size)
	}
	if got := sha256.Sum256(payload); !bytes.Equal(got[:], sum) {
		return nil, fmt.Errorf("%w: its checksum is wrong", ErrStateFile)
	}
	var u meshv1.Update
	if err := proto.Unmarshal(payload, &u); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStateFile, err)
	}
	if u.GetBase() != 0 {
		return nil, fmt.Errorf("%w: it holds a delta", ErrStateFile)
	}
	s, err := Empty().Apply(&u, now)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStateFile, err)
	}
	s.FromDisk = true
	return s, nil
}

// loadState reads a state file. Returns fs.ErrNotExist if there is none, and ErrStateFile if it is damaged.
func loadState(path string, now time.Time) (*State, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	defer f.Close()
	limit := int64(MaxState + len(stateMagic) + sha256.Size + 8)
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%w: larger than %d bytes", ErrStateFile, limit)
	}
	return decodeState(data, now)
}

// saveState replaces a state file: whoever reads it sees the old content or the new one, also after a crash.
func saveState(path string, s *State) (err error) {
	data, err := encodeState(s)
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, ".state-*") // 0600
	if err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write state: %w", err), os.Remove(tmp.Name()))
		}
	}()
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	if err = os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return nil // the rename is done; only its place on disk is not certain
	}
	defer d.Close()
	return d.Sync()
}
