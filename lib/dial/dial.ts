import dns from 'node:dns'
import net, { isIP, isIPv6, type Socket } from 'node:net'
import tls, { type TLSSocket } from 'node:tls'
import { checkDuration } from '../check-options.ts'
import {
  FST_ERR_DUPLEX_DIAL_FAILED, FST_ERR_DUPLEX_DIAL_FORBIDDEN, FST_ERR_DUPLEX_DIAL_TIMEOUT, FST_ERR_DUPLEX_INVALID_OPTION
} from '../errors.ts'
import { endBetweenReads } from '../internals/half-open.ts'
import { ownErrors } from '../streams/own-errors.ts'
import type { DialCheck, DialOptions, DialTarget, DialTlsOptions, Milliseconds } from '../../types/index.ts'

const TIMEOUT: Milliseconds = 10_000

/** RFC 8305 section 5: after so many milliseconds without an answer the next address is tried, too. */
const ATTEMPT_DELAY: Milliseconds = 250

/**
 * Connects to a target, for `tunnel()` or on its own.
 *
 * A name is resolved once, and `check` is asked for every address. The addresses that pass are tried as RFC 8305 says: IPv6 and
 * IPv4 take turns. The name is not resolved again, so a second answer of the DNS cannot lead elsewhere.
 *
 * Rejects with `FST_ERR_DUPLEX_DIAL_FORBIDDEN` (403) when no address passed, `FST_ERR_DUPLEX_DIAL_FAILED` (502) when
 * the name has no address or nobody answers, `FST_ERR_DUPLEX_DIAL_TIMEOUT` (504), the reason of `signal`, or the error that
 * `check` throws. The first two have a `cause`, for the log. Their message, which a client may see, names no address.
 * An invalid target or option rejects with `FST_ERR_DUPLEX_INVALID_OPTION` (500).
 *
 * @returns a connected socket: half-open (`allowHalfOpen`), without delay (TCP_NODELAY), and with an `'error'` listener, so
 * that a reset does not end the process. Nothing was read from it yet.
 */
export function dial (target: DialTarget, options: DialOptions & { tls: true | DialTlsOptions }): Promise<TLSSocket>
export function dial (target: DialTarget, options?: DialOptions): Promise<Socket>
export async function dial (target: DialTarget, options: DialOptions = {}): Promise<Socket> {
  assertTarget(target)
  checkDuration('timeout', options.timeout)
  const { signal, timeout = TIMEOUT, check } = options
  signal?.throwIfAborted()
  const attempts = new Attempts(options.tls)
  const onAbort = (): void => attempts.fail((signal as AbortSignal).reason)
  signal?.addEventListener('abort', onAbort, { once: true })
  const timer = timeout > 0 ? setTimeout(() => attempts.fail(new FST_ERR_DUPLEX_DIAL_TIMEOUT(timeout)), timeout) : undefined
  try {
    // A look-up or a check cannot be cancelled. So `dial()` stops waiting for it.
    const addresses = await Promise.race([allowed(target, check), attempts.over])
    return await attempts.connect(target, addresses)
  } finally {
    clearTimeout(timer)
    signal?.removeEventListener('abort', onAbort)
  }
}

function assertTarget (target: DialTarget): void {
  const { host, port, path } = target as { host?: unknown, port?: unknown, path?: unknown } | undefined ?? {}
  if (typeof path === 'string' && path !== '') return
  const isPort = Number.isInteger(port) && (port as number) > 0 && (port as number) <= 65535
  if (typeof host === 'string' && host !== '' && isPort) return
  throw new FST_ERR_DUPLEX_INVALID_OPTION(`the target of dial() must be { host, port } or { path }, got ${JSON.stringify(target)}`)
}

/** The addresses that may be dialled, IPv6 and IPv4 in turn. For a path it is the path. */
async function allowed (target: DialTarget, check: DialCheck | undefined): Promise<string[]> {
  const host = 'path' in target ? target.path : target.host
  const found = 'path' in target || isIP(host) !== 0 ? [host] : await resolve(host)
  if (check === undefined) return inTurn(found)
  const passed: string[] = []
  for (const address of found) if (await check(address, host) === true) passed.push(address)
  if (passed.length > 0) return inTurn(passed)
  throw new FST_ERR_DUPLEX_DIAL_FORBIDDEN({ cause: new Error(`${host} leads to ${found.join(', ')}`) })
}

