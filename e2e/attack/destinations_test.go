//go:build linux

package attack

// connect asks for a tunnel to a target.
func connect(name, target, want string) input {
	return input{class: "destination", name: "CONNECT " + name, want: want,
		send: "CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\nConnection: close\r\n\r\n"}
}

// connects are targets of a CONNECT that two programs could read differently, or
// that lead where nobody may go. Those that answer 400 without a rule are refused
// by net/http, before there is a request.
func connects() []input {
	inputs := []input{
		connect("as it should be", "{api}", "200"),
		connect("in capitals", "API.STARPOD.TEST:{apiport}", "200"),
		connect("with a trailing dot", "api.starpod.test.:{apiport}", "200"),
		connect("in full-width letters", "ａpi.starpod.test:{apiport}", "400"),
		connect("without a port", "api.starpod.test", "400 authority"),
		connect("with an empty port", "api.starpod.test:", "400 authority"),
		connect("without a host", ":443", "400 authority"),
		connect("with port 0", "api.starpod.test:0", "400 authority"),
		connect("with a port too high", "api.starpod.test:65979", "400 authority"),
		connect("with a signed port", "api.starpod.test:+443", "400"),
		connect("with a hexadecimal port", "api.starpod.test:0x1bb", "400"),
		connect("with two ports", "api.starpod.test:443:444", "400"),
		connect("with a user", "api.starpod.test@{evil}", "400"),
		connect("with user and password", "api.starpod.test:443@{evil}", "400"),
		connect("with an escaped user", "api.starpod.test%40{evil}", "400"),
		connect("with a path", "{api}/x", "400"),
		connect("with a query", "{api}?x", "400"),
		connect("with a fragment", "{evil}#{api}", "400"),
		connect("as a URL", "https://{api}/", "400"),
		connect("with a backslash", `{evil}\@{api}`, "400"),
		connect("with an escaped dot", "api%2estarpod.test:443", "400"),
		connect("with an escaped NUL", "api.starpod.test%00.evil.starpod.test:443", "400"),
		connect("with a comma", "api.starpod.test,evil.starpod.test:443", "400 authority"),
		connect("with an empty label", "api..starpod.test:443", "400 authority"),
		connect("with two trailing dots", "api.starpod.test..:443", "400 authority"),
		connect("with a label too long", "a234567890123456789012345678901234567890123456789012345678901234.test:443", "400 authority"),
		connect("with a zone", "[fe80::1%25lo]:443", "400 authority"),
		connect("with a bracket left open", "[::1:443", "400"),
		connect("with a name in brackets", "[api.starpod.test]:443", "400"),
		connect("with IPv4 in brackets", "[127.0.0.1]:443", "400"),
		connect("with IPv6 without brackets", "::1:443", "400"),
	}
	for _, legacy := range []string{
		"2130706433", "0x7f000001", "0177.0.0.1", "127.1", "127.0.1", "0x7f.1", "127.0.0.01", "017700000001",
		"1.1.1.1.1", "256.1.1.1", "0", "0x0", "127.0.0.1.1", "10.0.0", "169.254.43518",
	} {
		inputs = append(inputs, connect("to the IPv4 spelling "+legacy, legacy+":443", "400 authority"))
	}
	for _, closed := range []string{
		"0.0.0.0:80", "10.0.0.1:443", "172.16.0.1:443", "192.168.1.1:443", "100.64.0.1:443", "169.254.169.254:80",
		"169.254.170.2:80", "168.63.129.16:80", "100.100.100.200:80", "192.0.0.192:80", "198.18.0.1:443", "224.0.0.1:443",
		"255.255.255.255:443", "240.0.0.1:443", "[::]:443", "[::1]:443", "[fe80::1]:443", "[fc00::1]:443", "[fd00:ec2::254]:80",
		"[ff02::1]:443", "[::ffff:10.0.0.1]:443", "[::ffff:169.254.169.254]:80", "[::127.0.0.1]:443", "[64:ff9b::a9fe:a9fe]:80",
		"[64:ff9b:1::7f00:1]:80", "[2002:7f00:1::]:443", "[2002:a9fe:a9fe::]:80", "[2001:0:1::80ff:fffe]:443", "[::ffff:0:10.0.0.1]:443",
		"[fec0::1]:443",
	} {
		inputs = append(inputs, input{class: "private address", name: "CONNECT " + closed, want: "403 egress",
			send: "CONNECT " + closed + " HTTP/1.1\r\nHost: " + closed + "\r\nConnection: close\r\n\r\n"},
			input{class: "private address", name: "GET http://" + closed, want: "403 egress",
				send: "GET http://" + closed + "/latest/meta-data HTTP/1.1\r\nHost: {api}\r\nX-Key: {token}\r\nConnection: close\r\n\r\n"})
	}
	// Names are judged by the address that is dialled, so in the tunnel.
	for _, name := range []string{"private", "metadata", "six"} {
		authority := name + ".starpod.test:{apiport}"
		inputs = append(inputs, input{class: "private address", name: "a name for " + name, via: authority, want: "403 egress",
			send: "GET / HTTP/1.1\r\nHost: " + authority + "\r\nX-Key: {token}\r\nConnection: close\r\n\r\n"})
	}
	for _, self := range []string{"{proxy}", "[::ffff:127.0.0.1]:{proxyport}"} {
		inputs = append(inputs, connect("to the proxy itself, "+self, self, "403 self"), absolute("the proxy itself, "+self, "http://"+self+"/", self, "403 self"))
	}
	return inputs
}

