package starpod

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

func viewCommand() *cobra.Command {
	var admin adminFlags
	var listen string
	cmd := &cobra.Command{
		Use:   "view",
		Short: "Shows a running proxy in the browser, as it works",
		Long: `
Serves a page for the browser that shows what a running Caddy does with secrets:
which went where, when and how often, what was stripped, refused or masked, and
what to do about a refusal. It lasts until it is interrupted.

The page comes from an address that nobody can guess, on loopback, since Caddy's
admin API lets no browser in that comes by typing its address. None of what it
shows is secret. To have it on a site, behind an authentication of yours, there is
the directive starpod_view.`,
		Example: `  caddy starpod view
  caddy starpod view --listen 127.0.0.1:8090
  ssh -L 8090:127.0.0.1:8090 server caddy starpod view --listen 127.0.0.1:8090`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			if _, err := admin.status(); err != nil {
				return err
			}
			return serveView(ctx, &admin, listen, cmd.OutOrStdout())
		},
	}
	admin.register(cmd.Flags())
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:0", "`ADDRESS` of the page; port 0 is any that is free")
	return cmd
}

// serveView serves the page until ctx ends, and prints where it is.
func serveView(ctx context.Context, admin *adminFlags, listen string, out io.Writer) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", listen)
	if err != nil {
		return fmt.Errorf("listening: %w; choose another address with --listen", err)
	}
	v := &relay{admin: admin, path: "/" + rand.Text() + "/"}
	server := &http.Server{
		Handler: v, ReadHeaderTimeout: 10 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx }, // ends the streams
	}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if _, err := fmt.Fprintf(out, "http://%s%s\n", listener.Addr(), v.path); err != nil {
		return errors.Join(err, listener.Close())
	}
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// relay serves the page, and below it what the admin API says. Other users of the
// machine, and pages of other sites, do not know its path.
type relay struct {
	admin *adminFlags
	path  string
}

// ServeHTTP implements http.Handler.
func (v *relay) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, ours := strings.CutPrefix(r.URL.Path, v.path)
	switch {
	case !ours:
		http.NotFound(w, r)
	case r.Method != http.MethodGet:
		w.Header().Set("Allow", http.MethodGet)
		http.Error(w, "only GET", http.StatusMethodNotAllowed)
	case name == "":
		writePage(w)
	case name == "status":
		v.status(w)
	case name == "events":
		v.events(w, r)
	default:
		http.NotFound(w, r)
	}
}

func (v *relay) status(w http.ResponseWriter) {
	status, err := v.admin.status()
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = printJSON(w, status)
}

func (v *relay) events(w http.ResponseWriter, r *http.Request) {
	replay, _ := strconv.ParseUint(r.URL.Query().Get("replay"), 10, 16)
	stream, err := v.admin.events(r.Header.Get("Last-Event-ID"), uint(replay))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer stream.Close()
	defer context.AfterFunc(r.Context(), func() { _ = stream.Close() })()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = io.Copy(flushed{w, http.NewResponseController(w)}, stream)
}
