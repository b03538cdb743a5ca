package handler

import (
	"fmt"

	"github.com/starpod/caddy-starpod/tokens"
)

// Place is a part of a request that tokens are looked for in.
type Place uint8

// The places.
const (
	PlaceHeader Place = iota
	PlacePath
	PlaceQuery
	PlaceBody
	PlaceBasic
	PlaceWebSocket
	placeCount
)

var placeNames = [placeCount]string{"header", "path", "query", "body", "basic", "websocket"}

// String returns the word of the Caddyfile.
func (p Place) String() string { return placeNames[p] }

// Places is a set of places.
type Places uint8

// AllPlaces is the default.
const AllPlaces Places = 1<<placeCount - 1

// Has reports whether the set holds p.
func (s Places) Has(p Place) bool { return s&(1<<p) != 0 }

// ParsePlaces reads the words of a `scan` line; none means all.
func ParsePlaces(words []string) (Places, error) {
	if len(words) == 0 {
		return AllPlaces, nil
	}
	var set Places
	for _, word := range words {
		p, err := parsePlace(word)
		if err != nil {
			return 0, err
		}
		if set.Has(p) {
			return 0, fmt.Errorf("%s is named twice", word)
		}
		set |= 1 << p
	}
	return set, nil
}

func parsePlace(word string) (Place, error) {
	for i, name := range placeNames {
		if name == word {
			return Place(i), nil
		}
	}
	return 0, fmt.Errorf("%q is no place to scan: choose from %v", word, placeNames)
}

// Plaintext is what becomes of tokens towards http://.
type Plaintext uint8

// The choices.
const (
	PlaintextReplace Plaintext = iota
	PlaintextStrip
	PlaintextDeny
)

// Sizes in bytes that hold where nothing else is said.
const (
	DefaultBodyBuffer = 1 << 20
	DefaultMaxSpool   = 10 << 30
	DefaultMaxDecoded = 1 << 30
)

// SwapPolicy says where tokens are looked for and what becomes of them.
type SwapPolicy struct {
	Scan          Places        // zero means AllPlaces
	OnMismatch    tokens.Policy // default: strip
	OnUndecodable tokens.Policy // default: pass
	PlaintextHTTP Plaintext

	// Unmasked lets answers repeat the values that were put into their request.
	Unmasked bool

	// BodyBuffer is how much of a body is held in memory, in bytes.
	BodyBuffer int64

	// MaxSpool is how long bodies with a length or a content coding may be, each and all that wait
	// at one time together, in bytes.
	MaxSpool int64

	// MaxDecoded is how long a body with a content coding may become without
	// it, in bytes. Above 16 MiB it is 200 times the coded length at most.
	MaxDecoded int64

	// SpoolDir is where longer bodies wait; "" means the system's temp folder.
	SpoolDir string
}

func (s *SwapPolicy) setDefaults() {
	if s.Scan == 0 {
		s.Scan = AllPlaces
	}
	if s.BodyBuffer == 0 {
		s.BodyBuffer = DefaultBodyBuffer
	}
	if s.MaxSpool == 0 {
		s.MaxSpool = DefaultMaxSpool
	}
	if s.MaxDecoded == 0 {
		s.MaxDecoded = DefaultMaxDecoded
	}
}