// absolute asks the proxy for a URL.
func absolute(name, url, host, want string) input {
	return input{class: "destination", name: "URL of " + name, want: want,
		send: "GET " + url + " HTTP/1.1\r\nHost: " + host + "\r\nX-Key: {token}\r\nConnection: close\r\n\r\n"}
}

// absolutes are requests in absolute form. What names no host is not for the
// proxy, and Caddy answers it with an empty 200 where a site has nothing else.
func absolutes() []input {
	return []input{
		absolute("the API", "http://{plain}/", "{plain}", "200 api=value"),
		absolute("the API, Host of the other", "http://{plain}/", "{plainevil}", "200 api=value"),
		absolute("the other, Host of the API", "http://{plainevil}/", "{plain}", "200 evil=nothing"),
		absolute("the other as a user of the API", "http://{plain}@{plainevil}/", "{plain}", "400 authority"),
		absolute("the API with a password", "http://a:b@{plain}/", "{plain}", "400 authority"),
		absolute("the API by a backslash", `http://{plainevil}\@{plain}/`, "{plain}", "400"),
		absolute("the other before a fragment", "http://{plainevil}#@{plain}/", "{plain}", "400"),
		absolute("the other before a query", "http://{plainevil}?@{plain}/", "{plain}", "200 evil=nothing"),
		absolute("the other, API in the path", "http://{plainevil}/@{plain}/", "{plain}", "200 evil=nothing"),
		absolute("a file", "file:///etc/passwd", "{plain}", "200"),
		absolute("https", "https://{api}/", "{api}", "400 authority"),
		absolute("ftp", "ftp://{plain}/", "{plain}", "400 authority"),
		absolute("two slashes", "http:////{plainevil}/", "{plain}", "200"),
		absolute("no slashes", "http:{plainevil}/", "{plain}", "200"),
		absolute("a tab in the host", "http://api.starpod.test\t:80/", "{plain}", "400"),
		absolute("an escaped dot", "http://api%2estarpod.test:{plainport}/", "{plain}", "400"),
		absolute("an IPv4 number", "http://2130706433:{plainport}/", "{plain}", "400 authority"),
		absolute("the address of the API", "http://127.0.0.1:{plainport}/", "{plain}", "200 api=nothing"),
		absolute("a name that leads to the same address", "http://rebound.starpod.test:{plainport}/", "{plain}", "200 api=nothing"),
		{class: "destination", name: "two Hosts", want: "400",
			send: "GET http://{plain}/ HTTP/1.1\r\nHost: {plain}\r\nHost: {plainevil}\r\nX-Key: {token}\r\n\r\n"},
		{class: "destination", name: "origin form, no tunnel", want: "200",
			send: "GET / HTTP/1.1\r\nHost: {plain}\r\nX-Key: {token}\r\nConnection: close\r\n\r\n"},
		{class: "destination", name: "redirect to the other host", want: "302 api=value",
			send: "GET http://{plain}/redirect HTTP/1.1\r\nHost: {plain}\r\nX-Key: {token}\r\nConnection: close\r\n\r\n"},
		{class: "destination", name: "redirect that keeps the body", via: tunnel, want: "307 api=value",
			send: "POST /moved HTTP/1.1\r\nHost: {api}\r\nContent-Type: text/plain\r\nContent-Length: 0\r\nX-Key: {token}\r\nConnection: close\r\n\r\n"},
	}
}

