import type { IncomingMessage } from 'node:http'
import { goOnReading, resetByPeer, unwatchReset, watchReset, type HttpSocket } from '../internals/sockets.ts'
import { holdEnd } from '../internals/streams.ts'
import type { Link } from './link.ts'

/** The request head as it was received. Only white space around field values may differ. */
export function originalHead (req: IncomingMessage): Buffer {
  return headOf(req, (name, value) => `${name}: ${value}\r\n`)
}

/**
 * The head without the fields and options that ask for the ignored upgrade, RFC 9110 section 7.8. Everything else
 * stays as it was, also the order and repeated fields.
 *
 * @param close adds `Connection: close`, so that nothing behind the request is ever parsed
 */
export function headWithoutUpgrade (req: IncomingMessage, close: boolean): Buffer {
  return headOf(req, (name, value) => {
    switch (name.toLowerCase()) {
      case 'upgrade':
      case 'http2-settings':
        return ''
      // Node's parser reads this field like the next one.
      case 'proxy-connection':
      case 'connection': {
        const options = value.split(',').map(option => option.trim())
          .filter(option => option !== '' && !/^(?:upgrade|http2-settings)$/i.test(option))
        return options.length > 0 ? `${name}: ${options.join(', ')}\r\n` : ''
      }
      default:
        return `${name}: ${value}\r\n`
    }
  }, close ? 'Connection: close\r\n' : '')
}

function headOf ({ method, url, httpVersion, rawHeaders }: IncomingMessage, line: (name: string, value: string) => string, more = ''): Buffer {
  let head = `${method} ${url} HTTP/${httpVersion}\r\n`
  for (let at = 0; at < rawHeaders.length; at += 2) head += line(rawHeaders[at] as string, rawHeaders[at + 1] as string)
  // Field values are bytes to HTTP, and Node reads them as latin1.
  return Buffer.from(`${head}${more}\r\n`, 'latin1')
}

/** Watches a socket that waits for its return to HTTP: errors have a listener, and the end of input is not lost. */
export function waitToReturn (link: Link): () => void {
  const { socket } = link
  const onError = (): void => {}
  socket.on('error', onError)
  watchReset(socket, onReset)
  goOnReading(socket)
  // As Node does it: a client that half-closes has no use for answers.
  const close = (): void => {
    held.release()
    socket.resume()
    socket.end()
  }
  const held = holdEnd(socket, () => {
    if (link.takeover !== undefined || link.hasBody) link.toleratesHalfClose = close
    else close()
  })
  return () => {
    link.toleratesHalfClose = undefined
    socket.removeListener('error', onError)
    held.release()
    unwatchReset(socket, onReset)
  }
}

/** The same function for all sockets. */
function onReset (this: HttpSocket): void { this.destroy(resetByPeer()) }
