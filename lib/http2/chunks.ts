import type { Readable } from 'node:stream'

/**
 * What a loop over a stream of HTTP/2 iterates. Node's own calls it a premature close when a stream that
 * is over on the wire is read only then (Node 24 and 26), and when the peer has reset it. Like the other
 * carriers' it destroys nothing: the end of the loop must not cost the other half.
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
      else if (stream.destroyed) throw Object.assign(new Error('aborted'), { code: 'ECONNRESET' })
      else await new Promise<void>(resolve => { wake = resolve })
    }
  } finally {
    for (const event of events) stream.removeListener(event, look)
  }
}
