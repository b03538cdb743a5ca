package starpod

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/starpod/caddy-starpod/handler"
)

func watchCommand() *cobra.Command {
	var admin adminFlags
	var asJSON bool
	var replay uint
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Shows what a running proxy does with tokens, as it happens",
		Long: `
Follows the audit log of a running Caddy through its admin API: requests with
tokens and what became of those, refusals with what would mend them, and a
namespace that is lost. It goes on when Caddy reloads its configuration or is
restarted. None of what it shows is secret; tokens are shown by their ids.`,
		Example: `  caddy starpod watch
  caddy starpod watch --replay 20
  caddy starpod watch --json | jq 'select(.kind == "refused")'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// Whoever reads the output may leave: that is no error.
			signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			show := showLines(cmd.OutOrStdout(), isTerminal(cmd.OutOrStdout()))
			if asJSON {
				show = func(r handler.Record) error { return printJSONLine(cmd.OutOrStdout(), r) }
			}
			w := &watcher{admin: &admin, replay: replay, show: show, notes: cmd.ErrOrStderr(), pause: time.Second}
			ended := make(chan error, 1)
			go func() { ended <- w.run(ctx) }()
			select {
			case err := <-ended:
				return err
			case <-ctx.Done(): // a server that does not answer holds up nobody
				return nil
			}
		},
	}
	admin.register(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, one record a line")
	cmd.Flags().UintVar(&replay, "replay", 0, "begin with the last `N` records; the proxy keeps 1000")
	return cmd
}

// watcher follows the stream of a proxy from one connection to the next.
type watcher struct {
	admin  *adminFlags
	replay uint
	show   func(handler.Record) error
	notes  io.Writer
	pause  time.Duration // before it connects again
	last   string        // ID of the last record
}

// errShowing is that nobody reads what is shown.
var errShowing = errors.New("showing a record")

// run returns an error where there is no proxy to begin with.
func (w *watcher) run(ctx context.Context) error {
	lost := false
	for connected := false; ; {
		stream, err := w.admin.events(w.last, w.replay)
		switch {
		case err != nil && !connected:
			return err
		case err == nil:
			if lost {
				fmt.Fprintln(w.notes, "connected again")
			}
			connected, lost = true, false
			err = w.follow(ctx, stream)
		}
		if ctx.Err() != nil || errors.Is(err, errShowing) {
			return nil
		}
		if !lost {
			fmt.Fprintln(w.notes, "the proxy has gone; waiting for it to come back")
			lost = true
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(w.pause):
		}
	}
}

// silence is how long a stream may say nothing, heartbeats included.
const silence = 3 * heartbeat

// follow shows the records of one connection.
func (w *watcher) follow(ctx context.Context, stream io.ReadCloser) error {
	defer context.AfterFunc(ctx, func() { _ = stream.Close() })()
	patience := time.AfterFunc(silence, func() { _ = stream.Close() })
	defer patience.Stop()
	defer stream.Close()
	return readEvents(stream, func(line eventLine) error {
		patience.Reset(silence)
		if line.id != "" {
			w.last = line.id
		}
		if line.record == nil {
			return nil
		}
		if err := w.show(line.record.Bounded()); err != nil {
			return errors.Join(errShowing, err)
		}
		return nil
	})
}

// isTerminal reports whether colours make sense.
func isTerminal(out io.Writer) bool {
	file, ok := out.(*os.File)
	return ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(file.Fd()))
}
