package starpod

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/starpod/caddy-starpod/handler"
	"github.com/starpod/caddy-starpod/netns"
	"github.com/starpod/caddy-starpod/tokens"
)

const (
	// upstreamVariable holds the URL of an upstream proxy with its password.
	upstreamVariable = "STARPOD_UPSTREAM"

	// shutdownGrace is how long connections may go on once the command has ended.
	shutdownGrace = 5 * time.Second
)

// runFlags are the flags of run.
type runFlags struct {
	secrets, envFiles, keyFiles, trust     []string
	dataDir, upstream, isolation, logLevel string
	user                                   string
	rules                                  []handler.EgressRule
	noIntercept, quiet, verbose, noProject bool
	printEnv, summary                      bool
	attachFlags

	sourceFiles    []string     // that values came from
	projectEnv     *projectFile // .starpod.env, nil for none
	projectSecrets []string     // of starpod.json
	projectPath    string       // of starpod.json
}

func runCommand() *cobra.Command {
	f := new(runFlags)
	cmd := &cobra.Command{
		Use:   "run [flags] -- COMMAND [ARGS...]",
		Short: "Runs a command that uses secrets without holding them",
		Long: `
Starts a proxy on loopback that only COMMAND can use, seals secrets into tokens,
and runs COMMAND with the tokens in its environment in place of the values. When
COMMAND sends a token to a host that it is bound to, the host receives the value;
any other host receives nothing. A value that comes back in the answer to its own
request is shown as asterisks. The key exists in memory only and ends with COMMAND,
unless --key-file names one.

` + secretSyntax + `
` + envFileSyntax + `
` + projectSyntax + `
Where COMMAND may connect:
  The public internet is open; loopback, private and other special addresses are
  closed. --allow and --deny change that, with an address range (10.0.0.0/8), a
  host (api.example.com, *.example.com, perhaps with :port), * or private_ranges.
  They are tried in the order in which they stand; the first that matches decides.

Isolation:
  sealed  COMMAND gets a network of its own (Linux namespaces) in which every
          address is the proxy's, whatever COMMAND makes of proxy variables: there
          is no other way out. It takes no privileges where unprivileged user
          namespaces are allowed.
  veth    COMMAND enters a named namespace with firewall rules that let only the
          proxy be reached. It takes root and iptables.
  env     COMMAND is asked by its environment variables to use the proxy. One that
          ignores them reaches the network, but with tokens that are worth nothing
          there; and it can read the files that the user can.
  auto    the first of these that works; env with a warning.
  In sealed and veth COMMAND finds the files of secrets and --key-file, the folder of
  --data-dir, and the default key's folder empty. It has no capabilities
  and cannot gain any (sudo does not work), and inherits no open files but the
  standard ones. As root it can change no settings of the kernel, and open only
  the devices that every user may. Unix sockets in the file system, such as
  Docker's, stay reachable: see that its user may not use them.

` + attachSyntax + `
Signals and exit status:
  SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2 and SIGWINCH go on to COMMAND.
  What the keyboard of its terminal sends reaches COMMAND by itself, and only once.
  The exit status is COMMAND's; 128+N if signal N ended it; 127 if it was not
  found; 126 if it could not be executed; 1 if the proxy could not be started.

Environment:
  STARPOD_UPSTREAM  URL of an upstream proxy, in place of --upstream, for a URL
                    with a password. It is kept from COMMAND.`,
		Example: `  caddy starpod run --secret GITHUB_TOKEN -- sh -c 'curl -sS -H "Authorization: Bearer $GITHUB_TOKEN" https://api.github.com/user'
  caddy starpod run --secret 'API_KEY@api.example.com,*.example.org' -- python3 agent.py
  caddy starpod run --env-file .env --deny '*.example.net' -- npm start
  caddy starpod run --env-file .env --allow 10.1.2.0/24 --trust company.pem -- ./deploy.sh
  caddy starpod run --attach --data-dir .starpod/db --secret GITHUB_TOKEN -- ./agent`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 && !f.printEnv {
				return errors.New("name a command: caddy starpod run [flags] -- COMMAND [ARGS...]")
			}
			return nil
		},
		RunE: f.run,
	}
	f.register(cmd.Flags())
	// An unknown flag may be a misspelt --secret: its value is not repeated.
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		text, _, _ := strings.Cut(err.Error(), "=")
		return errors.New(text)
	})
	return cmd
}

