import { Socket } from 'node:net'
import { Duplex, type Readable, type Writable } from 'node:stream'
import { breakOff } from '../http1/break-off.ts'
import { resetByPeer, takeResetForEnd, tellResetFromEnd, type HttpSocket } from '../internals/sockets.ts'
import type { TunnelEnd, TunnelResult } from '../../types/index.ts'

interface Pair {
  readable: Readable
  writable: Writable
}

/**
 * Joins two duplexes until both directions have ended.
 *
 * Each direction has the other's backpressure, and its end is passed on as an end: a half-close on
 * one side becomes a half-close on the other, and what is still under way in the other direction
 * arrives. An error or a reset on either side destroys both, once.
 *
 * @param connection a connection of this plugin, or anything with `readable` and `writable`
 * @param upstream a Duplex such as a `net.Socket`, or such a pair
 * @returns the bytes that went each way; rejects with the error that tore the tunnel down
 */
export async function tunnel (connection: TunnelEnd, upstream: TunnelEnd): Promise<TunnelResult> {
  const client = pairOf(connection)
  const server = pairOf(upstream)
  const streams = new Set<Readable | Writable>([client.readable, client.writable, server.readable, server.writable])
  const tearDown = (error: Error): void => {
    for (const stream of streams) fail(stream, error)
  }
  const sockets = [...streams].filter(isForeignSocket)
  for (const socket of sockets) tellResetFromEnd(socket, onReset)
  try {
    const [bytesToUpstream, bytesFromUpstream] = await Promise.all([
      flow(client.readable, server.writable),
      flow(server.readable, client.writable)
    ])
    return { bytesToUpstream, bytesFromUpstream }
  } catch (error) {
    tearDown(error as Error)
    throw error
  } finally {
    for (const socket of sockets) takeResetForEnd(socket, onReset)
    // Listeners of the flow are gone; a reset that comes now is no news to anybody.
    for (const stream of streams) stream.on('error', () => {})
  }
}

/** Neither side may take what is left of the other for an end of it. */
function fail (stream: Readable | Writable, error: Error): void {
  if (isForeignSocket(stream)) breakOff(stream, error)
  else stream.destroy(error)
}

/** The socket of a connection resets by itself, and knows a reset. */
function isForeignSocket (stream: Readable | Writable): stream is Socket {
  return stream instanceof Socket && !Object.hasOwn(stream, 'destroy')
}

function onReset (this: HttpSocket): void {
  this.destroy(resetByPeer())
}

function pairOf (end: TunnelEnd): Pair {
  return end instanceof Duplex ? { readable: end, writable: end } : end as Pair
}

/** One direction. Resolves when the destination has taken everything and was ended. */
function flow (from: Readable, to: Writable): Promise<number> {
  return new Promise((resolve, reject) => {
    let bytes = 0
    const onData = (chunk: Buffer): void => {
      bytes += chunk.length
      if (!to.write(chunk)) from.pause()
    }
    const onDrain = (): void => { from.resume() }
    const onEnd = (): void => {
      if (to.writableFinished) onFinish()
      else to.end()
    }
    // Somebody else may have ended the destination, and there is more for it.
    const onFinish = (): void => settle(() => { from.readableEnded ? resolve(bytes) : reject(closedEarly()) })
    const onError = (error: Error): void => settle(() => reject(error))
    const onFromClose = (): void => { if (!from.readableEnded) onError(closedEarly()) }
    const onToClose = (): void => { if (!to.writableFinished) onError(closedEarly()) }
    const settle = (how: () => void): void => {
      from.removeListener('data', onData)
      from.removeListener('end', onEnd)
      from.removeListener('error', onError)
      from.removeListener('close', onFromClose)
      to.removeListener('drain', onDrain)
      to.removeListener('finish', onFinish)
      to.removeListener('error', onError)
      to.removeListener('close', onToClose)
      how()
    }
    if ((from.destroyed && !from.readableEnded) || (to.destroyed && !to.writableFinished)) {
      reject(from.errored ?? to.errored ?? closedEarly())
      return
    }
    from.on('error', onError)
    from.on('close', onFromClose)
    to.on('error', onError)
    to.on('close', onToClose)
    to.on('drain', onDrain)
    to.on('finish', onFinish)
    if (from.readableEnded) {
      onEnd()
      return
    }
    from.on('end', onEnd)
    from.on('data', onData)
    // It may have been paused until the other side was there.
    from.resume()
  })
}

function closedEarly (): Error {
  return Object.assign(new Error('The tunnel was closed before both sides ended'), { code: 'ERR_STREAM_PREMATURE_CLOSE' })
}
