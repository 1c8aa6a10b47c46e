import type { Readable } from 'node:stream'
import { clientLeft } from '../internals/sockets.ts'

/**
 * The iterator of an HTTP/2 stream. Node's own fails with a premature close if a stream is read only after it is
 * over on the wire (Node 24 and 26), and if the peer has reset it. As on other carriers, the end of a loop
 * destroys nothing, so that the other half of the stream can go on.
 */
export async function * chunks (stream: Readable): AsyncGenerator<unknown, void, undefined> {
  let wake = (): void => {}
  const look = (): void => wake()
  const events = ['readable', 'end', 'error', 'close']
  for (const event of events) stream.on(event, look)
  try {
    for (;;) {
      const chunk: unknown = stream.destroyed ? null : stream.read()
      if (chunk !== null) yield chunk
      else if (stream.errored != null) throw stream.errored
      else if (stream.readableEnded) return
      else if (stream.destroyed) throw clientLeft()
      else await new Promise<void>(resolve => { wake = resolve })
    }
  } finally {
    for (const event of events) stream.removeListener(event, look)
  }
}
