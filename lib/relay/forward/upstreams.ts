import type { ClientHttp2Session } from 'node:http2'
import type { Socket } from 'node:net'
import type { FastifyInstance } from 'fastify'
import { FST_ERR_DUPLEX_UPSTREAM_INVALID } from '../../errors.ts'
import { EachSecond } from '../../tools/each-second.ts'
import { rootOf } from '../../internals/fastify.ts'
import { hasEnd } from '../../internals/streams.ts'
import { openSession } from '../../client/http2.ts'
import { dial } from '../../dial/dial.ts'
import type { ForwardSettings } from './options.ts'
import type { Target } from './target.ts'
import type { Milliseconds } from '../../../types/index.ts'

/** How long an unused connection is kept. Most servers keep one longer: Node keeps it for 5 s. */
const IDLE: Milliseconds = 4_000

/** How many unused connections to one upstream are kept. */
const MOST_IDLE = 64

/** The connections of an app to its upstreams, if they carry more than one request. */
export class Upstreams {
  readonly #idle = new Map<string, Kept[]>()
  readonly #sessions = new Map<string, Promise<ClientHttp2Session>>()
  readonly #sweep = new EachSecond(() => {
    const now = performance.now()
    // The one that has waited longest is the first.
    for (const kept of this.#idle.values()) while (kept[0]?.isOld(now) === true) kept.shift()?.destroy()
    for (const [key, kept] of this.#idle) if (kept.length === 0) this.#idle.delete(key)
    return this.#idle.size > 0
  })

  #closed = false

  /** An unused connection, if there is one. */
  take (key: string): Socket | undefined {
    const idle = this.#idle.get(key)
    if (idle === undefined) return undefined
    for (let next = idle.pop(); next !== undefined; next = idle.pop()) {
      const socket = next.take()
      if (socket !== undefined) return socket
    }
    return undefined
  }

  /** Takes back a connection that carries no request any more. */
  give (key: string, socket: Socket): void {
    let idle = this.#idle.get(key)
    if (this.#closed || socket.destroyed || hasEnd(socket) || !socket.writable || (idle !== undefined && idle.length >= MOST_IDLE)) {
      socket.destroy()
      return
    }
    if (idle === undefined) this.#idle.set(key, idle = [])
    Kept.of(socket).wait(idle)
    this.#sweep.start()
  }

