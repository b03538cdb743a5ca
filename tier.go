package starpod

import (
	"fmt"
	"runtime"
)

// Tier is how strongly clients are kept from going around the proxy.
type Tier struct {
	Level  int    `json:"level"`  // 1: the kernel enforces it; 0: environment variables ask for it
	Driver string `json:"driver"` // env
	Line   string `json:"line"`   // what the log says of it
}

// chooseTier judges what an isolation setting comes to on this machine.
func chooseTier(isolation string) (Tier, error) {
	switch isolation {
	case "", "auto":
		return envTier(envReason()), nil
	case "env":
		return envTier("isolation env"), nil
	case "veth", "sealed":
		return Tier{}, fmt.Errorf("isolation %s is not available in this version: use auto or env", isolation)
	}
	return Tier{}, fmt.Errorf("%q is no isolation: choose auto or env", isolation)
}

func envTier(reason string) Tier {
	return Tier{Driver: "env", Line: "proxy: env var mode (" + reason + ")"}
}

// envReason says in the words of Starpod's own proxy why there is no namespace.
func envReason() string {
	if runtime.GOOS == "darwin" {
		return "netns unavailable: macos"
	}
	if runtime.GOOS == "linux" && !hasNetAdmin() {
		return "missing CAP_NET_ADMIN"
	}
	return "netns unavailable: " + runtime.GOOS
}
