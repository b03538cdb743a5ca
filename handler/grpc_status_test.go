package handler

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/starpod/caddy-starpod/internal/testbench"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// TestGRPCOutcomes are the ways in which a call ends, as the client sees them.
func TestGRPCOutcomes(t *testing.T) {
	b := newBench(t, nil)
	detailed, err := status.New(codes.FailedPrecondition, "not so: ü 100%").WithDetails(wrapperspb.String("a detail"), wrapperspb.Int64(7))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name    string
		serve   func(grpc.ServerStream) error
		want    *status.Status
		header  string // of the key x-head
		trailer string // of the key x-tail
	}{
		{"well, with metadata at both ends", func(s grpc.ServerStream) error {
			s.SetTrailer(metadata.Pairs("x-tail", "t1", "x-tail", "t2"))
			return firstOf(s.SetHeader(metadata.Pairs("x-head", "h1", "x-head", "h2")), func() error { return echo(s) })
		}, status.New(codes.OK, ""), "h1|h2", "t1|t2"},
		{"an error after messages", func(s grpc.ServerStream) error {
			s.SetTrailer(metadata.Pairs("x-tail", "t"))
			return firstOf(echo(s), func() error { return status.Error(codes.DataLoss, "then it broke") })
		}, status.New(codes.DataLoss, "then it broke"), "", "t"},
		{"an error with details", func(s grpc.ServerStream) error {
			return firstOf(echo(s), detailed.Err)
		}, detailed, "", ""},
		{"an error before anything else (trailers only)", func(s grpc.ServerStream) error {
			s.SetTrailer(metadata.Pairs("x-tail", "t"))
			return status.Error(codes.Unauthenticated, "who are you?\nsay so")
		}, status.New(codes.Unauthenticated, "who are you?\nsay so"), "", "t"},
		{"details before anything else (trailers only)", func(s grpc.ServerStream) error {
			return detailed.Err()
		}, detailed, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			b.t = t
			conn := b.grpcClient(b.grpcUpstream(test.serve))
			var header, trailer metadata.MD
			err := conn.Invoke(t.Context(), "/starpod.test.Echo/Unary", wrapperspb.Bytes([]byte("x")), new(wrapperspb.BytesValue),
				grpc.Header(&header), grpc.Trailer(&trailer))
			got := status.Convert(err)
			if got.Code() != test.want.Code() || got.Message() != test.want.Message() || fmt.Sprint(got.Details()) != fmt.Sprint(test.want.Details()) {
				t.Errorf("got status %v %v, want %v %v", got, got.Details(), test.want, test.want.Details())
			}
			if got := strings.Join(header.Get("x-head"), "|"); got != test.header {
				t.Errorf("got header %q, want %q", got, test.header)
			}
			if got := strings.Join(trailer.Get("x-tail"), "|"); got != test.trailer {
				t.Errorf("got trailer %q, want %q", got, test.trailer)
			}
		})
	}
}

// TestGRPCHeaderComesFirst: the client has the initial metadata before either
// side has sent a message.
func TestGRPCHeaderComesFirst(t *testing.T) {
	b := newBench(t, nil)
	seen := make(chan struct{})
	conn := b.grpcClient(b.grpcUpstream(func(s grpc.ServerStream) error {
		if err := s.SendHeader(metadata.Pairs("x-head", "early")); err != nil {
			return err
		}
		select {
		case <-seen:
			return say(s, "late")
		case <-s.Context().Done():
			return s.Context().Err()
		}
	}))
	ctx, cancel := context.WithTimeout(t.Context(), longest)
	defer cancel()
	s, err := call(ctx, conn)
	if err != nil {
		t.Fatal(err)
	}
	if header, err := s.Header(); err != nil || !slices.Equal(header.Get("x-head"), []string{"early"}) {
		t.Fatalf("got header %v (%v), want it before any message", header, err)
	}
	close(seen)
	if err := firstOf(expect(s, "late"), s.CloseSend, ended(s)); err != nil {
		t.Error(err)
	}
}

// TestGRPCDeadline reaches the server, which may be given less than the client
// had but not more, and ends the call on both sides.
func TestGRPCDeadline(t *testing.T) {
	b := newBench(t, nil)
	left, over := make(chan time.Duration, 1), make(chan error, 1)
	conn := b.grpcClient(b.grpcUpstream(func(s grpc.ServerStream) error {
		deadline, stated := s.Context().Deadline()
		if !stated {
			return echo(s)
		}
		left <- time.Until(deadline)
		<-s.Context().Done()
		over <- s.Context().Err()
		return s.Context().Err()
	}))
	// The connection is made beforehand, which may take its time.
	if err := conn.Invoke(t.Context(), "/starpod.test.Echo/Unary", wrapperspb.Bytes(nil), new(wrapperspb.BytesValue)); err != nil {
		t.Fatal(err)
	}
	const given = time.Second
	ctx, cancel := context.WithTimeout(t.Context(), given)
	defer cancel()
	err := conn.Invoke(ctx, "/starpod.test.Echo/Unary", wrapperspb.Bytes(nil), new(wrapperspb.BytesValue))
	if status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("client: got %v, want DeadlineExceeded", err)
	}
	if got := <-left; got <= 0 || got > given {
		t.Errorf("the server was given %v, want at most %v", got, given)
	}
	if err := <-over; err == nil {
		t.Error("the server's call did not end")
	}
}

