package handler

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/starpod/caddy-starpod/internal/testbench"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// largestMessage is what both ends of these tests accept.
const largestMessage = 16 << 20

// grpcUpstream starts a gRPC server that answers every method by serve, and the
// health service besides.
func (b *bench) grpcUpstream(serve func(grpc.ServerStream) error) (authority string) {
	b.t.Helper()
	pki := testbench.NewPKI(b.t)
	b.proxy.Egress.Roots.AppendCertsFromPEM(pki.RootPEM)
	certificate := pki.Leaf(b.t)
	server := grpc.NewServer(
		grpc.Creds(credentials.NewServerTLSFromCert(&certificate)),
		grpc.MaxRecvMsgSize(largestMessage),
		grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error { return serve(stream) }),
	)
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.t.Fatal(err)
	}
	go func() { _ = server.Serve(listener) }()
	b.t.Cleanup(server.Stop)
	return fmt.Sprintf("api.starpod.test:%d", listener.Addr().(*net.TCPAddr).Port)
}

// grpcClient is a gRPC client that reaches authority through the proxy.
func (b *bench) grpcClient(authority string) *grpc.ClientConn {
	b.t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+authority,
		grpc.WithContextDialer(func(_ context.Context, target string) (net.Conn, error) {
			conn, response := b.connect(target)
			if response.StatusCode != 200 {
				return nil, fmt.Errorf("CONNECT: got status %d, want 200", response.StatusCode)
			}
			return conn, nil
		}),
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: b.roots})),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(largestMessage)),
	)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// call opens a stream of the method; all four kinds are the same on the wire.
func call(ctx context.Context, conn *grpc.ClientConn, options ...grpc.CallOption) (grpc.ClientStream, error) {
	both := &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}
	return conn.NewStream(ctx, both, "/starpod.test.Echo/Talk", options...)
}

// messages is what either end of a stream does with messages.
type messages interface {
	SendMsg(any) error
	RecvMsg(any) error
}

func say(s messages, text string) error { return s.SendMsg(wrapperspb.Bytes([]byte(text))) }

func hear(s messages) (string, error) {
	message := new(wrapperspb.BytesValue)
	err := s.RecvMsg(message)
	return string(message.Value), err
}

// expect hears one message and compares it.
func expect(s messages, want string) error {
	if got, err := hear(s); err != nil || got != want {
		return fmt.Errorf("got message %.100q of %d bytes (%v), want %.100q of %d", got, len(got), err, want, len(want))
	}
	return nil
}

// echo answers each message by the same, until the client has ended its half.
func echo(s messages) error {
	for {
		text, err := hear(s)
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = say(s, text)
		}
		if err != nil {
			return err
		}
	}
}

// gather hears all messages and answers when there are no more.
func gather(s messages) error {
	var all strings.Builder
	for {
		text, err := hear(s)
		if err == io.EOF {
			return say(s, all.String())
		}
		if err != nil {
			return err
		}
		all.WriteString(text)
	}
}

