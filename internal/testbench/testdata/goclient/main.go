// Command goclient posts the token in API_TOKEN to the URL in its argument, as a
// bearer token and in a JSON body, and prints the answer. It knows no proxy.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
)

func main() {
	if err := post(os.Args[1], os.Getenv("API_TOKEN")); err != nil {
		fmt.Fprintln(os.Stderr, "goclient:", err)
		os.Exit(1)
	}
}

func post(url, token string) error {
	req, err := http.NewRequest(http.MethodPost, url, strings.NewReader(`{"key":"`+token+`"}`))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(os.Stdout, resp.Body)
	return err
}
