package starpod

import (
	"fmt"
	"runtime"
)

// Drivers of isolation, as `isolation` and --isolation name them.
const (
	driverSealed = "sealed"
	driverVeth   = "veth"
	driverEnv    = "env"
)

// Tier is how strongly clients are kept from going around the proxy.
type Tier struct {
	Level  int    `json:"level"`  // 1: the kernel enforces it; 0: environment variables ask for it
	Driver string `json:"driver"` // sealed, veth or env
	Line   string `json:"line"`   // what the log says of it
}

// chooseTier judges what an isolation setting comes to on this machine.
func chooseTier(isolation string) (Tier, error) {
	switch isolation {
	case "", "auto":
		return envTier(envReason()), nil
	case driverEnv:
		return envTier("isolation env"), nil
	case driverVeth, driverSealed:
		return Tier{}, fmt.Errorf("isolation %s is not available in this version: use auto or env", isolation)
	}
	return Tier{}, fmt.Errorf("%q is no isolation: choose auto or env", isolation)
}

// namespaceTier is what a driver comes to that works.
func namespaceTier(driver string) Tier {
	return Tier{Level: 1, Driver: driver, Line: "proxy: network namespace isolation (linux/netns)"}
}

func envTier(reason string) Tier {
	return Tier{Driver: driverEnv, Line: "proxy: env var mode (" + reason + ")"}
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