// TestGRPCCalls has the value in the metadata and tokens in the messages, which
// pass byte for byte.
func TestGRPCCalls(t *testing.T) {
	b := newBench(t, nil)
	token := b.token("api.starpod.test")
	large := strings.Repeat("0123456789abcdef", 8<<20/16) + token
	ask := func(text string) func(context.Context, *grpc.ClientConn) error {
		return func(ctx context.Context, conn *grpc.ClientConn) error {
			answer := new(wrapperspb.BytesValue)
			err := conn.Invoke(ctx, "/starpod.test.Echo/Unary", wrapperspb.Bytes([]byte(text)), answer)
			if err != nil || string(answer.Value) != text {
				return fmt.Errorf("got %d bytes (%v), want the %d bytes back", len(answer.Value), err, len(text))
			}
			return nil
		}
	}
	for _, test := range []struct {
		name  string
		serve func(messages) error
		call  func(context.Context, *grpc.ClientConn) error
	}{
		{"unary", echo, ask("key=" + token)},
		{"empty message", echo, ask("")},
		{"message of 8 MiB", echo, ask(large)},
		{"client streaming", gather, func(ctx context.Context, conn *grpc.ClientConn) error {
			s, err := call(ctx, conn)
			for i := 0; err == nil && i < 3; i++ {
				err = say(s, token)
			}
			if err == nil {
				err = s.CloseSend()
			}
			return firstOf(err, func() error { return expect(s, token+token+token) }, ended(s))
		}},
		{"server streaming", func(s messages) error {
			text, err := hear(s)
			for i := 0; err == nil && i < 3; i++ {
				err = say(s, text)
			}
			return err
		}, func(ctx context.Context, conn *grpc.ClientConn) error {
			s, err := call(ctx, conn)
			again := func() error { return expect(s, token) }
			return firstOf(err, func() error { return say(s, token) }, func() error { return s.CloseSend() }, again, again, again, ended(s))
		}},
		{"bidirectional, each message after the answer to the one before", echo, func(ctx context.Context, conn *grpc.ClientConn) error {
			s, err := call(ctx, conn)
			for i := 0; err == nil && i < 20; i++ {
				text := fmt.Sprint(i, token)
				err = firstOf(say(s, text), func() error { return expect(s, text) })
			}
			return firstOf(err, func() error { return s.CloseSend() }, ended(s))
		}},
		{"answers after the client's half has ended", func(s messages) error {
			if _, err := hear(s); err != io.EOF {
				return fmt.Errorf("got %v, want the end", err)
			}
			return firstOf(say(s, "one"), func() error { return say(s, "two") })
		}, func(ctx context.Context, conn *grpc.ClientConn) error {
			s, err := call(ctx, conn)
			return firstOf(err, func() error { return s.CloseSend() },
				func() error { return expect(s, "one") }, func() error { return expect(s, "two") }, ended(s))
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b.t = t
			b.logs.TakeAll()
			key := make(chan string, 1)
			conn := b.grpcClient(b.grpcUpstream(func(s grpc.ServerStream) error {
				key <- strings.Join(metadata.ValueFromIncomingContext(s.Context(), "authorization"), "|")
				return test.serve(s)
			}))
			ctx, cancel := context.WithTimeout(context.Background(), longest)
			defer cancel()
			if err := test.call(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token), conn); err != nil {
				t.Fatal(err)
			}
			if got := <-key; got != "Bearer "+canary {
				t.Errorf("got authorization %q, want the value", got)
			}
			b.awaitAudit("not_scanned", "length-prefixed messages")
		})
	}
}

// firstOf does one step after the other until one fails.
func firstOf(err error, steps ...func() error) error {
	for _, step := range steps {
		if err != nil {
			return err
		}
		err = step()
	}
	return err
}

// ended is the step that expects a stream to end well.
func ended(s messages) func() error {
	return func() error {
		if text, err := hear(s); err != io.EOF {
			return fmt.Errorf("got message %.100q (%v), want the end", text, err)
		}
		return nil
	}
}

// awaitAudit waits for an audit line with the field.
func (b *bench) awaitAudit(field, want string) {
	b.t.Helper()
	testbench.Await(b.t, longest, func() error {
		for _, entry := range b.logs.All() {
			if entry.LoggerName == "audit" && entry.ContextMap()[field] == want {
				return nil
			}
		}
		return fmt.Errorf("no audit line says %s %q", field, want)
	})
}

// TestGRPCStub is a generated stub against the service it was generated for.
func TestGRPCStub(t *testing.T) {
	b := newBench(t, nil)
	client := grpc_health_v1.NewHealthClient(b.grpcClient(b.grpcUpstream(func(grpc.ServerStream) error { return nil })))
	answer, err := client.Check(t.Context(), new(grpc_health_v1.HealthCheckRequest))
	if err != nil || answer.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("got %v (%v), want SERVING", answer, err)
	}
	stream, err := client.Watch(t.Context(), new(grpc_health_v1.HealthCheckRequest))
	if err != nil {
		t.Fatal(err)
	}
	if first, err := stream.Recv(); err != nil || first.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("watching: got %v (%v), want SERVING while the stream stays open", first, err)
	}
}

