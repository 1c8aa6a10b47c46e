import { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { Readable } from 'node:stream'
import { FST_ERR_DUPLEX_ABORTED, FST_ERR_DUPLEX_CANNOT_DETACH } from '../errors.ts'
import type { Milliseconds } from '../../types/index.ts'
import { kindsOverHttp1, type KindHead } from '../handshake/kinds/index.ts'
import { bytesInFlight, type HttpSocket } from '../internals/sockets.ts'
import { clearFields } from '../internals/http-messages.ts'
import { iterateWithoutDestroying } from '../internals/streams.ts'
import type { HeadFields } from '../handshake/accept-head.ts'
import { kCarrier } from '../handshake/symbols.ts'
import { discardBody, isRead } from './unread-body.ts'
import { breakOff } from './break-off.ts'
import type { Carrier, Owner } from '../connection/carrier.ts'
import { countOutput } from '../connection/count-output.ts'

const NOTHING = Buffer.alloc(0)

/** A request body and the response that is sent while it arrives, on a connection that stays Node's. */
export class BodyCarrier implements Carrier {
  readonly heads = kindsOverHttp1
  readonly head = NOTHING
  readonly readable: Readable
  readonly writable: ServerResponse
  bytesRead = 0
  bytesWritten = 0
  /** As the response told: up to Node 22 one that was destroyed, and ended then, says of itself that it has finished. */
  outputFlushed = false
  peerError: Error | undefined
  localError: Error | undefined
  owner: Owner | undefined
  /** What `push()` was before ours, which is on the prototype unless somebody has put another there. */
  usualPush: IncomingMessage['push'] | undefined
  readonly #req: IncomingMessage
  /** Kept here: a `pipeline` that fails sets the `socket` of the request to null. */
  readonly #socket: Socket
  #discarding = false
  #lingering = false
  #aborted = false
  #destroyedHere = false

  /** @param body what the last preParsing hook made of the request: itself, or decompressed */
  constructor (req: IncomingMessage, res: ServerResponse, body: Readable) {
    this.#req = req
    this.#socket = req.socket
    this.readable = body
    this.writable = res
    const progress = (): void => this.owner?.progressed()
    const failed = (error: Error): void => {
      if (!isAbort(error)) this.localError ??= error
      else if (!this.#destroyedHere) this.peerError ??= error
      progress()
    }
    req.on('error', failed)
    req.on('end', progress)
    req.on('close', progress)
    if (body !== req) {
      body.on('error', failed)
      // A stream between the body and its reader does not learn by itself that the body broke off.
      req.on('close', () => { if (!req.complete || req.aborted) body.destroy(this.peerError ?? this.localError ?? aborted()) })
    }
    res.on('error', failed)
    res.on('finish', () => {
      this.outputFlushed = true
      progress()
    })
    const gone = (): void => {
      if (!this.outputFlushed || (this.#socket.destroyed && !req.complete)) {
        if (!this.#destroyedHere) this.peerError ??= aborted()
        this.#aborted = true
      }
      progress()
    }
    res.on('close', gone)
    // The response to a pipelined request has no socket yet, and is not told when that closes.
    req.on('close', () => { if (this.#socket.destroyed) gone() })
  }

  get sent (): number {
    const socket = this.#socket
    return socket.bytesWritten - socket.writableLength - bytesInFlight(socket as unknown as HttpSocket)
  }

  get inputEnded (): boolean { return this.#req.complete }

  get closed (): boolean {
    return this.#aborted || (this.outputFlushed && (this.#req.complete || this.#req.destroyed))
  }

  writeHead (status: number, fields: HeadFields, head: KindHead): void {
    const res = this.writable
    clearFields(res)
    const set = new Set(fields.map(([name]) => name.toLowerCase()))
    // Not as an argument of writeHead(): on Node 20 the last of several fields would win there.
    for (const [name, value] of fields) res.appendHeader(name, value)
    for (const [name, value] of head.fields(undefined)) if (!set.has(name.toLowerCase())) res.appendHeader(name, value)
    res.writeHead(status)
    res.flushHeaders()
  }

  start (): void {
    iterateWithoutDestroying(this.readable)
    if (this.readable !== this.#req) iterateWithoutDestroying(this.#req)
    this.#countInput()
    countOutput(this.writable, this)
    this.#watchDestroy()
  }

  keepAlive (delay: Milliseconds): void {
    this.#socket.setKeepAlive(true, delay)
  }

  end (): void {
    const { writable } = this
    if (!writable.writableEnded && !writable.destroyed) writable.end()
  }

  /** As Node does it: what nobody has begun to read when the response is over, nobody wants. */
  leave (): void {
    const { writable } = this
    if (this.outputFlushed) this.discardInput()
    else writable.once('finish', () => this.discardInput())
  }

  discardInput (): void {
    const req = this.#req
    const { readable } = this
    if (req.readableEnded || req.destroyed) return
    if (this.#discarding) {
      // A handler that pauses what it has closed would leave the rest on the wire.
      if (!this.#lingering) req.resume()
      return
    }
    if (isRead(readable)) return
    this.#discarding = true
    discardBody(req, this.#socket, () => this.outputFlushed, () => {
      this.#destroyedHere = true
      this.#lingering = true
    })
  }

  breakOff (error: Error | undefined): void {
    this.#aborted = true
    const { writable } = this
    const socket = this.#socket
    if (this.readable !== this.#req) this.readable.destroy(error)
    // The last chunk is never sent.
    writable.destroy(error)
    if (!socket.destroyed) socket.destroy()
    this.owner?.progressed()
  }

  complete (res: ServerResponse, error: Error | undefined): void {
    if (!this.outputFlushed) res.emit('error', error ?? new FST_ERR_DUPLEX_ABORTED())
  }

  detach (): never {
    throw new FST_ERR_DUPLEX_CANNOT_DETACH()
  }

  #countInput (): void {
    const req = this.#req
    // What came before acceptance is in the buffer already.
    this.bytesRead = req.readableLength
    this.usualPush = req.push
    ;(req as Carried)[kCarrier] = this
    req.push = push
  }

  /** Tells a stream that the app destroyed from one that the peer broke: then its socket is gone already. */
  #watchDestroy (): void {
    const { writable, readable } = this
    const socket = this.#socket
    for (const stream of new Set<Readable | ServerResponse>([writable, readable, this.#req])) {
      const destroy = stream.destroy as (error?: Error) => never
      stream.destroy = (error?: Error) => {
        // A stream that has been read to its end destroys itself.
        if (!this.closed && !socket.destroyed && (stream as { readableEnded?: boolean }).readableEnded !== true) {
          this.#destroyedHere = true
          this.localError ??= error
        }
        return Reflect.apply(destroy, stream, error === undefined ? [] : [error])
      }
    }
    if (writable.chunkedEncoding) return
    // HTTP/1.0 has no chunks: the end of the connection is the end of the response, and must not come before it.
    const { destroy } = socket
    socket.destroy = (error?: Error) => {
      socket.destroy = destroy
      if (writable.writableFinished) return socket.destroy(error)
      breakOff(socket, error)
      return socket
    }
  }
}

interface Carried extends IncomingMessage {
  [kCarrier]?: BodyCarrier
}

/** The same function for all requests. */
function push (this: Carried, chunk: unknown, encoding?: BufferEncoding): boolean {
  const carrier = this[kCarrier] as BodyCarrier
  // The peer has ended its side, whether or not anybody reads up to that: 'end' comes with the last byte read.
  if (chunk === null) process.nextTick(() => carrier.owner?.progressed())
  else carrier.bytesRead += (chunk as Buffer).length
  return (carrier.usualPush as IncomingMessage['push']).call(this, chunk, encoding)
}

function aborted (): Error {
  return Object.assign(new Error('aborted'), { code: 'ECONNRESET' })
}

/** Node destroys a request with this when its connection is gone or its body is malformed. */
function isAbort (error: Error & { code?: string }): boolean {
  return error.code === 'ECONNRESET' || error.code === 'EPIPE'
}
