package handler

import (
	"testing"
)

// addBodies adds seeds that take different turns in the generators.
func addBodies(f *testing.F) {
	for i, value := range []string{"value", "\"\\\n\x00", "<&%+>]]>", "\u2028🔐", ""} {
		var data []byte
		for j := range 120 {
			data = append(data, byte(j*(7+i)+i))
		}
		f.Add(data, value, byte(i))
	}
}

func fuzzWriting(f *testing.F, kind string) {
	addBodies(f)
	s := newSwapper(f)
	f.Fuzz(func(t *testing.T, data []byte, value string, fate byte) {
		writings[kind](t, s, &fuzzChoices{data}, fatedSecret(t, fate, withoutMarks(value)))
	})
}

// The JSON that is read is the document with the value, whatever wrote it.
func FuzzJSON(f *testing.F) { fuzzWriting(f, "JSON") }

// The form that is read is the one with the value.
func FuzzForm(f *testing.F) { fuzzWriting(f, "form") }

// The XML that is read is the document with the value.
func FuzzXML(f *testing.F) { fuzzWriting(f, "XML") }

// Each part reads as it did, with the value written in its own form.
func FuzzMultipart(f *testing.F) { fuzzWriting(f, "multipart") }
