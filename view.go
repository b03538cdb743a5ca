package starpod

import (
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"io"
	"net/http"
	"strings"
)

//go:embed view
var viewFiles embed.FS

// page is the live view: one document that asks for nothing but status and events
// beside it. Style and script stand in it, since Caddy's admin endpoint refuses what
// browsers ask for without an origin, style sheets and scripts among it.
var page = assemblePage()

type viewPage struct {
	text   string
	policy string // Content-Security-Policy
}

func assemblePage() viewPage {
	style, script := viewFile("style.css"), viewFile("uses.js")+viewFile("list.js")+viewFile("live.js")
	text := strings.NewReplacer("{{style}}", style, "{{script}}", script).Replace(viewFile("page.html"))
	return viewPage{text, strings.Join([]string{
		"default-src 'none'",
		"style-src " + sourceHash(style),
		"script-src " + sourceHash(script),
		"connect-src 'self'",
		"img-src data:", // its icon
		"base-uri 'none'",
		"form-action 'none'",
		"frame-ancestors 'none'",
		"require-trusted-types-for 'script'", // text never becomes markup
		"trusted-types 'none'",
	}, "; ")}
}

func viewFile(name string) string {
	text, err := viewFiles.ReadFile("view/" + name)
	if err != nil {
		panic(err) // it is part of the program
	}
	return string(text)
}

// sourceHash names an inline element by its content (CSP Level 3, section 2.3.1).
func sourceHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// servePage serves the live view. The page is the same for everybody.
func servePage(w http.ResponseWriter, r *http.Request) error {
	if err := checkView(r); err != nil {
		return err
	}
	writePage(w)
	return nil
}

func writePage(w http.ResponseWriter) {
	for name, value := range map[string]string{
		"Content-Type":                 "text/html; charset=utf-8",
		"Content-Security-Policy":      page.policy,
		"Cache-Control":                "no-store",
		"Cross-Origin-Opener-Policy":   "same-origin",
		"Cross-Origin-Resource-Policy": "same-origin",
		"Referrer-Policy":              "same-origin", // the admin endpoint wants to know who asks
		"X-Content-Type-Options":       "nosniff",
	} {
		w.Header().Set(name, value)
	}
	_, _ = io.WriteString(w, page.text)
}
