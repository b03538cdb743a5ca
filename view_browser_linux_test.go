package starpod

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zapcore"

	"github.com/starpod/caddy-starpod/handler"
	"github.com/starpod/caddy-starpod/internal/testbench"
)

var pictures = flag.String("pictures", "", "write pictures of the live view into this `folder`")

// hostile is a name, and a path, that would do something if it ever were markup.
const hostile = `<img src=x onerror=document.title='owned'><script>document.title='owned'</script>`

// freshHub forgets what other tests have done.
func freshHub(t *testing.T) {
	t.Helper()
	before := records
	records = newHub()
	t.Cleanup(func() { records = before })
}

// withView adds a site that has nothing but the view.
func withView(port int) siteLines {
	return siteLines{lines: fmt.Sprintf("respond ordinary 404\n}\nhttp://:%d {\n bind 127.0.0.1\n starpod_view", port)}
}

// viewed is the live view in a browser.
type viewed struct {
	*testbench.Page
	t *testing.T
}

func (p viewed) run(name string, f func(viewed)) {
	p.t.Helper()
	p.t.Run(name, func(t *testing.T) { f(viewed{p.For(t), t}) })
}

// noErrors looks at the console.
func (p viewed) noErrors() {
	p.t.Helper()
	if errs := p.Errors(); len(errs) > 0 {
		p.t.Errorf("the console has %d errors, want none: %s", len(errs), strings.Join(errs, "\n"))
	}
}

// holdsNothingSecret reads all that the page is made of.
func (p viewed) holdsNothingSecret() {
	p.t.Helper()
	var text string
	if err := p.Eval("document.documentElement.outerHTML + JSON.stringify(uses)", &text); err != nil {
		p.t.Fatal(err)
	}
	if found := testbench.FindSecret([]byte(text), canary); len(found) > 0 || strings.Contains(text, "starpod:v1") {
		p.t.Errorf("the page holds the value (%v) or a token", found)
	}
}

// picture writes what the page looks like, if pictures are wanted.
func (p viewed) picture(name string) {
	p.t.Helper()
	if *pictures != "" {
		p.Screenshot(filepath.Join(*pictures, name+".png"))
	}
}

// is fails the test where an expression does not come to want.
func (p viewed) is(expression, want string) {
	p.t.Helper()
	var got string
	if err := p.Eval("String("+expression+")", &got); err != nil {
		p.t.Fatal(err)
	}
	if got != want {
		p.t.Errorf("%s: got %q, want %q", expression, got, want)
	}
}

// TestView looks at the view in a real browser.
func TestView(t *testing.T) {
	p := viewed{testbench.OpenPage(t, "about:blank"), t}
	p.run("on a site", viewed.onSite)
	p.run("by the command", viewed.byCommand)
}

// onSite follows real requests.
func (p viewed) onSite() {
	t := p.t
	freshHub(t)
	port := testbench.FreePort(t)
	s := startSite(t, withView(port))
	p.Go(fmt.Sprintf("http://127.0.0.1:%d/", port))
	p.AwaitTrue(`!$("empty").hidden && $("state").dataset.state === "live" && $("facts").childElementCount > 0`)
	p.picture("nothing")
	p.traffic(s)
	p.holdsNothingSecret()
	p.looks()
	p.run("filters", viewed.filters)
	p.run("keyboard", viewed.keyboard)
	p.run("copy", viewed.copy)
	p.run("pause", func(p viewed) { p.pause(s) })
	p.run("reload", func(p viewed) {
		for range 3 {
			s.load(withView(port))
		}
		s.get(s.client(), "http://10.1.2.4/after")
		p.AwaitTrue(`$("list").innerText.includes("10.1.2.4/after")`)
		p.is(`[...$("list").children].filter(li => li.innerText.includes("10.1.2.3")).length`, "1")
	})
	p.run("a namespace that is lost", viewed.lostNamespace)
	p.run("ten thousand", viewed.many)
	p.noErrors()
	p.Go("about:blank") // before the site ends
}

// traffic is a request of each kind.
func (p viewed) traffic(s *site) {
	p.t.Helper()
	s.up.Handle("/repos/starpod/issues", testbench.EchoHead)
	client := s.client()
	for range 12 {
		s.get(client, s.target("/repos/starpod/issues"), "X-Key", s.named("DEPLOY_KEY", "127.0.0.1"))
	}
	s.get(client, fmt.Sprintf("http://127.0.0.1:%d/user", s.up.PlainPort()), "X-Key", s.named("DEPLOY_KEY", "elsewhere.test"), "X-Other", s.token("127.0.0.1"))
	s.get(client, s.target("/"+strings.ReplaceAll(hostile, " ", "+")), "X-Key", s.named(hostile, "127.0.0.1"))
	s.get(client, "http://10.1.2.3/admin")
	p.AwaitTrue(`$("list").childElementCount === 15 && $("mend-list").childElementCount === 1`)

	p.is(`document.title + document.querySelectorAll("img, main script, iframe").length`, "Starpod0")
	p.is(`[...$("matrix").tHead.querySelectorAll("th")].some(th => th.textContent === `+fmt.Sprintf("%q", hostile)+`)`, "true")
	p.is(`$("matrix").tBodies[0].rows[0].cells[1].textContent`, "12")
	p.is(`$("mend-list").querySelector(".mend code").textContent`, "allow 10.1.2.3:80")
	p.is(`$("list").firstElementChild.querySelector(".badge").textContent`, "refused")
	p.is(`$("list").lastElementChild.innerText.includes("masked in the answer: once")`, "true")
	p.AwaitTrue(`$("counts").innerText.includes("14")`)
	p.AwaitTrue(`$("legend").textContent === "13 replaced · 1 stripped · 1 refused"`)
}

