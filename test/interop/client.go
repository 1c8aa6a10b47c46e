// A client of Go's standard library: rounds through an echo, then stdin through it to stdout. An upgraded
// connection has no half-close there: its end is counted.
package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	pem, err := os.ReadFile(os.Args[3])
	check(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	var body io.ReadCloser
	var writer io.WriteCloser
	if os.Args[1] == "upgrade" {
		request, err := http.NewRequest("GET", os.Args[2], nil)
		check(err)
		request.Header.Set("Connection", "Upgrade")
		request.Header.Set("Upgrade", "echo")
		response, err := client.Do(request)
		check(err)
		if response.StatusCode != 101 {
			check(fmt.Errorf("%s", response.Status))
		}
		body = response.Body
		writer = response.Body.(io.ReadWriteCloser)
	} else {
		reader, pipe := io.Pipe()
		request, err := http.NewRequest("PUT", os.Args[2], reader)
		check(err)
		response, err := client.Do(request)
		check(err)
		if response.StatusCode != 200 {
			check(fmt.Errorf("%s", response.Status))
		}
		body = response.Body
		writer = pipe
	}
	rounds, err := strconv.Atoi(os.Args[4])
	check(err)
	for round := 0; round < rounds; round++ {
		text := []byte(fmt.Sprintf("round %d", round))
		_, err = writer.Write(text)
		check(err)
		back := make([]byte, len(text))
		_, err = io.ReadFull(body, back)
		check(err)
		if !bytes.Equal(back, text) {
			check(fmt.Errorf("%q", back))
		}
	}
	data, err := io.ReadAll(os.Stdin)
	check(err)
	go func() {
		_, err := writer.Write(data)
		check(err)
		if os.Args[1] != "upgrade" {
			check(writer.Close())
		}
	}()
	back := make([]byte, len(data))
	_, err = io.ReadFull(body, back)
	check(err)
	if os.Args[1] == "upgrade" {
		check(writer.Close())
	} else {
		rest, err := io.ReadAll(body)
		check(err)
		if len(rest) > 0 {
			check(fmt.Errorf("%d bytes too many", len(rest)))
		}
	}
	_, err = os.Stdout.Write(back)
	check(err)
}
