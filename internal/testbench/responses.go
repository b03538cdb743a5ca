package testbench

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
)

// OK answers 200 with "ok\n".
func OK(w http.ResponseWriter, _ *http.Request, _ *Request) {
	io.WriteString(w, "ok\n")
}

// Echo answers with the body and the content type of the request.
func Echo(w http.ResponseWriter, _ *http.Request, got *Request) {
	if kind := got.Header.Get("Content-Type"); kind != "" {
		w.Header().Set("Content-Type", kind)
	}
	w.Write(got.Body)
}

// EchoHead answers with the request line and the headers, as text.
func EchoHead(w http.ResponseWriter, _ *http.Request, got *Request) {
	w.Header().Set("Content-Type", "text/plain")
	fmt.Fprintf(w, "%s %s\nHost: %s\n", got.Method, got.Target, got.Host)
	got.Header.Write(w)
}

// Status answers with a code and an optional body; 204 and 304 have none.
func Status(code int, body string) Responder {
	return func(w http.ResponseWriter, _ *http.Request, _ *Request) {
		w.WriteHeader(code)
		if body != "" {
			io.WriteString(w, body)
		}
	}
}

// Redirect answers with a redirecting code and a Location.
func Redirect(code int, location string) Responder {
	return func(w http.ResponseWriter, _ *http.Request, _ *Request) {
		w.Header().Set("Location", location)
		w.WriteHeader(code)
	}
}

// Cookies answers with one Set-Cookie line for each argument.
func Cookies(lines ...string) Responder {
	return func(w http.ResponseWriter, r *http.Request, got *Request) {
		for _, line := range lines {
			w.Header().Add("Set-Cookie", line)
		}
		OK(w, r, got)
	}
}

// Trailers answers with a chunked body and the trailers behind it.
func Trailers(body string, trailers map[string]string) Responder {
	return func(w http.ResponseWriter, _ *http.Request, _ *Request) {
		for name := range trailers {
			w.Header().Add("Trailer", name)
		}
		io.WriteString(w, body)
		http.NewResponseController(w).Flush()
		for name, value := range trailers {
			w.Header().Set(name, value)
		}
	}
}

// Chunked answers with each part sent off by itself.
func Chunked(parts ...string) Responder {
	return func(w http.ResponseWriter, _ *http.Request, _ *Request) {
		for _, part := range parts {
			io.WriteString(w, part)
			http.NewResponseController(w).Flush()
		}
	}
}

// EarlyHints sends a 103 with the Link before a 200.
func EarlyHints(link string) Responder {
	return func(w http.ResponseWriter, r *http.Request, got *Request) {
		w.Header().Set("Link", link)
		w.WriteHeader(http.StatusEarlyHints)
		OK(w, r, got)
	}
}

// Big answers with n bytes and a Content-Length. The bytes are the lower-case
// alphabet over and over.
func Big(n int64) Responder {
	return func(w http.ResponseWriter, _ *http.Request, _ *Request) {
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		io.Copy(w, io.LimitReader(Alphabet(), n))
	}
}

// Events is a stream of server-sent events: one for each value received, each
// sent off at once, until the channel is closed or the client is gone.
func Events(values <-chan string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		http.NewResponseController(w).Flush()
		for {
			select {
			case value, open := <-values:
				if !open {
					return
				}
				fmt.Fprintf(w, "data: %s\n\n", value)
				http.NewResponseController(w).Flush()
			case <-r.Context().Done():
				return
			}
		}
	})
}

// Raw answers an HTTP/1 request with exactly these bytes and closes.
func Raw(answer string) Responder {
	return hijacked(func(conn net.Conn) { io.WriteString(conn, answer) })
}

// Reset answers an HTTP/1 request by resetting the connection.
func Reset() Responder {
	return hijacked(func(conn net.Conn) {
		if recorded, ok := conn.(*recordedConn); ok {
			conn = recorded.Conn
		}
		if secured, ok := conn.(interface{ NetConn() net.Conn }); ok {
			conn = secured.NetConn()
		}
		if tcp, ok := conn.(*net.TCPConn); ok {
			tcp.SetLinger(0)
			tcp.Close() // before TLS can say goodbye
		}
	})
}

func hijacked(use func(net.Conn)) Responder {
	return func(w http.ResponseWriter, _ *http.Request, _ *Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(fmt.Sprintf("this answer needs HTTP/1: %v", err))
		}
		defer conn.Close()
		use(conn)
	}
}

// Alphabet is the endless text of [Big].
func Alphabet() io.Reader { return &alphabet{} }

type alphabet struct{ at int }

var letters = strings.Repeat("abcdefghijklmnopqrstuvwxyz", 1<<10)

func (a *alphabet) Read(p []byte) (int, error) {
	n := copy(p, letters[a.at:])
	a.at = (a.at + n) % len(letters)
	return n, nil
}