func (f *runFlags) register(flags *pflag.FlagSet) {
	flags.SetInterspersed(false) // what follows COMMAND is its own
	flags.StringArrayVar(&f.secrets, "secret", nil, "`SECRET` as above: NAME, NAME@HOST,..., NAME=file:PATH@HOST,... and so on; may be repeated")
	flags.StringArrayVar(&f.envFiles, "env-file", nil, "`FILE` with secrets, one NAME=value a line; may be repeated")
	flags.StringArrayVar(&f.keyFiles, "key-file", nil, "`FILE` with a master key to use in place of a fresh one; may be repeated: the first seals, all open")
	flags.StringVar(&f.dataDir, "data-dir", "", "`FOLDER` that keeps the certificate authority from one run to the next (default a new one in memory); with --attach the data_dir of the running Caddy")
	f.registerAttach(flags)
	flags.Var(&ruleFlag{&f.rules, true}, "allow", "`WHERE` COMMAND may connect; may be repeated, the order with --deny counts")
	flags.Var(&ruleFlag{&f.rules, false}, "deny", "`WHERE` COMMAND may not connect; may be repeated, the order with --allow counts")
	flags.StringArrayVar(&f.trust, "trust", nil, "PEM `FILE` with roots that verify hosts, besides the system's; may be repeated")
	flags.StringVar(&f.upstream, "upstream", "", "`URL` of a proxy that all connections go through (default $"+upstreamVariable+")")
	flags.StringVar(&f.isolation, "isolation", "auto", "how COMMAND is kept from going around the proxy: `auto|sealed|veth|env`")
	flags.StringVar(&f.user, "user", "", "`NAME` or number of the user that COMMAND runs as, if root starts it (default who called sudo, else the same user)")
	flags.BoolVar(&f.noProject, "no-project", false, "take nothing from .starpod.env and starpod.json")
	flags.BoolVar(&f.noIntercept, "no-intercept", false, "tunnel https:// blindly; tokens then work towards http:// only")
	flags.StringVar(&f.logLevel, "log-level", "warn", "least `LEVEL` of what is logged to standard error: debug, info, warn or error")
	flags.BoolVarP(&f.verbose, "verbose", "v", false, "the same as --log-level info, which tells of each token that was replaced")
	flags.BoolVar(&f.quiet, "quiet", false, "log nothing")
	flags.BoolVar(&f.summary, "summary", false, "tell at the end, on standard error, which secrets were used, which hosts reached, and what was refused and how to mend it")
	flags.BoolVar(&f.printEnv, "print-env", false, "print the variables that COMMAND would be given beside yours, and do not run it; a proxy that they name has ended by then")
}

// ruleFlag is --allow or --deny. Both append to one list, so their order stays.
type ruleFlag struct {
	rules *[]handler.EgressRule
	allow bool
}

func (r *ruleFlag) String() string { return "" }
func (r *ruleFlag) Type() string   { return "where" }
func (r *ruleFlag) Set(text string) error {
	for _, word := range splitList(text) {
		rules, err := handler.ParseEgressRule(r.allow, word)
		if err != nil {
			return err
		}
		*r.rules = append(*r.rules, rules...)
	}
	return nil
}

func (f *runFlags) run(cmd *cobra.Command, args []string) error {
	f.secrets = scrubArguments(f.secrets)
	if err := closeInherited(); err != nil {
		return err
	}
	log, err := f.logger(cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	if err := f.checkAttach(cmd.Flags()); err != nil {
		return err
	}
	if len(args) == 0 {
		args = os.Args[:1] // for --print-env, which runs nothing
	}
	if _, err := exec.LookPath(args[0]); err != nil {
		return notStarted(cmd, err)
	}
	if err := f.findApproved(cmd.Flags()); err != nil {
		return err
	}
	secrets, plain, err := f.collect(cmd.Context(), log)
	if err != nil {
		return err
	}
	config, err := f.config(log)
	if err != nil {
		return err
	}
	if f.summary {
		config.summary = newRunSummary()
		defer config.summary.write(cmd.ErrOrStderr(), secretNames(secrets)) // when the proxy has ended
	}
	return f.runWith(cmd, args, config, secrets, plain)
}

// runWith starts the proxy and runs the command.
func (f *runFlags) runWith(cmd *cobra.Command, args []string, config Config, secrets []tokens.Secret, plain []string) error {
	log := config.Logger
	var err error
	forward := catchSignals()
	defer forward.stop()
	child := childCommand(args)
	if config.first, err = sealFirst(child, config); err != nil {
		return err
	}
	defer config.first.abandon()
	// Before the command exists, so that there is no moment at which it could look.
	if err := hideProcess(); err != nil {
		return err
	}
	proxy, err := f.proxy(cmd.Context(), config)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), shutdownGrace)
		defer cancel()
		if err := proxy.Shutdown(ctx); err != nil {
			log.Debug("ending the proxy", zap.Error(err))
		}
	}()
	f.tellTier(proxy.Tier, log)
	env, err := childEnv(proxy, secrets, plain, log)
	if err != nil {
		return err
	}
	if proxy.Tier.Driver != driverSealed {
		child = childCommand(args)
	}
	if proxy.remote != nil {
		if err := proxy.begin(config.first.opened()); err != nil {
			return err
		}
	}
	if f.printEnv {
		env = mergeEnv(proxy.commandEnv(env), proxy.environ(proxy.clientURL(config.first)))
		printEnv(cmd.OutOrStdout(), os.Environ(), env)
		return nil
	}
	if err := proxy.startCommand(cmd.Context(), child, env, config.first); err != nil {
		return notStarted(cmd, err)
	}
	status, err := waitChild(child, forward)
	if err != nil {
		return err
	}
	return exit(cmd, status)
}

