package starpod

import "fmt"

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

// checkServerIsolation reports settings that a server cannot have.
func checkServerIsolation(isolation string) error {
	switch isolation {
	case "", "auto", driverVeth, driverSealed, driverEnv:
		return nil
	}
	return fmt.Errorf("%q is no isolation: choose auto, veth, sealed or env", isolation)
}

// namespaceTier is what a driver comes to that works.
func namespaceTier(driver string) Tier {
	return Tier{Level: 1, Driver: driver, Line: "proxy: network namespace isolation (linux/netns)"}
}

func envTier(reason string) Tier {
	return Tier{Driver: driverEnv, Line: "proxy: env var mode (" + reason + ")"}
}
