package starpod

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"
)

const (
	demoClientName = "demo-client"
	demoDirect     = "DIRECT_ADDRESS"       // names an address to reach without the proxy
	directTimeout  = 500 * time.Millisecond // for that
)

// demoClientCommand does what demoScript does, for machines without curl. It is
// an ordinary client, but for reading the roots itself: Go looks at
// SSL_CERT_FILE on some systems only.
func demoClientCommand() *cobra.Command {
	return &cobra.Command{
		Use:    demoClientName,
		Short:  "The program of the demonstration",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, entry := range os.Environ() {
				fmt.Fprintln(cmd.OutOrStdout(), entry)
			}
			text, err := os.ReadFile(os.Getenv("SSL_CERT_FILE"))
			if err != nil {
				return err
			}
			roots := x509.NewCertPool()
			if !roots.AppendCertsFromPEM(text) {
				return errors.New("SSL_CERT_FILE holds no certificate")
			}
			client := &http.Client{Transport: &http.Transport{
				Proxy:           http.ProxyFromEnvironment,
				TLSClientConfig: &tls.Config{RootCAs: roots},
			}}
			for _, url := range []string{os.Getenv("RIGHT_URL"), os.Getenv("WRONG_URL")} {
				if err := callDemoAPI(cmd.Context(), client, url, cmd.OutOrStdout()); err != nil {
					return err
				}
			}
			if address := os.Getenv(demoDirect); address != "" {
				callDirectly(cmd.Context(), address, cmd.OutOrStdout())
			}
			return nil
		},
	}
}

func callDemoAPI(ctx context.Context, client *http.Client, url string, out io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+os.Getenv(demoVariable))
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(out, resp.Body)
	return err
}

// callDirectly tries to go around the proxy, and prints what it met.
func callDirectly(ctx context.Context, address string, out io.Writer) {
	conn, err := (&net.Dialer{Timeout: directTimeout}).DialContext(ctx, "tcp", address)
	if err != nil {
		fmt.Fprintln(out, "direct:", err)
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(directTimeout))
	fmt.Fprintln(conn, "nothing that a proxy forwards")
	text, _ := io.ReadAll(io.LimitReader(conn, 64))
	fmt.Fprintf(out, "direct: %q\n", text)
}
