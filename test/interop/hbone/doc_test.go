// Package hbone checks Warren's HTTP/2 CONNECT endpoint against others' software: h2spec, the conformance suite, which is
// built from its own module so that the product does not depend on it; and Node's http2 module (nghttp2), as client and
// as server, over mutual TLS 1.3.
package hbone

import (
	"context"
	"io"

	"github.com/warren-mesh/warren/ztunnel/hbone"
)

// echo accepts and sends back what comes, its end too.
func echo(_ context.Context, in *hbone.Inbound) {
	s, err := in.Accept(hbone.Answer{})
	if err != nil {
		return
	}
	if _, err := io.Copy(s, s); err == nil {
		_ = s.CloseWrite()
	}
	<-s.Done()
}
