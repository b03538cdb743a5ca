package handler

import (
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// unmarshal reads a limits block:
//
//	limits {
//		connections       <per client> [<in all>]
//		tunnels           <per client> [<in all>]
//		requests          <per client> [<in all>]
//		codings           <per client> [<in all>]
//		minting           <number>
//		streams           <number>
//		header_size       <size>
//		client_spool      <size>
//		memory            <size>
//		handshake_timeout <duration>
//		idle_timeout      <duration>
//		blind_timeout     <duration>
//	}
func (l *Limits) unmarshal(d *caddyfile.Dispenser) error {
	if err := noArgs(d); err != nil {
		return err
	}
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		if seen[name] {
			return d.Errf("%s is given twice", name)
		}
		seen[name] = true
		if err := l.unmarshalOption(d, name); err != nil {
			return err
		}
		if err := l.Validate(); err != nil {
			return d.Err(err.Error())
		}
	}
	return nil
}

func (l *Limits) unmarshalOption(d *caddyfile.Dispenser, name string) (err error) {
	for k := range kindCount {
		if kindNames[k] == name {
			return l.of(k).unmarshal(d)
		}
	}
	switch name {
	case "minting":
		l.Minting, err = oneNumber(d)
	case "streams":
		l.Streams, err = oneNumber(d)
	case "header_size":
		l.HeaderSize, err = size(d)
	case "client_spool":
		l.ClientSpool, err = size(d)
	case "memory":
		l.Memory, err = size(d)
	case "handshake_timeout":
		l.HandshakeTimeout, err = duration(d)
	case "idle_timeout":
		l.IdleTimeout, err = duration(d)
	case "blind_timeout":
		l.BlindTimeout, err = duration(d)
	default:
		return d.Errf("unknown option %q of limits", name)
	}
	return err
}

func (l *Limit) unmarshal(d *caddyfile.Dispenser) (err error) {
	name, args := d.Val(), d.RemainingArgs()
	if len(args) == 0 || len(args) > 2 {
		return d.Errf("%s takes a number for each client and perhaps one for all together, like 4096 16384", name)
	}
	if l.PerClient, err = number(d, name, args[0]); err != nil || len(args) == 1 {
		return err
	}
	l.InAll, err = number(d, name, args[1])
	return err
}

func oneNumber(d *caddyfile.Dispenser) (int, error) {
	name := d.Val()
	var text string
	if !d.AllArgs(&text) {
		return 0, d.Errf("%s takes one number", name)
	}
	return number(d, name, text)
}

func number(d *caddyfile.Dispenser, name, text string) (int, error) {
	n, err := strconv.ParseInt(text, 10, 31)
	if err != nil || n < 1 {
		return 0, d.Errf("%s: %q is no number from 1 to 1073741823", name, text)
	}
	return int(n), nil
}

func duration(d *caddyfile.Dispenser) (caddy.Duration, error) {
	name := d.Val()
	var text string
	if !d.AllArgs(&text) {
		return 0, d.Errf("%s takes one duration, like 10s", name)
	}
	length, err := caddy.ParseDuration(text)
	if err != nil || length <= 0 {
		return 0, d.Errf("%s %q is no positive duration: write it like 10s", name, text)
	}
	return caddy.Duration(length), nil
}
