// The echo of this benchmark with Go's net/http and its Hijacker, and with a port as its argument a relay to that. It prints its own port.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
)

func main() {
	runtime.GOMAXPROCS(1)
	http.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		conn, buffered, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		if len(os.Args) > 1 {
			relay(conn, buffered)
			return
		}
		chunk := make([]byte, 64*1024)
		for {
			n, err := buffered.Read(chunk)
			if n > 0 {
				if _, failed := conn.Write(chunk[:n]); failed != nil {
					return
				}
			}
			if err != nil {
				return
			}
		}
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	panic(http.Serve(listener, nil))
}

func relay(client net.Conn, early io.Reader) {
	upstream, err := net.Dial("tcp", "127.0.0.1:"+os.Args[1])
	if err != nil {
		return
	}
	defer upstream.Close()
	done := make(chan bool, 2)
	go func() { io.Copy(upstream, early); done <- true }()
	go func() { io.Copy(client, upstream); done <- true }()
	<-done
}
