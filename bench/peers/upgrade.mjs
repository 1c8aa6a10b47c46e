// The echo of this benchmark by hand, for other runtimes that have Node's `http`. It prints its port.
import http from 'node:http'

const server = http.createServer()
server.on('upgrade', (_req, socket, head) => {
  socket.on('error', () => {})
  socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n')
  if (head.length > 0) socket.unshift(head)
  socket.pipe(socket)
})
server.listen(0, '127.0.0.1', () => console.log(server.address().port))
