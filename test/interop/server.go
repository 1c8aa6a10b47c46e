// A server of the standard library: it upgrades to "echo" by Hijack, and answers a body in capitals.
package main

import (
	"bytes"
	"io"
	"net/http"
	"os"
)

func echo(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "echo" {
		w.Header().Set("Upgrade", "echo")
		http.Error(w, "echo alone", http.StatusUpgradeRequired)
		return
	}
	conn, buffered, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	buffered.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	buffered.Flush()
	io.Copy(conn, buffered)
}

func upper(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	w.Write(bytes.ToUpper(body))
}

func main() {
	http.HandleFunc("/echo", echo)
	http.HandleFunc("/upper", upper)
	panic(http.ListenAndServe("127.0.0.1:"+os.Args[1], nil))
}
