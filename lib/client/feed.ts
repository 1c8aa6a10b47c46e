import type { Readable, Writable } from 'node:stream'

/** The error of a source that was destroyed without one. */
function closedEarly (): Error {
  return Object.assign(new Error('The stream to send was closed before its end'), { code: 'ERR_STREAM_PREMATURE_CLOSE' })
}

export interface Feed {
  /** Stops. Unread bytes stay in the source. */
  stop (): void
}

/**
 * Sends everything from `source` to `writable`, and then ends `writable`. If somebody ends `writable` before, this stops. A source
 * that is destroyed before its end has failed, because what was sent is not the whole.
 */
export function feed (source: Readable, writable: Writable, failed: (error: Error) => void): Feed {
  const onDrain = (): void => { source.resume() }
  const onData = (chunk: Buffer | string): void => {
    if (writable.writableEnded || writable.destroyed) stop()
    else if (!writable.write(chunk)) source.pause()
  }
  const onEnd = (): void => {
    stop()
    if (!writable.writableEnded) writable.end()
  }
  const onClose = (): void => {
    stop()
    failed(closedEarly())
  }
  function stop (): void {
    source.removeListener('data', onData)
    source.removeListener('end', onEnd)
    source.removeListener('close', onClose)
    writable.removeListener('drain', onDrain)
    writable.removeListener('error', stop)
    source.pause()
  }
  // If the connection fails, its readable half reports the error.
  writable.on('error', stop)
  writable.on('drain', onDrain)
  source.on('error', failed)
  source.on('end', onEnd)
  source.on('close', onClose)
  source.on('data', onData)
  if (source.errored != null) failed(source.errored)
  else if (source.destroyed && !source.readableEnded) onClose()
  else if (!source.readable) onEnd()
  return { stop }
}
