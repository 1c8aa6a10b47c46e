import type { IncomingMessage, Server } from 'node:http'
import type { Socket } from 'node:net'

/**
 * Field names and values that ask for the upgrade which is ignored, RFC 9110 section 7.8. The rest
 * of the head stays as it was, order and repetition included.
 */
export function headWithoutUpgrade (req: IncomingMessage): Buffer {
  let head = `${req.method} ${req.url} HTTP/${req.httpVersion}\r\n`
  for (let at = 0; at < req.rawHeaders.length; at += 2) {
    const name = req.rawHeaders[at] as string
    const value = req.rawHeaders[at + 1] as string
    switch (name.toLowerCase()) {
      case 'upgrade':
      case 'http2-settings':
        continue
      case 'connection': {
        const options = value.split(',').map(option => option.trim())
          .filter(option => option !== '' && !/^(?:upgrade|http2-settings)$/i.test(option))
        if (options.length > 0) head += `${name}: ${options.join(', ')}\r\n`
        continue
      }
      default:
        head += `${name}: ${value}\r\n`
    }
  }
  // Field values are bytes to HTTP, and Node reads them as latin1.
  return Buffer.from(`${head}\r\n`, 'latin1')
}

/**
 * Returns a socket to the HTTP server, whose parser starts anew with the bytes that were put back.
 * A TLS server takes its sockets from another event, and does not survive them on the plain one.
 */
export function giveBack (server: Server, socket: Socket, tls: boolean): void {
  if (tls) socket.allowHalfOpen = false
  server.emit(tls ? 'secureConnection' : 'connection', socket)
}
