package netns

// Neighbours is what a namespace would find on this machine.
type Neighbours struct {
	Live []string // namespaces of instances that run
	Dead []string // those that killed instances have left; the next start removes them

	// Taken names what of the configuration somebody else uses, like "the
	// interface sp-veth0": the next free one is taken in its place.
	Taken []string
}
