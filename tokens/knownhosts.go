package tokens

import (
	"slices"
	"strings"
)

// knownHosts is the table of Starpod's vault.
var knownHosts = map[string][]string{
	"ANTHROPIC_API_KEY":     {"api.anthropic.com"},
	"OPENAI_API_KEY":        {"api.openai.com"},
	"GEMINI_API_KEY":        {"generativelanguage.googleapis.com"},
	"GROQ_API_KEY":          {"api.groq.com"},
	"DEEPSEEK_API_KEY":      {"api.deepseek.com"},
	"OPENROUTER_API_KEY":    {"openrouter.ai"},
	"BRAVE_API_KEY":         {"api.search.brave.com"},
	"TELEGRAM_BOT_TOKEN":    {"api.telegram.org"},
	"GITHUB_TOKEN":          {"api.github.com"},
	"GH_TOKEN":              {"api.github.com"},
	"STRIPE_SECRET_KEY":     {"api.stripe.com"},
	"STRIPE_API_KEY":        {"api.stripe.com"},
	"SENDGRID_API_KEY":      {"api.sendgrid.com"},
	"SLACK_BOT_TOKEN":       {"slack.com"},
	"SLACK_TOKEN":           {"slack.com"},
	"AWS_SECRET_ACCESS_KEY": {"*.amazonaws.com"},
}

// KnownHosts returns the hosts that the secret of a well-known environment
// variable belongs to, such as api.github.com for GITHUB_TOKEN, in any case. It
// returns nil for a name it does not know.
func KnownHosts(name string) []string {
	return slices.Clone(knownHosts[strings.ToUpper(name)])
}
