package sample

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// maxAnswer bounds what the client prints of one answer.
const maxAnswer = 16 << 20

type clientOptions struct {
	data    string
	timeout time.Duration
	repeat  uint
	every   time.Duration
	close   bool
	headers []string
}

func clientCommand(out io.Writer) *cobra.Command {
	var o clientOptions
	cmd := &cobra.Command{
		Use:   "client http://HOST[:PORT]/PATH | HOST:PORT",
		Short: "Ask once: GET a URL, or connect by TCP, send --data, end, and print what comes back",
		Example: `  sample client http://catalog:8080/
  sample client --data hello echo.shop:9000`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runClient(cmd.Context(), out, args[0], o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.data, "data", "", "what to send; makes an HTTP request a POST")
	f.DurationVar(&o.timeout, "timeout", 5*time.Second, "for the whole exchange")
	f.UintVar(&o.repeat, "repeat", 1, "how many times")
	f.DurationVar(&o.every, "every", 0, "how long to wait between two times")
	f.BoolVar(&o.close, "new-connections", false, "a new connection for each HTTP request")
	f.StringArrayVar(&o.headers, "header", nil, "\"Name: value\" to send with an HTTP request; may be repeated")
	return cmd
}

func runClient(ctx context.Context, out io.Writer, target string, o clientOptions) error {
	transport := &http.Transport{DisableKeepAlives: o.close}
	defer transport.CloseIdleConnections()
	for i := range o.repeat {
		if i > 0 {
			time.Sleep(o.every)
		}
		one, cancel := context.WithTimeout(ctx, o.timeout)
		var err error
		if strings.Contains(target, "://") {
			err = askHTTP(one, out, &http.Client{Transport: transport}, httpAsk{target, o.data, o.headers})
		} else {
			err = askTCP(one, out, target, o.data)
		}
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

type httpAsk struct {
	url     string
	data    string
	headers []string
}

func askHTTP(ctx context.Context, out io.Writer, client *http.Client, ask httpAsk) error {
	method := http.MethodGet
	if ask.data != "" {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(ctx, method, ask.url, strings.NewReader(ask.data))
	if err != nil {
		return err
	}
	for _, h := range ask.headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok {
			return fmt.Errorf("--header %q: want \"Name: value\"", h)
		}
		req.Header.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.Copy(out, io.LimitReader(resp.Body, maxAnswer)); err != nil {
		return err
	}
	if resp.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("%s answered %s", ask.url, resp.Status)
	}
	return nil
}

func askTCP(ctx context.Context, out io.Writer, target, data string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", target)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	if _, err := io.WriteString(conn, data); err != nil {
		return err
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return errors.New("not a TCP connection")
	}
	if err := tcp.CloseWrite(); err != nil {
		return err
	}
	_, err = io.Copy(out, io.LimitReader(conn, maxAnswer))
	return err
}
