package proxy

import (
	"bytes"
	"errors"
	"net"
)

// screen reads along what an HTTP/1 client sends, before net/http does, and ends the connection's input where it stops
// being what only one reading can make of it. net/http is lenient where RFC 9112 lets a recipient be (a lone LF, folded
// lines, Content-Length beside Transfer-Encoding) and drops what it overrode; here that is an attack or a mistake.
//
// What follows a request that asks to switch protocols is not looked at: unless the switch happens, the connection ends
// with the answer. So does one that begins with HTTP/2's preface.
type screen struct {
	net.Conn
	refused func(*head, error)
	state   screenState
	head    head
	line    []byte // of which the end has not come yet
	left    uint64 // of a body, or of a chunk
	passed  uint64 // bytes of the present head
	err     error
	poison  string // that is still to be read before err
}

type screenState uint8

const (
	inHead screenState = iota
	inBody
	inChunkSize
	inChunk
	afterChunk // the CRLF that ends it
	inTrailer
	unread // another protocol
)

// maxChunkLine bounds a chunk's size with its extensions.
const maxChunkLine = 256

const preface = "PRI * HTTP/2.0"

// poison is what no request's head may have. net/http answers 400 to it, once it has answered what came before: an error
// would end that too.
const poison = "\x00\r\n\r\n"

// Read passes on what a strict reader takes. What violates the rules is not passed on: in a head poison comes instead,
// anything else ends with an error.
func (s *screen) Read(p []byte) (int, error) {
	if s.err != nil {
		if len(s.poison) > 0 {
			n := copy(p, s.poison)
			s.poison = s.poison[n:]
			return n, nil
		}
		return 0, s.err
	}
	n, err := s.Conn.Read(p)
	good, violation := s.follow(p[:n])
	if violation == nil {
		var late net.Error
		if errors.As(err, &late) && late.Timeout() && s.state != inHead && s.state != unread {
			s.err = err // or net/http would take the rest of the body for another request
		}
		return n, err
	}
	s.err = violation
	if s.state == inHead { // else the request that is being served learns it from its body
		s.poison = poison
		s.refused(&s.head, violation)
	}
	if good > 0 || len(p) == 0 {
		return good, nil
	}
	return s.Read(p)
}

// CloseWrite ends what is sent to the client and lets it go on sending.
func (s *screen) CloseWrite() error {
	if half, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// NetConn returns the connection beneath.
func (s *screen) NetConn() net.Conn { return s.Conn }

// follow returns how many bytes may be handed on, and what is wrong with the next one.
func (s *screen) follow(p []byte) (good int, err error) {
	for good < len(p) {
		var n int
		switch s.state {
		case unread:
			return len(p), nil
		case inBody, inChunk:
			n = s.skip(len(p) - good)
		default:
			n, err = s.followLine(p[good:])
		}
		if err != nil {
			return good, err
		}
		good += n
	}
	return good, nil
}

// skip passes over a body, or a chunk of one.
func (s *screen) skip(have int) int {
	n := int(min(uint64(have), s.left))
	s.left -= uint64(n)
	if s.left == 0 {
		if s.state == inChunk {
			s.state = afterChunk
		} else {
			s.next()
		}
	}
	return n
}

// followLine takes the bytes up to the end of a line, and the line if they end it.
func (s *screen) followLine(p []byte) (int, error) {
	end := bytes.IndexByte(p, '\n')
	if end < 0 {
		if s.state != inHead && len(s.line)+len(p) > maxChunkLine && s.state != inTrailer {
			return 0, errChunk
		}
		s.line = append(s.line, p...)
		return len(p), nil
	}
	line := p[:end]
	if len(s.line) > 0 {
		s.line = append(s.line, line...)
		line = s.line
	}
	if len(line) == 0 || line[len(line)-1] != '\r' {
		return 0, errBareLF
	}
	err := s.takeLine(line[:len(line)-1])
	s.line = s.line[:0]
	return end + 1, err
}

func (s *screen) takeLine(line []byte) error {
	if hasControl(line) {
		return errControl
	}
	switch s.state {
	case inChunkSize:
		return s.takeChunkSize(line)
	case afterChunk:
		if len(line) > 0 {
			return errChunk
		}
		s.state = inChunkSize
		return nil
	case inTrailer:
		if len(line) == 0 {
			s.next()
			return nil
		}
		_, _, err := splitField(line)
		return err
	}
	return s.takeHeadLine(line)
}

func (s *screen) takeHeadLine(line []byte) error {
	if s.head.method == "" {
		if s.passed == 0 && string(line) == preface {
			s.state = unread
			return nil
		}
		s.passed++
		return s.head.takeRequestLine(line)
	}
	if len(line) > 0 {
		return s.head.takeField(line)
	}
	if err := s.head.check(); err != nil {
		return err
	}
	switch {
	case s.head.chunked:
		s.state = inChunkSize
	case s.head.length > 0:
		s.state, s.left = inBody, s.head.length
	default:
		s.next()
	}
	return nil
}

func (s *screen) takeChunkSize(line []byte) error {
	digits, _, _ := bytes.Cut(line, []byte(";"))
	if len(line) > maxChunkLine || len(digits) == 0 || len(digits) > 15 {
		return errChunk
	}
	s.left = 0
	for _, c := range digits {
		d := hexDigit(c)
		if d > 15 {
			return errChunk
		}
		s.left = s.left<<4 | uint64(d)
	}
	s.state = inChunk
	if s.left == 0 {
		s.state = inTrailer
	}
	return nil
}

// next is called when a request is over.
func (s *screen) next() {
	s.state = inHead
	if s.head.switches {
		s.state = unread
	}
	s.head = head{}
}

// hasControl looks at bytes: those of a character beyond ASCII are no control characters.
func hasControl(line []byte) bool {
	for _, c := range line {
		if c < ' ' && c != '\t' || c == 0x7f {
			return true
		}
	}
	return false
}
