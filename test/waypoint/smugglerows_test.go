package waypoint

import (
	"strconv"
	"strings"
)

// head is a request's beginning.
func head(method, target string, lines ...string) string {
	return method + " " + target + " HTTP/1.1\r\nHost: far.shop\r\n" + strings.Join(append(lines, ""), "\r\n") + "\r\n"
}

const smuggled = "GET /smuggled HTTP/1.1\r\nHost: far.shop\r\n\r\n"

// smuggleRows are what must pass, as often as it says, and what must not.
func smuggleRows() []smuggleRow {
	get, chunked := head("GET", "/x"), "Transfer-Encoding: chunked"
	rows := []smuggleRow{
		{"a request", get, 1, false},
		{"pipelined", get + get + get, 3, false},
		{"pipelined with a body", get + head("POST", "/x", "Content-Length: 5") + "hello" + get, 3, false},
		{"pipelined with chunks", head("POST", "/x", chunked) + "5\r\nhello\r\n0\r\n\r\n" + get, 2, false},
		{"GET with a body", head("GET", "/x", "Content-Length: "+length(smuggled)) + smuggled + get, 2, false},
		{"HEAD at the end", get + head("HEAD", "/x"), 2, false},
		{"a body that looks like a request", head("POST", "/x", "Content-Length: "+length(smuggled)) + smuggled, 1, false},
		{"a chunk that looks like a request", head("POST", "/x", chunked) + hexLength(smuggled) + "\r\n" + smuggled + "\r\n0\r\n\r\n", 1, false},
		{"chunk extension", head("POST", "/x", chunked) + "5;a=b\r\nhello\r\n0;c\r\n\r\n" + get, 2, false},
		{"chunk size with zeros", head("POST", "/x", chunked) + "00005\r\nhello\r\n00\r\n\r\n" + get, 2, false},
		{"trailers", head("POST", "/x", chunked, "Trailer: A") + "5\r\nhello\r\n0\r\nA: b\r\n\r\n" + get, 2, false},
		{"trailer Content-Length", head("POST", "/x", chunked) + "5\r\nhello\r\n0\r\nContent-Length: 50\r\n\r\n" + get, 2, false},
		{"Expect", head("POST", "/x", "Content-Length: 5", "Expect: 100-continue") + "hello", 1, false},
		{"connection names Content-Length", head("POST", "/x", "Connection: Content-Length", "Content-Length: 5") + "hello" + get, 2, false},
		{"connection names Host", head("GET", "/x", "Connection: Host, X-Forwarded-For") + get, 2, false},
		{"double slash", head("GET", "//x//y"), 1, false},
		{"dots", head("GET", "/a/../x"), 1, false},
		{"encoded dots", head("GET", "/a/%2e%2e/x"), 1, false},
		{"absolute form", "GET http://far.shop/x HTTP/1.1\r\nHost: far.shop\r\n\r\n", 1, false},
		{"long header", head("GET", "/x", "A: "+strings.Repeat("a", 6000)) + get, 2, false},
		{"colon in a value", head("GET", "/x", "A: b: c") + get, 2, false},
		{"bytes above ASCII in a value", head("GET", "/x", "A: \xc3\xa4") + get, 2, false},
		{"empty lines before", "\r\n" + get, 0, false},
		{"websocket that is not wanted", head("GET", "/x", "Connection: Upgrade", "Upgrade: websocket") + smuggled, 1, false},
		{"h2c that is not wanted", head("GET", "/x", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__") + smuggled, 1, false},
		{"CONNECT", "CONNECT far.shop:80 HTTP/1.1\r\nHost: far.shop:80\r\n\r\n" + smuggled, 1, false},
		{"h2c upgrade with a body", head("POST", "/x", "Connection: Upgrade", "Upgrade: h2c", "Content-Length: 5") + "hello" + smuggled, 1, false},
	}
	return append(rows, refusedRows()...)
}

func refusedRows() []smuggleRow {
	var rows []smuggleRow
	add := func(name, raw string) { rows = append(rows, smuggleRow{name, raw + smuggled, 0, false}) }
	field := func(name string, lines ...string) { add(name, head("POST", "/x", lines...)+"0\r\n\r\n") }
	field("CL.TE", "Content-Length: 5", "Transfer-Encoding: chunked")
	field("TE.CL", "Transfer-Encoding: chunked", "Content-Length: 5")
	field("CL 0 and TE", "Content-Length: 0", "Transfer-Encoding: chunked")
	field("TE of nobody", "Transfer-Encoding: xchunked")
	field("TE twice", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked")
	field("TE then another", "Transfer-Encoding: chunked", "Transfer-Encoding: x")
	field("TE identity, chunked", "Transfer-Encoding: identity, chunked")
	field("TE chunked, identity", "Transfer-Encoding: chunked, identity")
	field("TE identity", "Transfer-Encoding: identity")
	field("TE gzip, chunked", "Transfer-Encoding: gzip, chunked")
	field("TE empty", "Transfer-Encoding:")
	field("TE quoted", `Transfer-Encoding: "chunked"`)
	field("TE with a parameter", "Transfer-Encoding: chunked;a=b")
	field("TE space before colon", "Transfer-Encoding : chunked")
	field("TE tab before colon", "Transfer-Encoding\t: chunked")
	field("TE vertical tab", "Transfer-Encoding: \vchunked")
	field("TE folded", "Transfer-Encoding:\r\n chunked")
	field("TE after a bare CR", "A: b\rTransfer-Encoding: chunked")
	field("TE after a bare LF", "A: b\nTransfer-Encoding: chunked")
	field("TE after NUL", "A: b\x00Transfer-Encoding: chunked")
	field("CL twice, the same", "Content-Length: 5", "Content-Length: 5")
	field("CL twice, different", "Content-Length: 5", "Content-Length: 0")
	field("CL list", "Content-Length: 5, 5")
	field("CL plus", "Content-Length: +5")
	field("CL minus", "Content-Length: -5")
	field("CL hex", "Content-Length: 0x5")
	field("CL with a space", "Content-Length: 5 5")
	field("CL empty", "Content-Length:")
	field("CL beyond 64 bits", "Content-Length: 18446744073709551621")
	field("CL underscore digits", "Content-Length: 1_0")
	field("CL space before colon", "Content-Length : 5")
	field("CL folded", "Content-Length:\r\n\t5")
	field("folded", "A: b", " c: d")
	field("first line folded", " A: b")
	field("no colon", "A")
	field("no name", ": b")
	field("name with a parenthesis", "A(: b")
	field("name with a control character", "A\x01: b")
	field("control character", "A: \x01")
	field("DEL", "A: \x7f")
	field("NUL", "A: \x00")
	field("bare CR", "A: b\rc")
	field("Host twice", "Host: far.shop")
	field("Host twice, different", "Host: other.shop")
	field("very long header", "A: "+strings.Repeat("a", 70<<10))
	add("bare LF everywhere", "GET /x HTTP/1.1\nHost: far.shop\n\n")
	add("bare LF at the end", "GET /x HTTP/1.1\r\nHost: far.shop\r\n\n")
	add("no Host", "GET /x HTTP/1.1\r\n\r\n")
	add("empty Host", "GET /x HTTP/1.1\r\nHost:\r\n\r\n")
	add("Host with a space", "GET /x HTTP/1.1\r\nHost: far shop\r\n\r\n")
	add("Host with a path", "GET /x HTTP/1.1\r\nHost: far.shop/y\r\n\r\n")
	add("Host with a user", "GET /x HTTP/1.1\r\nHost: a@far.shop\r\n\r\n")
	add("Host list", "GET /x HTTP/1.1\r\nHost: far.shop, other.shop\r\n\r\n")
	add("absolute form of another host", "GET http://other.shop/x HTTP/1.1\r\nHost: far.shop\r\n\r\n")
	add("NUL in the path", head("GET", "/x\x00y"))
	add("bad escape", head("GET", "/x%zz"))
	add("half an escape", head("GET", "/x%2"))
	add("no slash", head("GET", "x"))
	add("control character in the path", head("GET", "/x\x01y"))
	add("tabs for spaces", "GET\t/x\tHTTP/1.1\r\nHost: far.shop\r\n\r\n")
	add("two spaces", "GET  /x HTTP/1.1\r\nHost: far.shop\r\n\r\n")
	add("space in the path", "GET /x y HTTP/1.1\r\nHost: far.shop\r\n\r\n")
	add("space behind the version", "GET /x HTTP/1.1 \r\nHost: far.shop\r\n\r\n")
	add("HTTP/0.9", "GET /x\r\n")
	add("HTTP/1.2", "GET /x HTTP/1.2\r\nHost: far.shop\r\n\r\n")
	add("HTTP/2.0", "GET /x HTTP/2.0\r\nHost: far.shop\r\n\r\n")
	add("HTTP/01.1", "GET /x HTTP/01.1\r\nHost: far.shop\r\n\r\n")
	add("lower-case protocol", "GET /x http/1.1\r\nHost: far.shop\r\n\r\n")
	add("method with a colon", "GE:T /x HTTP/1.1\r\nHost: far.shop\r\n\r\n")
	add("chunks in HTTP/1.0", "POST /x HTTP/1.0\r\nHost: far.shop\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
	return append(rows, smuggleRow{"encoded NUL", head("GET", "/x%00y"), 0, false})
}

// brokenRows are bodies that turn out to be none, once their head has passed.
func brokenRows() []smuggleRow {
	var rows []smuggleRow
	for name, chunk := range map[string]string{
		"chunk size with a space": "5 \r\nhello\r\n", "chunk size with a space before": " 5\r\nhello\r\n", "chunk size with 0x": "0x5\r\nhello\r\n",
		"chunk size with a minus": "-5\r\nhello\r\n", "chunk size beyond 64 bits": "10000000000000005\r\nhello\r\n", "chunk size of nothing": "\r\nhello\r\n",
		"chunk line with a bare LF": "5\nhello\r\n", "chunk that ends late": "5\r\nhelloXX\r\n", "chunk that ends by LF": "5\r\nhello\n",
		"chunk extension with a bare LF": "5;a\nb\r\nhello\r\n", "chunk extension that is long": "5;" + strings.Repeat("a", 5000) + "\r\nhello\r\n",
		"chunk extension with a bare CR": "5;a\rb\r\nhello\r\n", "chunk size with NUL": "5\x00\r\nhello\r\n",
	} {
		rows = append(rows, smuggleRow{name, head("POST", "/x", "Transfer-Encoding: chunked") + chunk + "0\r\n\r\n" + smuggled, 1, true})
	}
	for name, trailer := range map[string]string{
		"trailer with a bare LF": "A: b\n", "trailer folded": " A: b\r\n", "trailer without a colon": "A\r\n", "trailer with NUL": "A: \x00\r\n",
	} {
		rows = append(rows, smuggleRow{name, head("POST", "/x", "Transfer-Encoding: chunked") + "5\r\nhello\r\n0\r\n" + trailer + "\r\n" + smuggled, 1, true})
	}
	return rows
}

func length(s string) string    { return strconv.Itoa(len(s)) }
func hexLength(s string) string { return strconv.FormatInt(int64(len(s)), 16) }
