package testbench

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"
)

const (
	browserPatience = 30 * time.Second // for one command
	awaitLimit      = 20 * time.Second // for something to become true
)

// Page is a page in a Chromium without a window, driven by the DevTools protocol
// (https://chromedevtools.github.io/devtools-protocol/) over pipes: no port is
// opened.
type Page struct {
	tb testing.TB
	*browser
}

type browser struct {
	in      *os.File // commands, each ended by a zero byte
	session string

	mu      sync.Mutex
	next    int
	answers map[int]chan browserMessage
	errors  []string
}

type browserMessage struct {
	ID     int             `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
	Result json.RawMessage `json:"result"`
	Error  *struct {
		Message string `json:"message"`
	} `json:"error"`
}

// OpenPage starts a Chromium that ends with the test, and opens a page in it.
func OpenPage(tb testing.TB, url string) *Page {
	tb.Helper()
	p := &Page{tb, &browser{answers: map[int]chan browserMessage{}}}
	p.start()
	var target struct{ TargetID, SessionID string }
	p.Command("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	p.Command("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &target)
	p.session = target.SessionID
	for _, domain := range []string{"Page", "Runtime", "Log"} {
		p.Command(domain+".enable", nil, nil)
	}
	p.Go(url)
	return p
}

// For returns the same page for a test in the one that opened it.
func (p *Page) For(tb testing.TB) *Page { return &Page{tb, p.browser} }

func (p *Page) start() {
	p.tb.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		p.tb.Fatal("no chromium: run scripts/test-deps.sh")
	}
	theirIn, in, err := os.Pipe()
	out, theirOut, outErr := os.Pipe()
	if err := errors.Join(err, outErr); err != nil {
		p.tb.Fatal(err)
	}
	p.in = in
	args := []string{
		"--headless", "--remote-debugging-pipe", "--user-data-dir=" + p.tb.TempDir(), "--no-first-run", "--disable-gpu",
		"--disable-background-networking", "--disable-component-update", "--disable-extensions", "--disable-dev-shm-usage", "--hide-scrollbars",
	}
	if os.Getuid() == 0 {
		args = append(args, "--no-sandbox") // it has none for root
	}
	cmd := exec.Command(path, append(args, "about:blank")...)
	cmd.ExtraFiles = []*os.File{theirIn, theirOut} // 3 and 4, as it wants them
	if err := cmd.Start(); err != nil {
		p.tb.Fatalf("starting Chromium: %v", err)
	}
	theirIn.Close()
	theirOut.Close()
	read := make(chan struct{})
	go func() {
		defer close(read)
		p.read(out)
	}()
	p.tb.Cleanup(func() {
		p.session = ""
		p.Command("Browser.close", nil, nil)
		in.Close()
		timer := time.AfterFunc(browserPatience, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
		_ = cmd.Wait()
		<-read
		out.Close()
	})
}

// read takes answers and events until the browser ends.
func (p *Page) read(out *os.File) {
	messages := bufio.NewReader(out)
	for {
		text, err := messages.ReadBytes(0)
		if err != nil {
			return
		}
		var m browserMessage
		if json.Unmarshal(text[:len(text)-1], &m) != nil {
			continue
		}
		p.mu.Lock()
		if answer := p.answers[m.ID]; answer != nil {
			delete(p.answers, m.ID)
			answer <- m
		} else if text := errorOf(m); text != "" {
			p.errors = append(p.errors, text)
		}
		p.mu.Unlock()
	}
}

// errorOf returns what of an event a console would show as an error.
func errorOf(m browserMessage) string {
	var params struct {
		Type  string `json:"type"`
		Entry struct{ Level, Text string }
	}
	_ = json.Unmarshal(m.Params, &params)
	switch {
	case m.Method == "Runtime.exceptionThrown",
		m.Method == "Runtime.consoleAPICalled" && params.Type == "error",
		m.Method == "Log.entryAdded" && params.Entry.Level == "error":
		return string(m.Params)
	}
	return ""
}

// Command sends a command of the protocol and waits for its result.
func (p *Page) Command(method string, params, result any) {
	p.tb.Helper()
	if params == nil {
		params = map[string]any{}
	}
	answer := make(chan browserMessage, 1)
	p.mu.Lock()
	p.next++
	id := p.next
	p.answers[id] = answer
	p.mu.Unlock()
	message := map[string]any{"id": id, "method": method, "params": params}
	if p.session != "" {
		message["sessionId"] = p.session
	}
	text, err := json.Marshal(message)
	if err != nil {
		p.tb.Fatal(err)
	}
	if _, err := p.in.Write(append(text, 0)); err != nil {
		p.tb.Fatalf("%s: %v", method, err)
	}
	select {
	case m := <-answer:
		if m.Error != nil {
			p.tb.Fatalf("%s: %s", method, m.Error.Message)
		}
		if result != nil {
			if err := json.Unmarshal(m.Result, result); err != nil {
				p.tb.Fatalf("%s: %v", method, err)
			}
		}
	case <-time.After(browserPatience):
		p.tb.Fatalf("%s: no answer from the browser", method)
	}
}

// Go leads the page to another address.
func (p *Page) Go(url string) {
	p.tb.Helper()
	var result struct{ ErrorText string }
	p.Command("Page.navigate", map[string]any{"url": url}, &result)
	if result.ErrorText != "" {
		p.tb.Fatalf("opening %s: %s", url, result.ErrorText)
	}
}

// Eval runs a JavaScript expression, waits for it if it is a promise, and decodes
// what it comes to into result, which may be nil.
func (p *Page) Eval(expression string, result any) error {
	p.tb.Helper()
	var answer struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails json.RawMessage
	}
	p.Command("Runtime.evaluate", map[string]any{"expression": expression, "awaitPromise": true, "returnByValue": true}, &answer)
	if answer.ExceptionDetails != nil {
		return fmt.Errorf("evaluating %s: %s", expression, answer.ExceptionDetails)
	}
	if result == nil || answer.Result.Value == nil {
		return nil
	}
	return json.Unmarshal(answer.Result.Value, result)
}

// AwaitTrue waits until an expression is true.
func (p *Page) AwaitTrue(expression string) {
	p.tb.Helper()
	var ok bool
	// The page looks by itself: asking it again and again would keep it from its work.
	err := p.Eval(fmt.Sprintf(`new Promise(done => {
		const end = Date.now() + %d;
		(function look() {
			let ok = false;
			try { ok = Boolean(%s) } catch {}
			ok || Date.now() > end ? done(ok) : setTimeout(look, 20);
		})();
	})`, awaitLimit.Milliseconds(), expression), &ok)
	if err == nil && ok {
		return
	}
	var text string
	_ = p.Eval("document.body && document.body.innerText.slice(0, 2000)", &text)
	p.tb.Fatalf("%s is not true (%v); the page says:\n%s", expression, err, text)
}

// Press presses a key, Tab or Enter.
func (p *Page) Press(key string) {
	p.tb.Helper()
	code := map[string]int{"Tab": 9, "Enter": 13}[key]
	text := map[string]string{"Enter": "\r"}[key]
	for _, kind := range []string{"keyDown", "keyUp"} {
		p.Command("Input.dispatchKeyEvent", map[string]any{"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text}, nil)
	}
}

// Look sets the width of the window, and whether its user likes it dark.
func (p *Page) Look(width int, dark bool) {
	p.tb.Helper()
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	p.Command("Emulation.setEmulatedMedia", map[string]any{"features": []any{map[string]any{"name": "prefers-color-scheme", "value": scheme}}}, nil)
	p.Command("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}, nil)
}

// Screenshot writes a picture of the whole page as PNG.
func (p *Page) Screenshot(file string) {
	p.tb.Helper()
	var picture struct{ Data string }
	p.Command("Page.captureScreenshot", map[string]any{"captureBeyondViewport": true}, &picture)
	data, err := base64.StdEncoding.DecodeString(picture.Data)
	if err == nil {
		err = os.WriteFile(file, data, 0o644)
	}
	if err != nil {
		p.tb.Fatal(err)
	}
}

// Errors returns what the console has shown as errors since the last call.
func (p *Page) Errors() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	errors := p.errors
	p.errors = nil
	return errors
}
