// HTTP/2. Checked on Node 20.20, 22.23, 24.21 and 26.12.
import { constants, type Http2Stream, type ServerHttp2Session, type ServerHttp2Stream } from 'node:http2'
import type { Socket } from 'node:net'
import type { HttpSocket } from './sockets.ts'
import { beginReading } from './streams.ts'

/**
 * Calls back once, when the peer has ended an HTTP/2 stream by END_STREAM. Node pushes the same end into a stream that
 * it tears down, and that does not count.
 */
export function onEndStream (stream: Http2Stream, came: () => void): void {
  const { push } = stream
  stream.push = (chunk: unknown, encoding?: BufferEncoding) => {
    const end = chunk === null && !stream.closed && !stream.destroyed
    const more = push.call(stream, chunk, encoding)
    if (end) {
      stream.push = push
      came()
    }
    return more
  }
}

/**
 * Whether the stream is over on the wire, although Node still keeps it: for its reader, or for output that was not reported as
 * sent. If the peer has reset it with NO_ERROR, output that waits for window never leaves, and Node reports nothing.
 */
export function isOverOnTheWire (stream: ServerHttp2Stream): boolean {
  return stream.closed && !stream.destroyed && stream.state.state === constants.NGHTTP2_STREAM_STATE_IDLE
}

/** Node's own key on a stream, for its state. */
let kState: symbol | undefined

/**
 * Node closes a stream, with all its input, as soon as its answer is sent, unless somebody has begun to read it. This counts as
 * having begun.
 */
export function countAsRead (stream: ServerHttp2Stream): void {
  beginReading(stream)
  kState ??= Object.getOwnPropertySymbols(stream).find(({ description }) => description === 'state')
  const state = kState && (stream as unknown as Record<symbol, { didRead?: boolean } | undefined>)[kState]
  if (state?.didRead === false) state.didRead = true
}

/**
 * Closes a session so that GOAWAY leaves before anything more is read. If a stream begins between the two, Node refuses it
 * while its head is being read. nghttp2 then frees the stream and goes on to use it: memory is corrupted, and the process may
 * die. A client can cause that by GOAWAY and HEADERS in one packet, if `close()` is called while the GOAWAY is read.
 *
 * @param closed called when GOAWAY has left, or waits for the socket
 */
export function closeBetweenReads (
  session: ServerHttp2Session, close: ServerHttp2Session['close'], socket: HttpSocket, closed: () => void
): void {
  const handle = session.closed || session.destroyed ? undefined : socket._handle
  handle?.readStop?.()
  close.call(session)
  // Node sends from an immediate of its own, which runs before this one.
  setImmediate(() => {
    if (socket._handle === handle) handle?.readStart?.()
    closed()
  })
}

/**
 * Whether this Node stops reading for good after the peer has broken the protocol, because nghttp2 wants nothing more. While
 * streams are open, it then never notices that the peer has left. Later versions end such a session.
 */
export const STOPS_READING = Number.parseInt(process.versions.node, 10) < 22

/** Reads on, and throws everything away until the end. */
export function readSession (socket: HttpSocket): void {
  socket._handle?.readStart?.()
}

/** Sends RST_STREAM only. Node would end the output first, and send END_STREAM, which the peer could take for the end. */
export function resetStream (stream: Http2Stream, code: number): void {
  if (stream.destroyed) return
  if (stream.closed) {
    stream.destroy()
    return
  }
  stream.end = (() => stream) as typeof stream.end
  stream.close(code)
  Reflect.deleteProperty(stream, 'end')
  stream.destroy()
}

/** Gives a session in memory the address of its peer. Node's own stand-in for the socket has none. */
export function lendAddress (session: ServerHttp2Session, socket: Socket & { encrypted: boolean }): void {
  Object.assign(session.socket, {
    _peername: { address: socket.remoteAddress, family: socket.remoteFamily, port: socket.remotePort },
    encrypted: socket.encrypted
  })
}