// inside is a request in a tunnel to the API.
func inside(name, target, host, want string) input {
	return input{class: "destination", name: "in a tunnel: " + name, via: tunnel, want: want,
		send: "GET " + target + " HTTP/1.1\r\nHost: " + host + "\r\nX-Key: {token}\r\nConnection: close\r\n\r\n"}
}

// insides are names inside a tunnel that disagree with it.
func insides() []input {
	inputs := []input{
		inside("as it should be", "/", "{api}", "200 api=value"),
		inside("Host in capitals", "/", "API.STARPOD.TEST:{apiport}", "200 api=value"),
		inside("Host with a trailing dot", "/", "api.starpod.test.:{apiport}", "200 api=value"),
		inside("Host of the other", "/", "{evil}", "421 misdirected"),
		inside("Host without the port", "/", "api.starpod.test", "421 misdirected"),
		inside("Host with another port", "/", "api.starpod.test:{evilport}", "421 misdirected"),
		inside("Host with a user", "/", "{evil}@{api}", "400"),
		inside("no Host", "/", "", "421 misdirected"),
		inside("Host of a subdomain", "/", "x.{api}", "421 misdirected"),
		inside("Host is an address", "/", "127.0.0.1:{apiport}", "421 misdirected"),
		inside("URL of the other", "https://{evil}/", "{api}", "421 misdirected"),
		inside("URL of the other, Host too", "https://{evil}/", "{evil}", "421 misdirected"),
		inside("URL with http", "http://{api}/", "{api}", "400 tunnel_content"),
		inside("URL with a user", "https://a@{api}/", "{api}", "400 authority"),
		inside("URL of the API", "https://{api}/", "{api}", "200 api=value"),
		inside("two slashes in front", "//{evil}/", "{api}", "200 api=value"),
		inside("a fragment", "/x#@{evil}", "{api}", "400 authority"),
		inside("a space", "/x y", "{api}", "400"),
		inside("an asterisk", "*", "{api}", "200 api=value"),
		{class: "destination", name: "in a tunnel: CONNECT to the other", via: tunnel, want: "400 tunnel_content",
			send: "CONNECT {evil} HTTP/1.1\r\nHost: {evil}\r\nConnection: close\r\n\r\n"},
		{class: "destination", name: "in a tunnel: two Hosts", via: tunnel, want: "400",
			send: "GET / HTTP/1.1\r\nHost: {api}\r\nHost: {evil}\r\nX-Key: {token}\r\n\r\n"},
		{class: "destination", name: "in a tunnel of the other", via: astray, want: "200 evil=nothing",
			send: "GET / HTTP/1.1\r\nHost: {evil}\r\nX-Key: {token}\r\nConnection: close\r\n\r\n"},
		{class: "destination", name: "in a tunnel of the other: Host of the API", via: astray, want: "421 misdirected",
			send: "GET / HTTP/1.1\r\nHost: {api}\r\nX-Key: {token}\r\nConnection: close\r\n\r\n"},
		{class: "destination", name: "in a tunnel: plain HTTP behind CONNECT", want: "400 tunnel_content",
			send: "CONNECT {api} HTTP/1.1\r\nHost: {api}\r\n\r\nGET / HTTP/1.1\r\nHost: {api}\r\nX-Key: {token}\r\n\r\n"},
		{class: "destination", name: "in a tunnel: bytes that are neither", want: "200",
			send: "CONNECT {api} HTTP/1.1\r\nHost: {api}\r\n\r\n\x00\x01\x02 {token}"},
	}
	for _, field := range []string{"X-Forwarded-Host: {evil}", "Forwarded: host={evil}", "X-Host: {evil}", "X-Original-URL: https://{evil}/",
		"X-Rewrite-URL: https://{evil}/", "Destination: https://{evil}/", "Alt-Used: {evil}", "Connection: Host", "Via: 1.1 {evil}",
		":authority: {evil}"} {
		want := "200 api=value"
		if field[0] == ':' {
			want = "400"
		}
		inputs = append(inputs, input{class: "destination", name: "in a tunnel: " + field, via: tunnel, want: want,
			send: "GET / HTTP/1.1\r\nHost: {api}\r\n" + field + "\r\nX-Key: {token}\r\nConnection: close\r\n\r\n"})
	}
	return inputs
}