  /**
   * An HTTP/2 session that can take another stream.
   *
   * @param fresh a new one
   */
  async session (
    key: string, target: Target, settings: ForwardSettings, fresh: boolean, signal: AbortSignal
  ): Promise<{ session: ClientHttp2Session, reused: boolean }> {
    const known = fresh ? undefined : this.#sessions.get(key)
    const session = known === undefined ? undefined : await known.catch(() => undefined)
    if (session !== undefined && takesMore(session)) return { session, reused: true }
    const opening = openTo(target, settings, signal)
    this.#sessions.set(key, opening)
    const forget = (): void => { if (this.#sessions.get(key) === opening) this.#sessions.delete(key) }
    opening.then(opened => {
      closeWhenIdle(opened)
      opened.once('close', forget)
      opened.once('goaway', forget)
      if (this.#closed) opened.close()
    }, forget)
    return { session: await opening, reused: false }
  }

  /** The session may be dead: it takes no more requests. */
  distrust (key: string, session: ClientHttp2Session): void {
    const known = this.#sessions.get(key)
    void known?.then(current => { if (current === session && this.#sessions.get(key) === known) this.#sessions.delete(key) }, () => {})
    session.close()
  }

  close (): void {
    this.#closed = true
    for (const idle of this.#idle.values()) for (const kept of idle.splice(0)) kept.destroy()
    for (const session of this.#sessions.values()) session.then(opened => opened.close(), () => {})
    this.#sessions.clear()
  }
}

const kKept = Symbol('fastify-duplex.kept')

interface KeptSocket extends Socket {
  [kKept]?: Kept
}

/**
 * A connection that carries one request after the other. If bytes arrive while it waits for the next request, they answer
 * nothing, and the connection is closed. Its listeners stay, because they cost more than the calls that they do not need.
 */
class Kept {
  readonly #socket: Socket
  /** The list that it waits in. */
  #idle: Kept[] | undefined
  #since = 0

  private constructor (socket: Socket) {
    this.#socket = socket
    const destroy = (): void => { if (this.#idle !== undefined) socket.destroy() }
    socket.on('data', destroy)
    socket.on('end', destroy)
    socket.on('close', () => {
      const at = this.#idle?.indexOf(this) ?? -1
      if (at !== -1) this.#idle?.splice(at, 1)
    })
  }

  static of (socket: KeptSocket): Kept {
    return (socket[kKept] ??= new Kept(socket))
  }

  wait (idle: Kept[]): void {
    const socket = this.#socket
    this.#idle = idle
    this.#since = performance.now()
    idle.push(this)
    if (socket.isPaused()) socket.resume()
    socket.unref()
  }

  isOld (now: number): boolean { return now - this.#since >= IDLE }

  /** @returns undefined if the connection is gone */
  take (): Socket | undefined {
    const socket = this.#socket
    this.#idle = undefined
    if (!socket.destroyed && !hasEnd(socket) && socket.writable && !this.isOld(performance.now())) {
      socket.ref()
      return socket
    }
    socket.destroy()
    return undefined
  }

  destroy (): void {
    this.#idle = undefined
    this.#socket.destroy()
  }
}

async function openTo (target: Target, settings: ForwardSettings, signal: AbortSignal): Promise<ClientHttp2Session> {
  const { connectTimeout, check } = settings
  const tls = target.tls === undefined ? undefined : { ...target.tls, ALPNProtocols: ['h2'] }
  const socket = await dial(target.dial, { signal, timeout: connectTimeout, check, tls })
  if (tls !== undefined && (socket as Socket & { alpnProtocol?: unknown }).alpnProtocol !== 'h2') {
    socket.destroy()
    throw new FST_ERR_DUPLEX_UPSTREAM_INVALID('it does not speak HTTP/2')
  }
  return await openSession(socket, { scheme: target.scheme, signal, timeout: connectTimeout })
}

const kOpen = Symbol('fastify-duplex.open')

interface Counting extends ClientHttp2Session {
  [kOpen]?: number
}

function takesMore (session: Counting): boolean {
  return !session.closed && !session.destroyed && (session[kOpen] ?? 0) < (session.remoteSettings.maxConcurrentStreams ?? Infinity)
}

/** The session closes by itself some time after its last stream. */
function closeWhenIdle (session: Counting): void {
  let timer: NodeJS.Timeout | undefined
  const idle = (): void => { timer = setTimeout(() => session.close(), IDLE).unref() }
  session[kOpen] = 0
  const { request } = session
  session.request = (...args: Parameters<typeof request>) => {
    const stream = request.apply(session, args)
    session[kOpen] = (session[kOpen] ?? 0) + 1
    clearTimeout(timer)
    stream.once('close', () => {
      session[kOpen] = (session[kOpen] ?? 1) - 1
      if (session[kOpen] === 0 && !session.closed) idle()
    })
    return stream
  }
  session.once('close', () => clearTimeout(timer))
  idle()
}

const all = new WeakMap<object, Upstreams>()

export function upstreamsOf (app: FastifyInstance): Upstreams {
  const root = rootOf(app)
  let upstreams = all.get(root)
  if (upstreams === undefined) {
    upstreams = new Upstreams()
    all.set(root, upstreams)
  }
  return upstreams
}

/** The app has closed. */
export function closeUpstreams (app: FastifyInstance): void {
  const root = rootOf(app)
  all.get(root)?.close()
  all.delete(root)
}

const numbers = new WeakMap<object, number>()
let latest = 0

function numberOf (value: object | undefined): number {
  if (value === undefined) return 0
  let number = numbers.get(value)
  if (number === undefined) numbers.set(value, number = ++latest)
  return number
}

/** Requests with the same key may share connections: their upstream is the same, and the same check has passed it. */
export function keyOf ({ dial, tls, scheme }: Target, { check, version }: ForwardSettings): string {
  const where = 'path' in dial ? dial.path : `${dial.host} ${dial.port}`
  // `tls: true` always means the same, so it needs no object in the key.
  const options = tls === undefined || Object.keys(tls).length === 0 ? 0 : numberOf(tls)
  return `${scheme} ${version} ${options} ${numberOf(check)} ${where}`
}
