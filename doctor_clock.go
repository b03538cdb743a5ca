package starpod

import (
	"context"
	"os"
	"runtime"
	"time"
)

// clockSlack is what clocks may differ by without harm: certificates are valid
// from an hour before they are made.
const clockSlack = time.Hour

// oldBuild is so long after the making of this program that the clock is more
// likely wrong than the program that old.
const oldBuild = 20 * 365 * 24 * time.Hour

// checkClock compares the clock with what happened before now.
func (d *doctor) checkClock(context.Context) []finding {
	now := d.now()
	for _, past := range d.pastEvents() {
		if past.at.After(now.Add(clockSlack)) {
			return []finding{broken("", "the clock says "+clockTime(now)+", but "+past.what+" at "+clockTime(past.at), clockMend())}
		}
	}
	if !d.built.IsZero() && now.Sub(d.built) > oldBuild {
		return []finding{broken("", "the clock says "+clockTime(now)+", decades after this program was made ("+clockTime(d.built)+")", clockMend())}
	}
	return []finding{good("", clockTime(now)+" is later than all that is known to have happened")}
}

type pastEvent struct {
	what string
	at   time.Time
}

func (d *doctor) pastEvents() []pastEvent {
	var past []pastEvent
	if !d.built.IsZero() {
		past = append(past, pastEvent{"this program's source was written", d.built})
	}
	for _, root := range d.authorityRoots() {
		past = append(past, pastEvent{"the authority was made", root.NotBefore})
	}
	folders := []string{d.tempDir, d.plan.dir}
	if self, err := os.Executable(); err == nil {
		folders = append(folders, self)
	}
	for _, path := range folders {
		if info, err := os.Stat(path); err == nil {
			past = append(past, pastEvent{path + " was last changed", info.ModTime()})
		}
	}
	return past
}

func clockTime(at time.Time) string { return at.UTC().Format("2006-01-02 15:04 UTC") }

func clockMend() string {
	switch runtime.GOOS {
	case "windows":
		return "set the clock: w32tm /resync"
	case "darwin":
		return "set the clock: sudo sntp -sS time.apple.com"
	case "linux":
		return "set the clock: sudo timedatectl set-ntp true"
	}
	return "set the clock: sudo ntpdate pool.ntp.org"
}