function resolve (host: string): Promise<string[]> {
  return new Promise((resolve, reject) => {
    // This calls the method of `dns`, so that an app may replace it.
    dns.lookup(host, { all: true }, (error, found) => {
      if (error === null && found.length > 0) resolve(found.map(({ address }) => address))
      else reject(new FST_ERR_DUPLEX_DIAL_FAILED({ cause: error ?? new Error(`${host} has no address`) }))
    })
  })
}

/** RFC 8305 section 4: begins with the family of the first address, and then alternates. */
function inTurn (addresses: string[]): string[] {
  const firstIs6 = isIPv6(addresses[0] as string)
  const first = addresses.filter(address => isIPv6(address) === firstIs6)
  const other = addresses.filter(address => isIPv6(address) !== firstIs6)
  return first.flatMap((address, at) => [address, ...other.slice(at, at + 1)]).concat(other.slice(first.length))
}

/** The sockets of one `dial()`. At most one of them remains. */
class Attempts {
  /** Rejects when no socket will be connected any more. */
  readonly over: Promise<never>
  readonly fail: (reason: unknown) => void
  readonly #tls: DialTlsOptions | undefined
  readonly #trying = new Set<Socket>()
  readonly #errors: Error[] = []
  #untried: string[] = []
  #next: NodeJS.Timeout | undefined
  #failed = false
  #done: (socket: Socket) => void = () => {}

  constructor (tls: boolean | DialTlsOptions | undefined) {
    this.#tls = tls === true ? {} : tls === false ? undefined : tls
    let rejectOver!: (reason: unknown) => void
    this.over = new Promise((_resolve, reject) => { rejectOver = reject })
    this.over.catch(() => {})
    this.fail = reason => {
      this.#failed = true
      this.#destroyAllBut(undefined)
      rejectOver(reason)
    }
  }

  connect (target: DialTarget, addresses: string[]): Promise<Socket> {
    if (this.#failed) return this.over
    this.#untried = addresses
    const connected = new Promise<Socket>(resolve => { this.#done = resolve })
    this.#try(target)
    return Promise.race([connected, this.over])
  }

  #try (target: DialTarget): void {
    clearTimeout(this.#next)
    const address = this.#untried.shift()
    if (address === undefined) return
    const socket = this.#open(target, address)
    this.#trying.add(socket)
    ownErrors(socket)
    const onError = (error: Error): void => {
      if (!this.#trying.delete(socket)) return
      this.#errors.push(error)
      if (this.#untried.length > 0) this.#try(target)
      else if (this.#trying.size === 0) this.fail(new FST_ERR_DUPLEX_DIAL_FAILED({ cause: this.#cause }))
    }
    const onReady = (): void => {
      if (!this.#trying.delete(socket)) return
      socket.removeListener('error', onError)
      this.#done(socket)
    }
    socket.on('error', onError)
    if (this.#tls === undefined) {
      socket.once('connect', () => {
        this.#destroyAllBut(socket)
        onReady()
      })
    } else {
      // The address answers. The TLS handshake is still to come.
      socket.once('connect', () => this.#destroyAllBut(socket))
      socket.once('secureConnect', onReady)
    }
    if (this.#untried.length > 0) this.#next = setTimeout(() => this.#try(target), ATTEMPT_DELAY)
  }

  #open (target: DialTarget, address: string): Socket {
    const to = 'path' in target ? { path: target.path } : { host: address, port: target.port }
    if (this.#tls === undefined) return net.connect({ ...to, allowHalfOpen: true, noDelay: true })
    // RFC 6066 section 3: an IP address is not a server name.
    const name = 'path' in target || isIP(target.host) !== 0 ? {} : { servername: target.host }
    const socket = tls.connect({ ...name, ...this.#tls, ...to, socket: undefined })
    socket.allowHalfOpen = true
    endBetweenReads(socket)
    socket.setNoDelay(true)
    return socket
  }

  get #cause (): Error | undefined {
    return this.#errors.length > 1 ? new AggregateError(this.#errors, 'No address answers') : this.#errors[0]
  }

  #destroyAllBut (chosen: Socket | undefined): void {
    clearTimeout(this.#next)
    this.#untried = []
    for (const socket of this.#trying) {
      if (socket === chosen) continue
      this.#trying.delete(socket)
      socket.destroy()
    }
  }
}
