package load

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"time"
)

// HTTP is one keep-alive connection with at most one request on it. It is not net/http's, which would cost several times
// what it measures and repeats what failed.
type HTTP struct {
	conn    net.Conn
	host    string
	answers *bufio.Reader
}

// NewHTTP speaks HTTP/1.1 on a connection. The caller closes it.
func NewHTTP(conn net.Conn, host string) *HTTP {
	return &HTTP{conn, host, bufio.NewReaderSize(conn, 8<<10)}
}

// Get sends one request, with the lines of more headers if there are any, and reads its answer into body.
func (c *HTTP) Get(path, headers string, body io.Writer) error {
	if err := c.conn.SetDeadline(time.Now().Add(Patience)); err != nil {
		return err
	}
	request := make([]byte, 0, 256)
	request = append(request, "GET "+path+" HTTP/1.1\r\nHost: "+c.host+"\r\nUser-Agent: bench\r\nAccept: */*\r\n"+headers...)
	if _, err := c.conn.Write(append(request, "\r\n"...)); err != nil {
		return err
	}
	res, err := http.ReadResponse(c.answers, nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(body, res.Body)
	_ = res.Body.Close() // all of it was read
	if err == nil && res.StatusCode != http.StatusOK {
		err = errors.New(res.Status)
	}
	return err
}
