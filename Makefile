# make run    build, and run the proxy with examples/Caddyfile
# make test   install what the tests lack (as root) and run everything
# make demo   the main job by itself, offline
# make clients  which programs it works with, into docs/clients.md (as root)
# make agents the coding agents of docs/recipes.md, from npm (as root)
# make attack hostile inputs against the binary, one line each
# make large  the tests of sizes and counts, as large as a busy machine has them
# make soak   mixed traffic for an hour (SOAK=10m: for less)
# make bench  this proxy beside others (ROUNDS=5, MODES="keepalive upload", as root for all peers)
# make bench-report  what a request costs at many scales, drawn into docs/performance
# make build, lint, fuzz, xcaddy: see below

GO ?= go
FUZZTIME ?= 30s
SOAK ?= 1h
ROUNDS ?= 5
MODES ?=
PROFILES ?=

# The version of the tools that lint runs, from the module proxy.
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK = golang.org/x/vuln/cmd/govulncheck@v1.9.0

.PHONY: build run demo test clients agents attack large soak bench bench-report lint fuzz xcaddy clean

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags=-s -o caddy ./cmd/caddy

run: build
	@scripts/next-steps.sh
	./caddy run --config examples/Caddyfile --adapter caddyfile

demo: build
	./caddy starpod demo

test:
	scripts/test-deps.sh
	$(GO) test -race -timeout 20m ./...
	cd e2e/manifests && $(GO) test ./...

clients:
	scripts/test-deps.sh
	$(GO) test -count=1 -timeout 20m -run TestClients ./e2e/isolation -args -write-clients

agents:
	scripts/test-deps.sh
	$(GO) test -count=1 -tags agents -timeout 20m -run TestAgents ./e2e/isolation

attack:
	scripts/test-deps.sh
	$(GO) test -v -count=1 ./e2e/attack

large:
	scripts/test-deps.sh
	$(GO) test -v -count=1 -timeout 0 ./e2e -run 'Upload|Tunnels|Many|Reloads' -args -full
	$(GO) test -v -count=1 -timeout 0 ./handler -run 'Differential|Floods' -args -full

# Mixed traffic at half load, with reloads and faults; every answer is checked.
soak:
	$(GO) test -v -count=1 -timeout 0 -run TestSoak ./e2e/soak -args -soak.for $(SOAK)

# Both write what they find to docs/performance.md. Let the machine do nothing else.
bench:
	scripts/bench-deps.sh
	$(GO) test -v -count=1 -timeout 0 -run 'TestBench$$' ./e2e/bench -args -rounds $(ROUNDS) -modes '$(MODES)' -profiles '$(abspath $(PROFILES))'

bench-report:
	$(GO) test -v -count=1 -timeout 0 -run 'TestReport$$' ./e2e/bench -args -report

lint:
	scripts/lint.sh '$(STATICCHECK)' '$(GOVULNCHECK)'

# Every fuzz target for FUZZTIME.
fuzz:
	scripts/fuzz.sh $(FUZZTIME)

# A Caddy by xcaddy, as xcaddy.json describes it. WITH=all adds the optional plugins.
xcaddy:
	$(GO) run ./internal/xcaddy -with '$(WITH)'

clean:
	rm -rf caddy dist
