package tokens_test

import (
	"fmt"

	"github.com/starpod/caddy-starpod/tokens"
)

func Example() {
	key, _ := tokens.GenerateKey()
	keys := tokens.NewKeyring(key)
	token, err := keys.Seal(tokens.Secret{
		Value: "ghp_real",
		Hosts: []string{"api.github.com"},
	})
	if err != nil {
		fmt.Println(err)
		return
	}

	for _, host := range []string{"api.github.com", "evil.example"} {
		s := tokens.Scanner{Keys: keys, Target: tokens.Target{Host: host, Port: 443}}
		header, err := s.ScanString("Bearer " + token)
		fmt.Printf("%s receives %q, %d replaced, %d stripped, error %v\n",
			host, header, s.Result.Replaced, s.Result.Stripped, err)
	}
	// Output:
	// api.github.com receives "Bearer ghp_real", 1 replaced, 0 stripped, error <nil>
	// evil.example receives "Bearer ", 0 replaced, 1 stripped, error <nil>
}