// TestGRPCCancel by the client ends the call at the server, and leaves the
// connection fit for the next.
func TestGRPCCancel(t *testing.T) {
	b := newBench(t, nil)
	ended := make(chan error, 1)
	conn := b.grpcClient(b.grpcUpstream(func(s grpc.ServerStream) error {
		if len(metadata.ValueFromIncomingContext(s.Context(), "x-stay")) == 0 {
			return echo(s)
		}
		if err := say(s, "hello"); err != nil {
			return err
		}
		<-s.Context().Done()
		ended <- s.Context().Err()
		return nil
	}))
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(t.Context(), "x-stay", "1"))
	defer cancel()
	s, err := call(ctx, conn)
	if err := firstOf(err, func() error { return expect(s, "hello") }); err != nil {
		t.Fatal(err)
	}
	cancel()
	if got := <-ended; got != context.Canceled {
		t.Errorf("server: got %v, want %v", got, context.Canceled)
	}
	if err := conn.Invoke(t.Context(), "/starpod.test.Echo/Unary", wrapperspb.Bytes(nil), new(wrapperspb.BytesValue)); err != nil {
		t.Errorf("the next call: %v", err)
	}
	if got := b.proxy.Stats.Intercepted.Load(); got != 1 {
		t.Errorf("got %d tunnels, want 1", got)
	}
}

// TestGRPCMasked: a server that repeats the value in every part of its answer.
func TestGRPCMasked(t *testing.T) {
	stars := strings.Repeat("*", len(canary))
	b := newBench(t, nil)
	conn := b.grpcClient(b.grpcUpstream(func(s grpc.ServerStream) error {
		key := metadata.ValueFromIncomingContext(s.Context(), "x-key")[0]
		s.SetTrailer(metadata.Pairs("x-tail", key, "tail-bin", "\xff"+key))
		detailed, err := status.New(codes.Internal, "no: "+key).WithDetails(wrapperspb.String("detail " + key))
		return firstOf(err,
			func() error { return s.SendHeader(metadata.Pairs("x-head", "<"+key+">", "head-bin", key+"\x00")) },
			func() error { return say(s, "you sent "+key+".") }, detailed.Err)
	}))
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-key", b.token("api.starpod.test"))
	s, err := call(ctx, conn)
	if err != nil {
		t.Fatal(err)
	}
	if err := expect(s, "you sent "+stars+"."); err != nil {
		t.Error(err)
	}
	_, err = hear(s)
	got := status.Convert(err)
	if got.Code() != codes.Internal || got.Message() != "no: "+stars {
		t.Errorf("got status %v, want one with %q", got, "no: "+stars)
	}
	if details := fmt.Sprint(got.Details()); !strings.Contains(details, "detail "+stars) {
		t.Errorf("got details %q, want them with %q", details, stars)
	}
	header, err := s.Header()
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"x-head": "<" + stars + ">", "head-bin": stars + "\x00", "x-tail": stars, "tail-bin": "\xff" + stars} {
		if got := strings.Join(append(header.Get(key), s.Trailer().Get(key)...), "|"); got != want {
			t.Errorf("%s: got %q, want %q", key, got, want)
		}
	}
}

// TestGRPCMaskedThoughCompressed: a server that compresses its answer as the
// request was, whatever it was asked for.
func TestGRPCMaskedThoughCompressed(t *testing.T) {
	b := newBench(t, nil)
	conn := b.grpcClient(b.grpcUpstream(func(s grpc.ServerStream) error {
		_, err := hear(s)
		key := metadata.ValueFromIncomingContext(s.Context(), "x-key")[0]
		return firstOf(err, func() error { return say(s, strings.Repeat(key+" ", 1000)) })
	}))
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-key", b.token("api.starpod.test"))
	answer := new(wrapperspb.BytesValue)
	err := conn.Invoke(ctx, "/starpod.test.Echo/Unary", wrapperspb.Bytes(nil), answer, grpc.UseCompressor(gzip.Name))
	if found := testbench.FindSecret(answer.Value, canary); len(found) > 0 || err == nil && len(answer.Value) == 0 {
		t.Errorf("got %.100q (%v) with the value as %v, want none", answer.Value, err, found)
	}
	if err != nil && strings.Contains(err.Error(), base64.StdEncoding.EncodeToString([]byte(canary))) {
		t.Errorf("the error repeats the value: %v", err)
	}
}
