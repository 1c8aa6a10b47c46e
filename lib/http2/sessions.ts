import type { Http2SecureServer, Http2Server, ServerHttp2Session, ServerHttp2Stream } from 'node:http2'
import type { Socket } from 'node:net'
import { SilenceWatch } from '../connection/silence-watch.ts'
import { bytesInFlight, socketBeneath, type HttpSocket } from '../internals/sockets.ts'
import { LiveSet } from '../shutdown/live-set.ts'
import type { Milliseconds } from '../../types/index.ts'

/** How long a PING may take, and the first bytes of a client that has sent none yet. */
const GRACE: Milliseconds = 1000
const SILENT_GRACE: Milliseconds = 100

/** How long a session that is over, and has sent all, waits for the end of its peer. */
const LINGER: Milliseconds = 2000

/** Behind a drain: how long nothing may move of answers that wait for their client alone, and how long they may take. */
const STILL: Milliseconds = 1000
const LATEST: Milliseconds = 30_000

interface OpenStream { readonly stream: ServerHttp2Stream }
interface Handshake { readonly socket: Socket }

/** One HTTP/2 connection. Its socket is out of reach through the session; here it is. */
export class Http2Session {
  readonly socket: Socket
  /** How long a client may take nothing of what waits for it, where no route says that. 0 is no limit. */
  readonly patience: Milliseconds
  readonly #session: ServerHttp2Session
  readonly #open = new LiveSet<OpenStream>()
  #takeovers = 0
  /** What the session's timeout was before the first takeover. */
  #timeout = 0
  /** For how long a client that takes nothing is waited for when its streams are over; unknown while none was ours. */
  #ownPatience: Milliseconds | undefined
  #taking: SilenceWatch | undefined
  #grace: NodeJS.Timeout | undefined
  #closing = false
  #cut = false

