package telemetry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
)

// The protocols of OTLP.
const (
	protocolGRPC = "grpc"
	protocolHTTP = "http"
)

const (
	// An export is tried again for retryFor, beginning after retryFirst.
	retryFirst = 300 * time.Millisecond
	retryMost  = 2 * time.Second
	retryFor   = 5 * time.Second
	// maxReconnect is how long a collector that came back may wait for a new connection.
	maxReconnect = 10 * time.Second
)

// collectorAddr is an endpoint, understood.
type collectorAddr struct {
	addr, path string
	insecure   bool
}

// check returns an error that names the field if the configuration can not be meant.
func (c Tracing) check() error {
	if c.Endpoint == "" {
		return nil
	}
	_, err := c.endpoint()
	switch {
	case err != nil:
		return err
	case c.Protocol != "" && c.Protocol != protocolGRPC && c.Protocol != protocolHTTP:
		return fmt.Errorf("tracing: protocol %q is neither grpc nor http", c.Protocol)
	case !(c.Ratio >= 0 && c.Ratio <= 1):
		return fmt.Errorf("tracing: ratio %v is not from 0 to 1", c.Ratio)
	case (c.CertFile == "") != (c.KeyFile == ""):
		return errors.New("tracing: a certificate file and a key file are given together or not at all")
	}
	for name, value := range c.Headers {
		if name == "" || strings.ContainsFunc(name, notToken) || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return fmt.Errorf("tracing: header %q is not a valid header", name)
		}
	}
	return nil
}

// notToken tells what may not be in a header's name (RFC 9110, section 5.6.2).
func notToken(r rune) bool {
	return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
}

func (c Tracing) endpoint() (collectorAddr, error) {
	out := collectorAddr{addr: c.Endpoint, insecure: c.Insecure}
	if strings.Contains(c.Endpoint, "://") {
		u, err := url.Parse(c.Endpoint)
		if err != nil {
			return out, fmt.Errorf("tracing: endpoint: %w", err)
		}
		if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return out, fmt.Errorf("tracing: endpoint %q must be host:port, http://host:port or https://host:port", u.Redacted())
		}
		out.insecure = u.Scheme == "http"
		if out.path = u.Path; out.path == "/" {
			out.path = ""
		}
		port := u.Port()
		switch {
		case port != "":
		case c.Protocol == protocolHTTP:
			port = "4318"
		default:
			port = "4317"
		}
		out.addr = net.JoinHostPort(u.Hostname(), port)
	}
	host, port, err := net.SplitHostPort(out.addr)
	if err != nil || host == "" || port == "" {
		return out, fmt.Errorf("tracing: endpoint %q has no host and port: write host:port", c.Endpoint)
	}
	if out.path != "" && c.Protocol != protocolHTTP {
		return out, fmt.Errorf("tracing: endpoint %q has a path, which only the protocol http has", c.Endpoint)
	}
	return out, nil
}

// newExporter returns an exporter that connects when there is something to send.
func newExporter(c Tracing) (sdktrace.SpanExporter, error) {
	to, err := c.endpoint()
	if err != nil {
		return nil, err
	}
	var secure *tls.Config
	if !to.insecure {
		if secure, err = c.tls(); err != nil {
			return nil, err
		}
	}
	var client otlptrace.Client
	if c.Protocol == protocolHTTP {
		client = c.overHTTP(to, secure)
	} else {
		client = c.overGRPC(to, secure)
	}
	exporter, err := otlptrace.New(context.Background(), client)
	if err != nil {
		return nil, fmt.Errorf("tracing: endpoint %s: %w", c.Endpoint, err)
	}
	return exporter, nil
}

func (c Tracing) overHTTP(to collectorAddr, secure *tls.Config) otlptrace.Client {
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: secure, TLSHandshakeTimeout: retryFor, IdleConnTimeout: 90 * time.Second,
		MaxConnsPerHost: 2, ForceAttemptHTTP2: true,
	}
	if c.Dial != nil {
		transport.Proxy = nil
		transport.DialContext = func(ctx context.Context, _, addr string) (net.Conn, error) { return c.Dial(ctx, addr) }
	}
	options := []otlptracehttp.Option{
		otlptracehttp.WithEndpoint(to.addr), otlptracehttp.WithTimeout(exportTimeout),
		otlptracehttp.WithCompression(otlptracehttp.GzipCompression),
		otlptracehttp.WithHTTPClient(&http.Client{Transport: transport, Timeout: exportTimeout}),
		otlptracehttp.WithRetry(otlptracehttp.RetryConfig{Enabled: true, InitialInterval: retryFirst, MaxInterval: retryMost, MaxElapsedTime: retryFor}),
	}
	if to.insecure {
		options = append(options, otlptracehttp.WithInsecure())
	}
	if len(c.Headers) > 0 { // else the environment's, OTEL_EXPORTER_OTLP_HEADERS, count
		options = append(options, otlptracehttp.WithHeaders(c.Headers))
	}
	if to.path != "" {
		options = append(options, otlptracehttp.WithURLPath(to.path))
	}
	return otlptracehttp.NewClient(options...)
}

func (c Tracing) overGRPC(to collectorAddr, secure *tls.Config) otlptrace.Client {
	dial := []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: retryFirst, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxReconnect},
		MinConnectTimeout: retryFor,
	})}
	if c.Dial != nil {
		dial = append(dial, grpc.WithContextDialer(c.Dial))
	}
	options := []otlptracegrpc.Option{
		otlptracegrpc.WithEndpoint(to.addr), otlptracegrpc.WithTimeout(exportTimeout),
		otlptracegrpc.WithCompressor("gzip"), otlptracegrpc.WithDialOption(dial...),
		otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{Enabled: true, InitialInterval: retryFirst, MaxInterval: retryMost, MaxElapsedTime: retryFor}),
	}
	if to.insecure {
		options = append(options, otlptracegrpc.WithInsecure())
	} else {
		options = append(options, otlptracegrpc.WithTLSCredentials(credentials.NewTLS(secure)))
	}
	if len(c.Headers) > 0 {
		options = append(options, otlptracegrpc.WithHeaders(c.Headers))
	}
	return otlptracegrpc.NewClient(options...)
}

// tls reads the roots now and the certificate at each handshake, as it is renewed in place.
func (c Tracing) tls() (*tls.Config, error) {
	out := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		raw, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("tracing: roots of the collector: %w", err)
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(raw) {
			return nil, fmt.Errorf("tracing: roots of the collector: %s has no certificate in PEM", c.CAFile)
		}
	}
	if c.CertFile == "" {
		return out, nil
	}
	load := func() (*tls.Certificate, error) {
		cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("tracing: certificate for the collector: %w", err)
		}
		return &cert, nil
	}
	if _, err := load(); err != nil {
		return nil, err
	}
	out.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	return out, nil
}
