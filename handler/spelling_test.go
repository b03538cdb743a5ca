package handler

import (
	"encoding/json"
	"fmt"
	"net/url"
	"testing"
)

// One token as programs write it. Its key is randomKey, its value
// encodedValue, its host api.starpod.test.
const (
	encodedValue = `value-101 "&<`

	// JSON.stringify, json.dumps, encodeURI, the path of a WHATWG URL
	encodedPlain = "starpod:v1:hpPaZBQQ/6NKPQYLXR15V6Dqin9v0eDAzegpATbaw+MuGU3w8iVr//qNGus8+OM1viOAkCYR/tGW2abAKTurjxyIZW6Mym2rngzBCKI9ByPJF15xVg=="
	// encodeURIComponent, URLSearchParams, Node's querystring, urllib.parse.quote_plus and urlencode
	encodedPercent = "starpod%3Av1%3AhpPaZBQQ%2F6NKPQYLXR15V6Dqin9v0eDAzegpATbaw%2BMuGU3w8iVr%2F%2FqNGus8%2BOM1viOAkCYR%2FtGW2abAKTurjxyIZW6Mym2rngzBCKI9ByPJF15xVg%3D%3D"
	// curl --data-urlencode
	encodedLower = "starpod%3av1%3ahpPaZBQQ%2f6NKPQYLXR15V6Dqin9v0eDAzegpATbaw%2bMuGU3w8iVr%2f%2fqNGus8%2bOM1viOAkCYR%2ftGW2abAKTurjxyIZW6Mym2rngzBCKI9ByPJF15xVg%3d%3d"
	// urllib.parse.quote
	encodedQuote = "starpod%3Av1%3AhpPaZBQQ/6NKPQYLXR15V6Dqin9v0eDAzegpATbaw%2BMuGU3w8iVr//qNGus8%2BOM1viOAkCYR/tGW2abAKTurjxyIZW6Mym2rngzBCKI9ByPJF15xVg%3D%3D"
	// escape of JavaScript
	encodedEscape = "starpod%3Av1%3AhpPaZBQQ/6NKPQYLXR15V6Dqin9v0eDAzegpATbaw+MuGU3w8iVr//qNGus8+OM1viOAkCYR/tGW2abAKTurjxyIZW6Mym2rngzBCKI9ByPJF15xVg%3D%3D"
	// json_encode of PHP
	encodedSlashes = `starpod:v1:hpPaZBQQ\/6NKPQYLXR15V6Dqin9v0eDAzegpATbaw+MuGU3w8iVr\/\/qNGus8+OM1viOAkCYR\/tGW2abAKTurjxyIZW6Mym2rngzBCKI9ByPJF15xVg==`
	// System.Text.Json
	encodedPlus = `starpod:v1:hpPaZBQQ/6NKPQYLXR15V6Dqin9v0eDAzegpATbaw\u002BMuGU3w8iVr//qNGus8\u002BOM1viOAkCYR/tGW2abAKTurjxyIZW6Mym2rngzBCKI9ByPJF15xVg==`
	// Gson
	encodedEquals = `starpod:v1:hpPaZBQQ/6NKPQYLXR15V6Dqin9v0eDAzegpATbaw+MuGU3w8iVr//qNGus8+OM1viOAkCYR/tGW2abAKTurjxyIZW6Mym2rngzBCKI9ByPJF15xVg\u003d\u003d`
)

// TestSpellings finds the token in what real encoders make of it.
func TestSpellings(t *testing.T) {
	s := newSwapper(t)
	for name, spelled := range map[string]string{
		"plain": encodedPlain, "encodeURIComponent": encodedPercent, "curl": encodedLower, "quote": encodedQuote, "escape": encodedEscape,
	} {
		t.Run("URL by "+name, func(t *testing.T) {
			out, _, err := s.swap("GET /bot" + spelled + "/send?k=" + spelled + " HTTP/1.1\r\nHost: api.starpod.test\r\n\r\n")
			if err != nil {
				t.Fatal(err)
			}
			got, err := url.ParseRequestURI(out.URL.RequestURI())
			if err != nil || got.Path != "/bot"+encodedValue+"/send" || got.Query().Get("k") != encodedValue {
				t.Errorf("got %q, %v, want the value in path and query", out.URL.RequestURI(), err)
			}
		})
		t.Run("form by "+name, func(t *testing.T) {
			body := s.swapBody(t, &fuzzChoices{}, "application/x-www-form-urlencoded", "a=1&k="+spelled+"&b=2")
			got, err := url.ParseQuery(body)
			if want := (url.Values{"a": {"1"}, "k": {encodedValue}, "b": {"2"}}); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("got %q, %v, want %q", body, err, want)
			}
		})
	}
	for name, spelled := range map[string]string{
		"JSON.stringify": encodedPlain, "PHP": encodedSlashes, "System.Text.Json": encodedPlus, "Gson": encodedEquals,
	} {
		t.Run("JSON by "+name, func(t *testing.T) {
			body := s.swapBody(t, &fuzzChoices{}, "application/json", `{"k": "Bearer `+spelled+`"}`)
			var got struct{ K string }
			if err := json.Unmarshal([]byte(body), &got); err != nil || got.K != "Bearer "+encodedValue {
				t.Errorf("got %q, %v, want the value", body, err)
			}
		})
		t.Run("JSON in a query by "+name, func(t *testing.T) {
			out, _, err := s.swap(`GET /?j={"k":"` + spelled + `"} HTTP/1.1` + "\r\nHost: api.starpod.test\r\n\r\n")
			if err != nil {
				t.Fatal(err)
			}
			target, err := url.ParseRequestURI(out.URL.RequestURI())
			if err != nil || ambiguousTarget(out.URL.RequestURI()) {
				t.Fatalf("got %q, %v, want a target in one piece", out.URL.RequestURI(), err)
			}
			if spelled == encodedPlain {
				return // nothing tells that it is JSON
			}
			var got struct{ K string }
			if err := json.Unmarshal([]byte(target.Query().Get("j")), &got); err != nil || got.K != encodedValue {
				t.Errorf("got %q, %v, want JSON with the value", target.RawQuery, err)
			}
		})
	}
}
