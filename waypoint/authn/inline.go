package authn

import (
	"sync"

	"github.com/warren-mesh/warren/waypoint/keyset"
)

// maxInline bounds how many sets are kept parsed. Above it they are all dropped, and parsed again as they are needed.
const maxInline = 256

// inline keeps sets that stand in configuration.
type inline struct {
	mu     sync.Mutex
	parsed map[string]*keyset.Set
}

func newInline() *inline { return &inline{parsed: make(map[string]*keyset.Set)} }

func (i *inline) keys(raw string) (*keyset.Set, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if set := i.parsed[raw]; set != nil {
		return set, nil
	}
	set, err := keyset.Parse([]byte(raw))
	if err != nil {
		return nil, err
	}
	if len(i.parsed) >= maxInline {
		clear(i.parsed)
	}
	i.parsed[raw] = set
	return set, nil
}
