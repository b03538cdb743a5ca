package starpod

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"github.com/starpod/caddy-starpod/netns"
)

// trialDrivers are the ways to run a program that are tried, the weakest first.
var trialDrivers = []string{driverEnv, driverSealed, driverVeth}

// checkIsolation makes the same request in each isolation that this machine can
// have, and tells which tier that comes to.
func (d *doctor) checkIsolation(ctx context.Context) []finding {
	results := make([]driverResult, len(trialDrivers))
	var all sync.WaitGroup
	for i, driver := range trialDrivers {
		all.Go(func() { results[i] = tryDriver(ctx, driver) })
	}
	all.Wait()
	var found []finding
	works := map[string]bool{}
	for i, driver := range trialDrivers {
		found = append(found, results[i].findings(driver)...)
		works[driver] = results[i].err == nil && results[i].failed == nil
	}
	return append(found, d.tierFinding(works))
}

// driverResult is how the request went.
type driverResult struct {
	err     error // why there is no such isolation
	failed  error // why the request could not be made in it
	outcome *demoResult
}

func tryDriver(ctx context.Context, driver string) driverResult {
	if driver == driverVeth {
		// Making one would remove what others have left, and doctor changes nothing.
		if there, err := netns.Survey(netns.VethConfig{}); err == nil && len(there.Dead) > 0 {
			return driverResult{err: &netns.Unavailable{Reason: "not tried beside what a killed proxy has left", Mend: "see the leftovers"}}
		}
	}
	t, err := startTrial(ctx, Config{Isolation: driver, leaveOthers: true})
	if err != nil && ctx.Err() != nil {
		return driverResult{failed: ctx.Err()}
	}
	if err != nil {
		return driverResult{err: err}
	}
	defer t.close(ctx)
	program, err := demoClient(ctx)
	if err != nil {
		return driverResult{failed: err}
	}
	outcome, err := t.run(program, demoDirect+"="+t.lookout.listener.Addr().String())
	if err != nil && ctx.Err() != nil {
		err = ctx.Err() // what ended the program
	}
	return driverResult{outcome: outcome, failed: err}
}

// findings tells it. Without an isolation of this kind there is another; without
// a proxy there is nothing.
func (r driverResult) findings(driver string) []finding {
	const distrust = "give this build no secret; build it again (make build), and report what `caddy starpod demo` shows"
	switch {
	case r.err != nil && driver == driverEnv:
		return []finding{broken("a request through a proxy", r.err.Error(), "see that "+tempFolderName()+" can be written to and 127.0.0.1 be listened on")}
	case r.err != nil:
		reason, mend := r.err.Error(), ""
		if u := (*netns.Unavailable)(nil); errors.As(r.err, &u) {
			reason, mend = u.Reason, u.Mend
		}
		return []finding{absent(driver, "not on this machine: "+reason, mend)}
	case errors.Is(r.failed, context.DeadlineExceeded):
		return []finding{broken(driver, "the request was not answered within "+doctorTimeout.String(), "try again when this machine is less busy")}
	case r.failed != nil:
		return []finding{broken(driver, "the request failed: "+r.failed.Error(), distrust)}
	}
	o := r.outcome
	found := []finding{
		judge(o.swapped(), driver, "the host of a token receives the value", "the host of a token did not receive the value", distrust),
		judge(o.stripped(), driver, "another host receives nothing", "another host received the token, the value, or no request", distrust),
		judge(o.held() && o.masked(), driver, "the program sees the token, and the value masked in the answer", "the program saw the value", distrust),
	}
	if driver != driverEnv {
		found = append(found, judge(!o.direct, driver, "a program does not get around the proxy",
			"a program got around the proxy", "use no --isolation "+driver+" on this machine, and report it"))
	}
	return found
}

func judge(isGood bool, subject, well, ill, mend string) finding {
	if isGood {
		return good(subject, well)
	}
	return broken(subject, ill, mend)
}

// tierFinding says what commands and the configuration get.
func (d *doctor) tierFinding(works map[string]bool) finding {
	serves := d.servesNamespace()
	switch {
	case d.plan.app.Isolation == driverVeth && !works[driverVeth]:
		return broken("tier", "the configuration says `isolation veth`, which cannot be had", "see veth above, or write `isolation auto`")
	case serves && !works[driverVeth]:
		return doubtful("tier", "the configuration serves a namespace, which cannot be had: its programs go around the proxy", "see veth above")
	case works[driverSealed]:
		return good("tier", "commands of `caddy starpod run` are sealed (tier 1)")
	case works[driverVeth]:
		return good("tier", "commands of `caddy starpod run` share a namespace (tier 1, veth)")
	case runtime.GOOS == "linux":
		return doubtful("tier", "a program that ignores proxy variables goes around the proxy (tier 0)", "make sealed or veth possible, as said above")
	}
	return absent("tier", fmt.Sprintf("there are no network namespaces on %s: a program that ignores proxy variables goes around the proxy (tier 0)", runtime.GOOS), "")
}

func tempFolderName() string {
	if runtime.GOOS == "windows" {
		return "%TEMP%"
	}
	return "$TMPDIR or /tmp"
}
