package handler

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
)

// upload is a request whose body is written bit by bit, by HTTP/1 in chunks or
// by HTTP/2.
type upload struct {
	t        *testing.T
	send     func(text string) error
	end      func() error
	response func() *http.Response // waits for the header of the answer
}

func (b *bench) upload(t *testing.T, h2 bool, url string, header ...string) *upload {
	t.Helper()
	if h2 {
		reader, writer := io.Pipe()
		r := b.request("POST", url, "", header...)
		r.Body, r.ContentLength = reader, -1
		answers := make(chan *http.Response, 1)
		go func() {
			response, err := b.client(true).Do(r)
			if err != nil {
				t.Errorf("uploading: %v", err)
			}
			answers <- response
		}()
		send := func(text string) error { _, err := io.WriteString(writer, text); return err }
		return &upload{t, send, writer.Close, func() *http.Response { return <-answers }}
	}
	r := b.request("POST", url, "", header...)
	conn := b.tunnel(r.URL.Host, r.URL.Hostname(), "http/1.1")
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\n", r.URL.Path, r.URL.Host)
	_ = r.Header.Write(conn)
	_, _ = io.WriteString(conn, "\r\n")
	return &upload{t,
		func(text string) error { _, err := fmt.Fprintf(conn, "%x\r\n%s\r\n", len(text), text); return err },
		func() error { _, err := io.WriteString(conn, "0\r\n\r\n"); return err },
		func() *http.Response {
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Errorf("uploading: %v", err)
			}
			return response
		}}
}

// TestStreamsBothWays: each piece is sent after the answer to the one before has
// been read.
func TestStreamsBothWays(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		for _, masking := range []string{"", "with a token in a header"} {
			t.Run(fmt.Sprintf("h2=%v %s", h2, masking), func(t *testing.T) {
				b := newBench(t, nil)
				b.up.HandleStream("/", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					ctrl := http.NewResponseController(w)
					_ = ctrl.EnableFullDuplex()
					_ = ctrl.Flush()
					piece := make([]byte, 1000)
					for {
						n, err := r.Body.Read(piece)
						_, _ = w.Write(piece[:n])
						_ = ctrl.Flush()
						if err != nil {
							return
						}
					}
				}))
				var header []string
				if masking != "" {
					header = []string{"X-Key", b.token("api.starpod.test")}
				}
				up := b.upload(t, h2, b.up.URL("api.starpod.test")+"/", header...)
				var all strings.Builder
				var body io.Reader
				for i := range 20 {
					piece := fmt.Sprintf("piece %d;", i)
					all.WriteString(piece)
					if err := up.send(piece); err != nil {
						t.Fatal(err)
					}
					if body == nil {
						response := up.response()
						if response == nil {
							t.FailNow()
						}
						body = response.Body
					}
					got := make([]byte, len(piece))
					if _, err := io.ReadFull(body, got); err != nil || string(got) != piece {
						t.Fatalf("got %q (%v), want %q before the next piece", got, err, piece)
					}
				}
				if err := up.end(); err != nil {
					t.Fatal(err)
				}
				if rest, err := io.ReadAll(body); err != nil || len(rest) > 0 {
					t.Errorf("behind the last piece: got %q (%v), want the end", rest, err)
				}
				testbench.Await(t, longest, func() error {
					if requests := b.up.Requests(); len(requests) != 1 || string(requests[0].Body) != all.String() {
						return fmt.Errorf("upstream has recorded %d requests, want one of %d bytes", len(requests), all.Len())
					}
					return nil
				})
			})
		}
	}
}

// TestAnswerBeforeTheBody reaches the client though it has not sent everything,
// and what it goes on sending does not become another request.
func TestAnswerBeforeTheBody(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		for name, answer := range map[string]string{
			"413 and the end":   "HTTP/1.1 413 Too Large\r\nContent-Length: 8\r\nConnection: close\r\n\r\ntoo much",
			"401, kept open":    "HTTP/1.1 401 U\r\nContent-Length: 8\r\n\r\ntoo much",
			"200 in two chunks": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ntoo \r\n4\r\nmuch\r\n0\r\n\r\n",
		} {
			t.Run(fmt.Sprintf("%s h2=%v", name, h2), func(t *testing.T) {
				b := newBench(t, nil)
				received := make(chan error, 1)
				port := b.rawUpstream(true, func(conn net.Conn) {
					request, err := http.ReadRequest(bufio.NewReader(conn))
					if err != nil {
						received <- err
						return
					}
					_, _ = io.ReadFull(request.Body, make([]byte, 5))
					_, _ = io.WriteString(conn, answer)
					_, err = io.Copy(io.Discard, request.Body)
					received <- err
				})
				up := b.upload(t, h2, fmt.Sprintf("https://api.starpod.test:%d/", port))
				if err := up.send("first piece"); err != nil {
					t.Fatal(err)
				}
				response := up.response()
				if response == nil {
					t.FailNow()
				}
				want := strings.Fields(answer)[1]
				if body, err := io.ReadAll(response.Body); err != nil || string(body) != "too much" || fmt.Sprint(response.StatusCode) != want {
					t.Errorf("got status %d %q (%v), want %s before the rest of the body", response.StatusCode, body, err, want)
				}
				_ = up.send("second piece")
				_ = up.end()
				if strings.Contains(answer, "close") {
					<-received // whole or not, as the connection went
				}
			})
		}
	}
}