  constructor (session: ServerHttp2Session, socket: Socket, patience: Milliseconds) {
    this.#session = session
    this.socket = socket
    this.patience = patience
    // Before Node's own listener, which tells of the request.
    session.prependListener('stream', this.#onStream)
    socket.once('close', this.#onSocketClose)
  }

  get openStreams (): number { return this.#open.size }

  /** Bytes that the peer has taken, as far as is known here. */
  get taken (): number { return this.socket.bytesWritten - this.#inFlight }

  get #inFlight (): number { return bytesInFlight(this.socket as unknown as HttpSocket) }

  /** As over HTTP/1, the server's timers do not apply to what was taken over. They come back with its end. */
  takeover (stream: ServerHttp2Stream, patience = this.patience): void {
    const session = this.#session as ServerHttp2Session & { timeout?: number }
    this.waitNoLonger(patience)
    if (this.#takeovers++ === 0) {
      this.#timeout = session.timeout ?? 0
      session.setTimeout(0)
    }
    stream.once('close', () => {
      if (--this.#takeovers === 0 && !session.destroyed) session.setTimeout(this.#timeout)
    })
  }

  /** A client that takes nothing for as long as this, when its streams are over, loses its connection. */
  waitNoLonger (patience: Milliseconds): void {
    this.#ownPatience = patience
  }

  /**
   * GOAWAY names the last stream, and the client's later ones are refused. Node has no other to say first that the end
   * is near, so that it comes when all has been answered that the client sent before: it has when a PING comes back.
   *
   * @param atOnce without waiting for that
   */
  close (atOnce: boolean): void {
    const session = this.#session
    const { socket } = this
    if (this.#closing) return
    this.#closing = true
    if (socket.writableFinished) this.#linger()
    else socket.once('finish', this.#linger)
    if (session.closed || session.destroyed) return
    if (atOnce) {
      this.#close()
      return
    }
    // Fastify and Node close every session when they close the server.
    session.close = (callback?: () => void) => {
      if (callback !== undefined) session.once('close', callback)
      if (socket.destroyed) this.#close()
    }
    this.#grace = setTimeout(this.#close, socket.bytesRead === 0 ? SILENT_GRACE : GRACE)
    session.ping(this.#close)
    // Nor does a client ask for anything more when it has said that it goes away.
    session.once('goaway', this.#close)
    socket.once('end', this.#close)
  }

  /** Waits no more for the peer, neither to read nor to close; streams of the app's own are not cut. */
  cut (): void {
    if (this.#cut || this.socket.destroyed) return
    this.#cut = true
    this.#closing = true
    this.#close()
    this.#endIfOver()
    const latest = performance.now() + LATEST
    this.#taking?.stop()
    this.#taking = new SilenceWatch(STILL, () => performance.now() < latest ? this.taken : 0, () => {
      for (const { stream } of this.#open) if (!stream.writableEnded && !stream.writableNeedDrain) return false
      this.socket.destroy()
      return true
    })
  }

  readonly #onStream = (stream: ServerHttp2Stream): void => {
    const open = { stream }
    this.#open.add(open)
    stream.once('close', () => {
      this.#open.delete(open)
      this.#endIfOver()
      this.#watchTaking()
    })
  }

  /** GOAWAY: what is open goes on to its end, and nothing new is begun. */
  readonly #close = (): void => {
    const session = this.#session
    clearTimeout(this.#grace)
    this.#grace = undefined
    Reflect.deleteProperty(session, 'close')
    if (!session.closed && !session.destroyed) session.close()
  }

  readonly #linger = (): void => {
    const { socket } = this
    const timer = setTimeout(() => socket.destroy(), socket.bytesRead === 0 ? 0 : LINGER)
    socket.once('close', () => clearTimeout(timer))
  }

  /** Not before what ends the streams has left. */
  #endIfOver (): void {
    if (!this.#cut || this.#open.size > 0) return
    setImmediate(() => { if (this.#open.size === 0) this.socket.destroy() })
  }

  /** Nothing of ours is open: what the kernel has not taken by now keeps a connection that nobody reads. */
  #watchTaking (): void {
    const patience = this.#ownPatience ?? 0
    if (patience === 0 || this.#taking !== undefined || this.#open.size > 0 || this.#inFlight === 0) return
    const watch = new SilenceWatch(Math.min(patience, LINGER), () => {
      // It reads, or another stream is to be waited for.
      if (this.#inFlight === 0 || this.#open.size > 0) {
        watch.stop()
        this.#taking = undefined
      }
      return this.taken
    }, () => {
      this.socket.destroy()
      return true
    })
    this.#taking = watch
  }

  readonly #onSocketClose = (): void => {
    this.#taking?.stop()
    clearTimeout(this.#grace)
  }
}

/** All sessions of a server, for its shutdown: on Node 20 and 22 `close()` waits for them, and ends none. */
export class Http2Sessions {
  readonly #server: Http2Server | Http2SecureServer
  readonly #secure: boolean
  readonly #patience: Milliseconds
  readonly #forced: boolean
  readonly #sessions = new Map<ServerHttp2Session, Http2Session>()
  /** Over TLS, connections whose handshakes are not through. */
  readonly #shakingHands = new LiveSet<Handshake>()
  readonly #handshakes = new WeakMap<object, Handshake>()
  #latest: Socket | undefined
  #closing = false
  #cut = false

  /**
   * @param patience how long a client may take nothing of what waits for it, where no route says that
   * @param forced the app's forceCloseConnections: its sessions take no new streams from the moment that it closes
   */
  constructor (server: Http2Server | Http2SecureServer, secure: boolean, patience: Milliseconds, forced: boolean) {
    this.#server = server
    this.#secure = secure
    this.#patience = patience
    this.#forced = forced
    if (secure) server.on('connection', this.#onHandshake)
    // Node makes the session in a listener of its own for this event, and emits 'session' there.
    server.prependListener(secure ? 'secureConnection' : 'connection', this.#onConnection)
    server.on('session', this.#onSession)
  }

  of (stream: ServerHttp2Stream): Http2Session | undefined {
    return stream.session === undefined ? undefined : this.#sessions.get(stream.session as ServerHttp2Session)
  }

  /** The server closes. */
  close (): void {
    this.#closing = true
    for (const session of this.#sessions.values()) session.close(this.#forced)
    for (const { socket } of this.#shakingHands) {
      if (socket.bytesRead > 0) continue
      const timer = setTimeout(() => { if (socket.bytesRead === 0) socket.destroy() }, SILENT_GRACE)
      socket.once('close', () => clearTimeout(timer))
    }
  }

  /** The time for that is over. A drain of a server that goes on serving cuts none of its sessions. */
  cut (): void {
    if (!this.#closing) return
    this.#cut = true
    for (const session of this.#sessions.values()) session.cut()
    for (const { socket } of this.#shakingHands) socket.destroy()
  }

  /** The server has closed, and may be another's. */
  leave (): void {
    const server = this.#server
    server.removeListener('connection', this.#onHandshake)
    server.removeListener(this.#secure ? 'secureConnection' : 'connection', this.#onConnection)
    server.removeListener('session', this.#onSession)
  }

  readonly #onHandshake = (socket: Socket): void => {
    const handshake = { socket }
    this.#handshakes.set(socket, handshake)
    this.#shakingHands.add(handshake)
    socket.once('close', () => this.#shakingHands.delete(handshake))
    if (this.#cut) socket.destroy()
  }

  readonly #onConnection = (socket: Socket): void => {
    this.#latest = socket
    const handshake = this.#handshakes.get(socketBeneath(socket) ?? socket)
    if (handshake !== undefined) this.#shakingHands.delete(handshake)
  }

  readonly #onSession = (session: ServerHttp2Session): void => {
    const socket = this.#latest as Socket
    const one = new Http2Session(session, socket, this.#patience)
    this.#sessions.set(session, one)
    socket.once('close', () => this.#sessions.delete(session))
    if (this.#closing) one.close(this.#forced)
    if (this.#cut) one.cut()
  }
}
