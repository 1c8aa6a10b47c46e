// A client of gorilla/websocket, as Debian has it: `websocket ws://localhost:3000`. It says nothing where all is well.
package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

var dialer = websocket.Dialer{Subprotocols: []string{"chat.1", "chat.2"}, EnableCompression: true}

func fail(format string, args ...interface{}) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(1)
}

func check(err error) {
	if err != nil {
		fail("%v", err)
	}
}

func open(url string) *websocket.Conn {
	conn, _, err := dialer.Dial(url, nil)
	check(err)
	return conn
}

// Reads to the close frame, and answers it.
func closed(conn *websocket.Conn, code int) {
	_, message, err := conn.ReadMessage()
	if !websocket.IsCloseError(err, code) {
		fail("%d was expected, and not %v %q", code, err, message)
	}
	conn.Close()
}

func next(conn *websocket.Conn, wanted string) {
	_, message, err := conn.ReadMessage()
	check(err)
	if string(message) != wanted {
		fail("%q was expected, and not %q", wanted, message)
	}
}

func main() {
	origin := os.Args[1]
	conn := open(origin + "/room")
	if conn.Subprotocol() != "chat.2" {
		fail("subprotocol %q", conn.Subprotocol())
	}
	pong := ""
	conn.SetPongHandler(func(data string) error { pong = data; return nil })
	check(conn.WriteControl(websocket.PingMessage, []byte("p"), time.Now().Add(10*time.Second)))
	// As many fragments as its buffer is filled.
	writer, err := conn.NextWriter(websocket.TextMessage)
	check(err)
	long := strings.Repeat("x", 60000)
	for _, part := range []string{`{"te`, `xt":"`, long, `"}`} {
		_, err = writer.Write([]byte(part))
		check(err)
	}
	check(writer.Close())
	next(conn, `{"said":"`+long+`"}`)
	if pong != "p" {
		fail("no pong before the answer to what came behind the ping")
	}
	for count := 0; count < 300; count++ {
		check(conn.WriteJSON(map[string]int{"text": count}))
	}
	for count := 0; count < 300; count++ {
		next(conn, fmt.Sprintf(`{"said":"%d"}`, count))
	}
	check(conn.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(3000, "bye")))
	closed(conn, 3000)

	for message, code := range map[string]int{`{"other":1}`: 1007, `{"text":"` + strings.Repeat("x", 70000) + `"}`: 1009, `{"text":"leave"}`: 4000} {
		conn = open(origin + "/room")
		check(conn.WriteMessage(websocket.TextMessage, []byte(message)))
		closed(conn, code)
	}

	conn = open(origin + "/frames")
	data := bytes.Repeat([]byte("0123456789"), 10000)
	for _, kind := range []int{websocket.BinaryMessage, websocket.TextMessage} {
		check(conn.WriteMessage(kind, data))
		got, message, err := conn.ReadMessage()
		check(err)
		if got != kind || !bytes.Equal(message, data) {
			fail("another message came back")
		}
	}
	check(conn.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(1000, "")))
	closed(conn, 1000)

	_, response, err := dialer.Dial(origin+"/refused", nil)
	if err != websocket.ErrBadHandshake || response.StatusCode != 401 {
		fail("not refused: %v", err)
	}
}