// TestGRPCMetadata: every kind of key passes, and tokens in text become values.
func TestGRPCMetadata(t *testing.T) {
	b := newBench(t, nil)
	token, binary := b.token("api.starpod.test"), string([]byte{0, 255, 10, 13, 128})
	seen := make(chan metadata.MD, 1)
	conn := b.grpcClient(b.grpcUpstream(func(s grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(s.Context())
		seen <- md
		return echo(s)
	}))
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-api-key", token, "x-api-key", "second", "x_under.dot", "a"+token+"b",
		"trace-bin", binary, "x-foreign", b.token("evil.starpod.test"))
	if err := conn.Invoke(ctx, "/starpod.test.Echo/Unary", wrapperspb.Bytes(nil), new(wrapperspb.BytesValue)); err != nil {
		t.Fatal(err)
	}
	got := <-seen
	for key, want := range map[string]string{
		"x-api-key": canary + "|second", "x_under.dot": "a" + canary + "b", "trace-bin": binary, "x-foreign": "",
		"content-type": "application/grpc", ":authority": strings.TrimPrefix(conn.Target(), "passthrough:///"),
	} {
		if value := strings.Join(got.Get(key), "|"); value != want {
			t.Errorf("%s: got %q, want %q", key, value, want)
		}
	}
}

// TestGRPCCompression: compressed messages pass as they are where no value went
// out; where one did, the server is asked for plain ones, which can be masked.
func TestGRPCCompression(t *testing.T) {
	b := newBench(t, nil)
	text := strings.Repeat("compressible ", 1<<16)
	for _, test := range []struct {
		name, key string
		accepts   string // what the server is told that the client reads
	}{
		{"without a token", "none", gzip.Name},
		{"with a token", b.token("api.starpod.test"), "identity"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b.t = t
			accepts := make(chan string, 1)
			conn := b.grpcClient(b.grpcUpstream(func(s grpc.ServerStream) error {
				accepts <- strings.Join(metadata.ValueFromIncomingContext(s.Context(), "grpc-accept-encoding"), ",")
				return echo(s)
			}))
			ctx := metadata.AppendToOutgoingContext(t.Context(), "x-key", test.key)
			answer := new(wrapperspb.BytesValue)
			err := conn.Invoke(ctx, "/starpod.test.Echo/Unary", wrapperspb.Bytes([]byte(text)), answer, grpc.UseCompressor(gzip.Name))
			if err != nil || string(answer.Value) != text {
				t.Errorf("got %d bytes (%v), want the %d bytes back", len(answer.Value), err, len(text))
			}
			if got := <-accepts; got != test.accepts {
				t.Errorf("the server was told that the client reads %q, want %q", got, test.accepts)
			}
		})
	}
}

// TestGRPCStreamsAtOnce are a hundred on one connection to the proxy, all of
// them open at the same time.
func TestGRPCStreamsAtOnce(t *testing.T) {
	const streams = 100
	b := newBench(t, nil)
	conn := b.grpcClient(b.grpcUpstream(func(s grpc.ServerStream) error {
		key := metadata.ValueFromIncomingContext(s.Context(), "x-key")
		if err := say(s, fmt.Sprint(len(key), len(key[0]))); err != nil {
			return err
		}
		return echo(s)
	}))
	ctx, cancel := context.WithTimeout(t.Context(), longest)
	defer cancel()
	var open []grpc.ClientStream
	for i := range streams {
		// The length tells the values apart, which themselves are masked.
		token := testbench.Seal(t, b.key, strings.Repeat("v", 10+i), "api.starpod.test")
		s, err := call(metadata.AppendToOutgoingContext(ctx, "x-key", token), conn)
		if err == nil {
			err = expect(s, fmt.Sprint(1, 10+i))
		}
		if err != nil {
			t.Fatalf("stream %d: %v", i, err)
		}
		open = append(open, s)
	}
	for i, s := range open {
		text := strings.Repeat("x", i*100)
		if err := firstOf(say(s, text), func() error { return expect(s, text) }, s.CloseSend, ended(s)); err != nil {
			t.Errorf("stream %d: %v", i, err)
		}
	}
	if got := b.proxy.Stats.Intercepted.Load(); got != 1 {
		t.Errorf("got %d tunnels, want 1", got)
	}
}