// childCommand has the standard files of this process, and is in its process group.
func childCommand(args []string) *exec.Cmd {
	child := exec.Command(args[0], args[1:]...)
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	return child
}

// sealFirst starts the helper of a command where a sealed namespace is wanted, so
// that it works while the proxy starts. There is no candidate where it is not.
func sealFirst(child *exec.Cmd, c Config) (*candidate, error) {
	wanted, err := c.drivers()
	if err != nil || !slices.Contains(wanted, driverSealed) || runtime.GOOS != "linux" {
		return nil, err
	}
	cell, err := netns.Seal(child, netns.CellConfig{User: c.User})
	if err != nil {
		return nil, err
	}
	return &candidate{cell: cell, err: cell.Start()}, nil
}

func secretNames(secrets []tokens.Secret) []string {
	names := make([]string, len(secrets))
	for i, s := range secrets {
		names[i] = s.Name
	}
	return names
}

// tellTier warns of a command that can go around the proxy although nobody chose
// that.
func (f *runFlags) tellTier(tier Tier, log *zap.Logger) {
	if tier.Level == 0 && f.isolation != driverEnv {
		log.Warn(tier.Line)
		return
	}
	log.Info(tier.Line)
}

// childEnv returns this process's environment with tokens in place of values.
func childEnv(proxy *Handle, secrets []tokens.Secret, plain []string, log *zap.Logger) ([]string, error) {
	base := make([]string, 0, len(os.Environ()))
	for _, entry := range os.Environ() {
		if name, _, _ := strings.Cut(entry, "="); name != upstreamVariable {
			base = append(base, entry)
		}
	}
	entries := plain
	for _, secret := range secrets {
		token, err := proxy.Seal(secret)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", secret.Name, err)
		}
		entries = append(entries, secret.Name+"="+token)
	}
	env := mergeEnv(base, entries)
	warnOfCopies(env, secrets, log)
	return env, nil
}

// config turns the flags into the configuration of the proxy.
func (f *runFlags) config(log *zap.Logger) (Config, error) {
	c := Config{
		attach:      f.attach,
		Isolation:   f.isolation,
		NoIntercept: f.noIntercept,
		Rules:       f.rules,
		Trust:       f.trust,
		Upstream:    os.Getenv(upstreamVariable),
		Logger:      log,
	}
	if f.upstream != "" {
		u, err := handler.ParseUpstream(f.upstream)
		if err != nil {
			return c, fmt.Errorf("--%w", err)
		}
		if _, hasPassword := u.User.Password(); hasPassword {
			return c, errors.New("--upstream: every local process can read a password on the command line: " +
				"put the URL into the environment variable " + upstreamVariable + " instead")
		}
		c.Upstream = f.upstream
	}
	var err error
	if c.User, err = f.commandUser(log); err != nil {
		return c, err
	}
	if c.Hide, err = f.secretFiles(); err != nil {
		return c, err
	}
	if f.dataDir != "" {
		// The bundle's path goes to COMMAND, which may change its folder.
		if c.DataDir, err = filepath.Abs(f.dataDir); err != nil {
			return c, fmt.Errorf("--data-dir: %w", err)
		}
	}
	if len(f.keyFiles) > 0 {
		if c.keys, err = readKeys(f.keyFiles); err != nil {
			return c, err
		}
	}
	return c, nil
}
