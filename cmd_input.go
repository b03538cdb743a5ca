package starpod

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/starpod/caddy-starpod/tokens"
)

// readValue reads a value from standard input: from a terminal as one line that
// is not shown, else to the end.
func readValue(cmd *cobra.Command, keepNewline bool) (string, error) {
	if in, ok := cmd.InOrStdin().(*os.File); ok && term.IsTerminal(int(in.Fd())) {
		return askValue(cmd, int(in.Fd()))
	}
	text, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), tokens.MaxTokenLen+1))
	if err != nil {
		return "", fmt.Errorf("reading the value from standard input: %w", err)
	}
	if len(text) > tokens.MaxTokenLen {
		return "", errTooLong
	}
	if keepNewline {
		return string(text), nil
	}
	return trimLineBreak(string(text)), nil
}

// trimLineBreak removes one line break at the end, as editors and programs leave it.
func trimLineBreak(text string) string {
	if line, found := strings.CutSuffix(text, "\n"); found {
		return strings.TrimSuffix(line, "\r")
	}
	return text
}

// askValue asks on a terminal. An interrupt ends the program, but not before the
// terminal shows again what is typed.
func askValue(cmd *cobra.Command, terminal int) (string, error) {
	state, err := term.GetState(terminal)
	if err != nil {
		return "", fmt.Errorf("preparing the terminal: %w", err)
	}
	interrupt := make(chan os.Signal, 1)
	answered := make(chan struct{})
	signal.Notify(interrupt, os.Interrupt)
	defer signal.Stop(interrupt)
	defer close(answered)
	go func() {
		select {
		case <-interrupt:
			_ = term.Restore(terminal, state)
			os.Exit(signalStatus + 2) // SIGINT
		case <-answered:
		}
	}()
	// ReadPassword hides what is typed, too, but only after the question is shown: who
	// answers in between, as a program does, would see the value.
	if err := hideTyping(terminal); err != nil {
		return "", fmt.Errorf("preparing the terminal: %w", err)
	}
	defer func() { _ = term.Restore(terminal, state) }()
	cmd.PrintErr("Value (it is not shown): ")
	text, err := term.ReadPassword(terminal)
	cmd.PrintErrln()
	if errors.Is(err, io.EOF) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading the value from the terminal: %w", err)
	}
	return string(text), nil
}
