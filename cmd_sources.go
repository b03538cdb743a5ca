package starpod

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/term"

	"github.com/starpod/caddy-starpod/tokens"
)

// What may stand in the place of a value and says where it is.
const (
	fileSource    = "file:"
	commandSource = "cmd:"
)

const (
	// sourceTimeout is how long a command may take that prints a value. A password
	// manager may ask for a fingerprint meanwhile.
	sourceTimeout = 2 * time.Minute

	// sourceWait is how long what such a command has started may keep its output open.
	sourceWait = time.Second
)

// isSource reports whether the text names the place of a value.
func isSource(text string) bool {
	return strings.HasPrefix(text, fileSource) || strings.HasPrefix(text, commandSource)
}

// readSource returns the value that a source leads to, without its last line break.
// Errors never repeat what was read. A file is kept from the command that is run.
func (f *runFlags) readSource(ctx context.Context, source, dir string, log *zap.Logger) (tokens.Value, error) {
	var value string
	var err error
	if path, isFile := strings.CutPrefix(source, fileSource); isFile {
		f.sourceFiles = append(f.sourceFiles, path)
		value, err = readSecretFile(path, log)
	} else {
		value, err = runSource(ctx, strings.TrimPrefix(source, commandSource), dir)
	}
	if err != nil {
		return "", err
	}
	if value = trimLineBreak(value); value == "" {
		return "", errors.New("is empty: look at what its file or command gives")
	}
	return tokens.Value(value), nil
}

func readSecretFile(path string, log *zap.Logger) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	if info, err := file.Stat(); err == nil && othersMay(info) {
		log.Warn("others can read the secret's file; run: chmod 600 "+path, zap.String("mode", info.Mode().String()))
	}
	text, err := io.ReadAll(io.LimitReader(file, tokens.MaxTokenLen+1))
	if err != nil {
		return "", err
	}
	if len(text) > tokens.MaxTokenLen {
		return "", fmt.Errorf("%s: %w", path, errTooLong)
	}
	return string(text), nil
}

// runSource returns what a shell command prints. It gets no input, since that is the
// command's that is run, and its messages are shown on a terminal only: elsewhere
// somebody may keep them.
func runSource(ctx context.Context, line, dir string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, sourceTimeout)
	defer cancel()
	shell, flag := "/bin/sh", "-c"
	if runtime.GOOS == "windows" {
		shell, flag = "cmd", "/C"
	}
	out := new(valueBuffer)
	cmd := exec.CommandContext(ctx, shell, flag, line)
	cmd.Dir, cmd.Stdout, cmd.WaitDelay = dir, out, sourceWait
	if term.IsTerminal(int(os.Stderr.Fd())) {
		cmd.Stderr = os.Stderr
	}
	err := cmd.Run()
	switch {
	case out.tooLong:
		return "", errTooLong
	case ctx.Err() != nil:
		return "", fmt.Errorf("its command has not ended after %s: run it by itself to see what it waits for", sourceTimeout)
	case err != nil:
		return "", fmt.Errorf("its command failed: %w: run it by itself to see why", err)
	}
	return out.text.String(), nil
}

var errTooLong = fmt.Errorf("the value has more than %d bytes, which no token holds", tokens.MaxTokenLen)

// valueBuffer holds what may be a value, and no more.
type valueBuffer struct {
	text    bytes.Buffer // not embedded: its ReadFrom has no bound
	tooLong bool
}

func (b *valueBuffer) Write(text []byte) (int, error) {
	if b.text.Len()+len(text) > tokens.MaxTokenLen {
		b.tooLong = true
		return 0, errTooLong
	}
	return b.text.Write(text)
}

// askHosts is bindHosts for a user who can be asked.
func askHosts(name string, named []string) ([]string, error) {
	hosts, err := bindHosts(name, named)
	if !errors.Is(err, errNoHosts) || !term.IsTerminal(int(os.Stdin.Fd())) || !term.IsTerminal(int(os.Stderr.Fd())) {
		return hosts, err
	}
	fmt.Fprintf(os.Stderr, "Which hosts may receive %s? (like api.example.com,*.example.org; * for any): ", name)
	answer, readErr := readLine(os.Stdin)
	if answer = strings.TrimSpace(answer); readErr != nil || answer == "" {
		return nil, err
	}
	return bindHosts(name, splitList(answer))
}

// readLine reads no further than the line goes: what follows is the command's.
func readLine(in io.Reader) (string, error) {
	var line []byte
	for letter := make([]byte, 1); ; {
		if _, err := io.ReadFull(in, letter); err != nil {
			return "", err
		}
		if letter[0] == '\n' {
			return string(line), nil
		}
		line = append(line, letter[0])
	}
}