// looks sees that nothing sticks out on any screen.
func (p viewed) looks() {
	p.t.Helper()
	for _, look := range []struct {
		name  string
		width int
		dark  bool
	}{{"light", 1200, false}, {"dark", 1200, true}, {"phone", 360, false}, {"phone-dark", 360, true}} {
		p.Look(look.width, look.dark)
		p.is(`document.documentElement.scrollWidth <= innerWidth`, "true")
		p.picture(look.name)
	}
	p.Look(1200, false)
}

func (p viewed) lostNamespace() {
	records.publish(handler.Record{Time: time.Now(), Kind: handler.KindNamespaceLost, Level: zapcore.ErrorLevel, Namespace: "starpod-ns", Reason: "no interface", Mend: mendNamespace})
	p.AwaitTrue(`$("list").firstElementChild.innerText.includes("namespace starpod-ns")`)
	var banner string
	err := p.Eval(`fetch("status").then(a => a.json()).then(s => {
		showStatus({...s, namespace: {name: "starpod-ns", path: "/run/x", lost: "no interface"}});
		return $("namespace-lost").checkVisibility() + " " + $("namespace-lost").textContent;
	})`, &banner)
	if want := "true The namespace starpod-ns is lost: no interface. "; err != nil || !strings.HasPrefix(banner, want) {
		p.t.Errorf("got %q, %v, want %q and what to do", banner, err, want)
	}
}

func (p viewed) filters() {
	for _, test := range []struct{ do, count string }{
		{`[...$("groups").children].find(b => b.textContent === "stripped").click()`, "1"},
		{`[...$("groups").children].find(b => b.textContent === "refused").click()`, "1"},
		{`[...$("groups").children].find(b => b.textContent === "masked").click()`, "12"},
		{`[...$("groups").children].find(b => b.textContent === "all").click()`, "15"},
		{`$("search").value = "REPOS"; $("search").dispatchEvent(new Event("input"))`, "12"},
		{`$("search").value = "no such thing"; $("search").dispatchEvent(new Event("input"))`, "0"},
		{`$("search").value = ""; $("search").dispatchEvent(new Event("input"))`, "15"},
		{`$("matrix").tBodies[0].rows[0].cells[1].firstChild.click()`, "12"},
		{`$("chosen").click()`, "15"},
	} {
		p.is(`(() => { `+test.do+`; return $("list").childElementCount })()`, test.count)
	}
	p.is(`$("chosen").hidden`, "true")
}

// copy takes the very line that would allow what was refused.
func (p viewed) copy() {
	if err := p.Eval(`navigator.clipboard.writeText = async (text) => { window.copied = text }`, nil); err != nil {
		p.t.Fatal(err)
	}
	p.is(`$("mend-list").querySelector("button").click() || window.copied`, "allow 10.1.2.3:80")
	p.AwaitTrue(`$("mend-list").querySelector("button").textContent === "Copied" && $("copied").textContent === "Copied"`)
}

// pause leaves the list alone until it goes on.
func (p viewed) pause(s *site) {
	p.is(`$("pause").click() || $("pause").getAttribute("aria-pressed")`, "true")
	s.get(s.client(), "http://10.1.2.5/paused")
	p.AwaitTrue(`$("pause").textContent === "Go on (1 new)"`)
	p.is(`$("list").innerText.includes("/paused")`, "false")
	p.is(`$("pause").click() || $("list").innerText.includes("/paused")`, "true")
}

// keyboard presses Tab until all that can be clicked has had the focus.
func (p viewed) keyboard() {
	if err := p.Eval(`$("search").blur(), scrollTo(0, 0), getSelection().collapse(document.body, 0), window.reached = new Set()`, nil); err != nil {
		p.t.Fatal(err)
	}
	all := `[...document.querySelectorAll("a, button, input, select, [tabindex='0']")].filter(e => e.checkVisibility())`
	for range 60 {
		p.Press("Tab")
		if err := p.Eval(`reached.add(document.activeElement)`, nil); err != nil {
			p.t.Fatal(err)
		}
	}
	p.is(all+`.filter(e => !reached.has(e)).map(e => e.outerHTML).join()`, "")
	if err := p.Eval(`$("matrix").tBodies[0].rows[0].cells[1].firstChild.focus()`, nil); err != nil {
		p.t.Fatal(err)
	}
	p.Press("Enter")
	p.AwaitTrue(`$("list").childElementCount === 12 && document.activeElement === $("chosen")`)
	p.Press("Enter")
	p.AwaitTrue(`$("list").childElementCount === 15`)
}

