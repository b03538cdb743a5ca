package starpod

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"go.uber.org/zap"

	"github.com/starpod/caddy-starpod/netns"
)

// Prepare makes a command that has not started yet a client of the proxy, in the
// isolation that Tier tells. The command's Env, or this process's environment
// where Env is nil, is kept except for what Environ sets.
//
// In tier 1 the command's process begins as a helper, which is this program under
// another name and furnishes the namespace, and becomes the command when the
// proxy is ready: the calls of cmd work as they would. A command that cannot be
// executed ends with 127 if it was not found, else with 126. Its namespace is
// served until its process has ended. ExtraFiles and network sockets as standard
// files are an error, since they lead around the namespace.
func (h *Handle) Prepare(cmd *exec.Cmd) error {
	if cmd.Process != nil {
		return errors.New("preparing a command that has already started")
	}
	name, env := filepath.Base(cmd.Path), h.commandEnv(cmd.Env)
	if h.Tier.Level == 0 {
		cmd.Env = mergeEnv(env, h.Environ())
		return becomeUser(cmd, h.runAs)
	}
	cell, err := netns.Seal(cmd, netns.CellConfig{User: h.runAs, Namespace: h.Namespace, Late: true})
	if err != nil {
		return err
	}
	go func() {
		if err := h.openAndAdmit(h.closing, cell, env); err != nil && h.closing.Err() == nil {
			h.log.Error("starting a command in its namespace", zap.String("command", name), zap.Error(err))
		}
	}()
	return nil
}

// openAndAdmit waits until the command's process is there, and lets the command
// begin.
func (h *Handle) openAndAdmit(ctx context.Context, cell *netns.Cell, env []string) error {
	outlet, err := cell.Open(ctx)
	if err != nil {
		cell.Abandon()
		return err
	}
	return h.admit(ctx, cell, outlet, env)
}

// startCommand starts a command that is a client of the proxy, in the isolation that Tier
// tells. first is the helper that waits in its place already, if there is one.
func (h *Handle) startCommand(ctx context.Context, cmd *exec.Cmd, env []string, first *candidate) error {
	env = h.commandEnv(env)
	switch h.Tier.Driver {
	case driverSealed:
		return h.admit(ctx, first.cell, first.outlet, env)
	case driverVeth:
		cell, err := netns.Seal(cmd, netns.CellConfig{User: h.runAs, Namespace: h.Namespace})
		if err != nil {
			return err
		}
		if err := cell.Start(); err != nil {
			return fmt.Errorf("starting in the namespace: %w", err)
		}
		return h.openAndAdmit(ctx, cell, env)
	}
	cmd.Env = mergeEnv(env, h.Environ())
	if err := becomeUser(cmd, h.runAs); err != nil {
		return err
	}
	return cmd.Start()
}

// clientURL is where the command finds the proxy that first has a namespace for, if
// there is one.
func (h *Handle) clientURL(first *candidate) string {
	switch {
	case h.Tier.Level == 0:
		return h.proxyURL()
	case h.Tier.Driver == driverSealed && h.remote == nil:
		return "http://" + first.outlet.ProxyAddr().String()
	}
	return "http://" + h.inside.String()
}

// commandEnv is the environment that a command would have without a proxy.
func (h *Handle) commandEnv(env []string) []string {
	if env == nil {
		env = os.Environ()
	}
	if u := h.runAs; u != nil {
		env = mergeEnv(env, []string{"HOME=" + u.Home, "USER=" + u.Name, "LOGNAME=" + u.Name})
	}
	return env
}