// many sends what a flood of requests to ever other hosts would.
func (p viewed) many() {
	const all, batch = 10_000, 500
	before := time.Now()
	for i := range all {
		tokens := []handler.TokenRecord{{ID: fmt.Sprintf("%08x", i), Place: "header", Action: "strip", Reason: "host"}}
		records.publish(handler.Record{
			Time: time.Now(), Kind: handler.KindTokens, Method: "GET", Destination: fmt.Sprintf("https://h%d.test", i), Path: fmt.Sprintf("/n%d", i), Tokens: tokens,
		})
		if i%batch == batch-1 {
			p.AwaitTrue(fmt.Sprintf(`uses.at(-1).r.path === "/n%d"`, i))
		}
	}
	p.AwaitTrue(fmt.Sprintf(`$("list").firstElementChild.innerText.includes("/n%d")`, all-1))
	took := time.Since(before)
	p.is(`uses.length <= KEPT + 200 && $("list").childElementCount === SHOWN && destinations.size <= DESTINATIONS && secrets.size <= SECRETS`, "true")
	p.is(`document.querySelectorAll("*").length < 5000`, "true")
	p.is(`$("matrix").tBodies[0].rows[0].cells[1].textContent`, "12") // what has had a value stays
	p.is(`$("missed").hidden`, "true")
	var frame float64
	if err := p.Eval(`new Promise(done => { const start = performance.now(); refilter(); showMatrix(); showTimeline(); setTimeout(() => done(performance.now() - start)) })`, &frame); err != nil {
		p.t.Fatal(err)
	}
	p.t.Logf("the page took %v for %d, and %.0f ms to show all of it anew", took, all, frame)
	if frame > 1000 {
		p.t.Errorf("all of the page anew took %.0f ms, want at most 1000", frame)
	}
}

// byCommand leads the browser through `caddy starpod view`, whose proxy goes and
// comes back.
func (p viewed) byCommand() {
	t := p.t
	s := newSite(t)
	port := testbench.FreePort(t)
	config := writeFile(t, "Caddyfile", s.caddyfile(withView(port)))
	stop := s.serveApart(config)
	cmd := typed{args: []string{"view", "--address", fmt.Sprintf("localhost:%d", s.admin)}}.prepare(t)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		t.Fatalf("the command says nothing: %v", lines.Err())
	}
	address, err := url.Parse(lines.Text())
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/", "/status", "/events", "/starpod/", address.Path + "config/"} {
		if response, _ := s.get(http.DefaultClient, "http://"+address.Host+path); response.StatusCode != http.StatusNotFound {
			t.Errorf("%s: got %d, want 404 for who does not know the path", path, response.StatusCode)
		}
	}
	p.Go(lines.Text())
	p.AwaitTrue(`$("state").dataset.state === "live"`)
	s.get(s.client(), "http://10.1.2.3/first")
	p.AwaitTrue(`$("list").innerText.includes("10.1.2.3/first")`)
	p.noErrors()
	s.endsWhileWatched(port)
	stop()
	p.AwaitTrue(`$("state").dataset.state === "lost" && !$("stream-lost").hidden`)
	p.picture("lost")
	s.serveApart(config)
	p.AwaitTrue(`$("state").dataset.state === "live" && $("stream-lost").hidden`)
	s.get(s.client(), "http://10.1.2.4/second")
	p.AwaitTrue(`$("list").innerText.includes("10.1.2.4/second")`)
	p.is(`$("list").childElementCount`, "2")
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("interrupted: got %v, want status 0", err)
	}
}

// endsWhileWatched ends Caddy as its users do, which a stream of the view does not
// hold up.
func (s *site) endsWhileWatched(port int) {
	s.t.Helper()
	client := &http.Client{Timeout: 10 * time.Second}
	watching, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/events", port))
	if err != nil {
		s.t.Fatal(err)
	}
	defer watching.Body.Close()
	stop := exec.Command(self(s.t), "stop", "--address", fmt.Sprintf("localhost:%d", s.admin))
	stop.Env = home(s.t)
	if out, err := stop.CombinedOutput(); err != nil {
		s.t.Fatalf("stopping: %v\n%s", err, out)
	}
	if _, err := io.Copy(io.Discard, watching.Body); err != nil {
		s.t.Errorf("the stream of the view: got %v, want its end", err)
	}
}
