import type { Http2SecureServer, Http2Server, ServerHttp2Session, ServerHttp2Stream } from 'node:http2'
import type { Socket } from 'node:net'
import { closeBetweenReads, isOverOnTheWire, readSession, STOPS_READING } from '../internals/http2.ts'
import { bytesInFlight, socketBeneath, type HttpSocket } from '../internals/sockets.ts'
import { InactivityWatch } from '../streams/inactivity-watch.ts'
import { LINGER } from '../streams/unread-limits.ts'
import { unwatchPeer, watchPeer, type Watched } from '../streams/vanished-peers.ts'
import { LiveSet } from '../tools/live-set.ts'
import type { Milliseconds } from '../../types/index.ts'

/** How many milliseconds a PING may take. A client that has sent nothing yet has the same time for its first bytes. */
const GRACE: Milliseconds = 1000
const UNUSED_GRACE: Milliseconds = 100

/**
 * After a drain some answers only wait for their client. STILL is how many milliseconds nothing of them may move, and LATEST
 * how many they may take in all.
 */
const STILL: Milliseconds = 1000
const LATEST: Milliseconds = 30_000

/** How many milliseconds lie between two looks whether a stream is over on the wire. This runs only when no new stream can begin. */
const GOAWAY_LOOK: Milliseconds = 250

/** How many milliseconds lie between two looks whether all output has left, so that GOAWAY can follow at once. */
const SOON: Milliseconds = 50

interface OpenStream { readonly stream: ServerHttp2Stream }
interface TlsHandshake { readonly socket: Socket }

/** One HTTP/2 connection. A session does not give access to its socket; this does. */
export class Http2Session implements Watched {
  readonly socket: Socket
  /** How long a client may take nothing of what waits for it, if there is no route with a finTimeout. 0 is no limit. */
  readonly unreadFor: Milliseconds
  readonly #session: ServerHttp2Session
  readonly #open = new LiveSet<OpenStream>()
  #takeovers = 0
  /** How many bytes had come at the latest look for the peer. */
  #readBefore = -1
  /** What the session's timeout was before the first takeover. */
  #timeout = 0
  /** How long the client may take nothing when its streams are over. Undefined until a stream was a duplex route's. */
  #ownUnreadFor: Milliseconds | undefined
  #taking: InactivityWatch | undefined
  #grace: NodeJS.Timeout | undefined
  #looking: NodeJS.Timeout | undefined
  #soon: NodeJS.Timeout | undefined
  #closing = false
  #cut = false
  /** While the PING is on its way, nobody else may close the session. */
  #waiting = false
  #ending: 'no' | 'soon' | 'over' = 'no'
  #latest = Infinity
  readonly #usualClose: ServerHttp2Session['close']

  constructor (session: ServerHttp2Session, socket: Socket, unreadFor: Milliseconds) {
    this.#session = session
    this.socket = socket
    this.unreadFor = unreadFor
    this.#usualClose = session.close
    session.close = this.#closeSoon
    // Before Node's own listener, which emits the request.
    session.prependListener('stream', this.#onStream)
    session.once('goaway', this.#onGoaway)
    socket.once('close', this.#onSocketClose)
  }

  get openStreams (): number { return this.#open.size }

  /** Bytes that the peer has taken, as far as is known here. */
  get taken (): number { return this.socket.bytesWritten - this.#inFlight }

  get #inFlight (): number { return bytesInFlight(this.socket as unknown as HttpSocket) }

  /** As over HTTP/1, the timeouts of the server do not apply to a takeover. They apply again when it is over. */
  takeover (stream: ServerHttp2Stream, unreadFor = this.unreadFor): void {
    const session = this.#session as ServerHttp2Session & { timeout?: number }
    this.limitUnread(unreadFor)
    if (this.#takeovers++ === 0) {
      this.#timeout = session.timeout ?? 0
      session.setTimeout(0)
    }
    stream.once('close', () => {
      if (--this.#takeovers === 0 && !session.destroyed) session.setTimeout(this.#timeout)
    })
  }

  /** Sets how long the client may take nothing when its streams are over, before its connection is cut. */
  limitUnread (unreadFor: Milliseconds): void {
    this.#ownUnreadFor = unreadFor
  }

  /**
   * Sends GOAWAY, which names the last stream: later streams of the client are refused. Node cannot announce it with an earlier
   * GOAWAY. So it sends a PING first, and GOAWAY when that comes back: then everything that the client had sent is known.
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
    this.#latest = performance.now() + GRACE
    if (session.closed || session.destroyed) return
    if (atOnce) {
      this.#close()
      return
    }
    this.#waiting = true
    this.#grace = setTimeout(this.#close, socket.bytesRead === 0 ? UNUSED_GRACE : GRACE)
    session.ping(this.#close)
    // A client that has sent GOAWAY or a FIN asks for nothing more.
    session.once('goaway', this.#close)
    socket.once('end', this.#close)
  }

  /** The drain is over: does not wait for the peer to read or to close. Streams of plain routes are not cut. */
  cut (): void {
    if (this.#cut || this.socket.destroyed) return
    this.#cut = true
    this.#closing = true
    this.#close()
    if (this.#soon !== undefined) this.#closeBetweenWrites()
    this.#endIfOver()
    const latest = performance.now() + LATEST
    this.#taking?.stop()
    this.#taking = new InactivityWatch(STILL, () => performance.now() < latest ? this.taken : 0, () => {
      for (const { stream } of this.#open) if (!stream.writableEnded && !stream.writableNeedDrain) return false
      this.socket.destroy()
      return true
    })
  }

  readonly #onStream = (stream: ServerHttp2Stream): void => {
    const open = { stream }
    this.#open.add(open)
    if (STOPS_READING && this.#open.size === 1) watchPeer(this)
    stream.once('close', () => {
      this.#open.delete(open)
      if (this.#open.size === 0) unwatchPeer(this)
      this.#endIfOver()
      this.#watchTaking()
    })
  }

  /**
   * Behind a GOAWAY, of either side, Node up to 24 reads a connection no more when all its streams are over on the wire, and
   * so never hears of its end. A stream that waits for an output that its client has reset would keep the session for ever.
   */
  readonly #onGoaway = (): void => {
    if (this.#looking !== undefined || this.socket.destroyed) return
    this.#looking = setInterval(() => {
      if (this.#inFlight > 0) return
      for (const { stream } of this.#open) if (!stream.writableFinished && isOverOnTheWire(stream)) stream.destroy()
    }, GOAWAY_LOOK)
  }

  /** Everybody's `session.close()`: the app's, Fastify's when the server closes, and Node's own behind a GOAWAY of the client. */
  readonly #closeSoon = (callback?: () => void): void => {
    const session = this.#session
    if (session.closed || session.destroyed) return
    if (callback !== undefined) session.once('close', callback)
    if (!this.#waiting || this.socket.destroyed) this.#close()
  }

  /** GOAWAY: open streams go on to their end, and no new one begins. */
  readonly #close = (): void => {
    clearTimeout(this.#grace)
    this.#grace = undefined
    this.#onGoaway()
    if (this.#ending !== 'no') return
    this.#ending = 'soon'
    setImmediate(this.#closeBetweenWrites)
  }

  /** While a write is on its way, GOAWAY would wait, and Node may keep heads of requests that it has read and not looked at. */
  readonly #closeBetweenWrites = (): void => {
    clearTimeout(this.#soon)
    this.#soon = undefined
    if (this.#inFlight > 0 && !this.#cut && performance.now() < this.#latest) {
      this.#soon = setTimeout(this.#closeBetweenWrites, SOON)
      return
    }
    closeBetweenReads(this.#session, this.#usualClose, this.socket as unknown as HttpSocket, () => {
      this.#ending = 'over'
      this.#endIfOver()
    })
  }

  readonly #linger = (): void => {
    const { socket } = this
    const timer = setTimeout(() => socket.destroy(), socket.bytesRead === 0 ? 0 : LINGER)
    socket.once('close', () => clearTimeout(timer))
  }

  /** Destroys the socket, but not before the last frames of the streams were sent. */
  #endIfOver (): void {
    if (!this.#cut || this.#ending !== 'over' || this.#open.size > 0) return
    setImmediate(() => { if (this.#open.size === 0) this.socket.destroy() })
  }

  /** All streams are over. If the client does not take the bytes that are left, its connection is cut. */
  #watchTaking (): void {
    const unreadFor = this.#ownUnreadFor ?? 0
    if (unreadFor === 0 || this.#taking !== undefined || this.#open.size > 0 || this.#inFlight === 0) return
    const watch = new InactivityWatch(Math.min(unreadFor, LINGER), () => {
      // The client reads, or it has opened another stream.
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

  lookForPeer (): void {
    const { bytesRead } = this.socket
    // While a write is on its way, Node does not read either.
    if (bytesRead === this.#readBefore && this.#inFlight === 0 && !this.socket.destroyed) readSession(this.socket as unknown as HttpSocket)
    this.#readBefore = bytesRead
  }

  readonly #onSocketClose = (): void => {
    unwatchPeer(this)
    this.#taking?.stop()
    clearTimeout(this.#grace)
    clearTimeout(this.#soon)
    clearInterval(this.#looking)
  }
}

/** All sessions of a server, for its shutdown. On Node 20 and 22 `close()` waits for sessions and does not end them. */
export class Http2Sessions {
  readonly #server: Http2Server | Http2SecureServer
  readonly #secure: boolean
  readonly #unreadFor: Milliseconds
  readonly #forced: boolean
  readonly #sessions = new Map<ServerHttp2Session, Http2Session>()
  /** Over TLS, connections whose handshake is not complete. */
  readonly #shakingHands = new LiveSet<TlsHandshake>()
  readonly #tlsHandshakes = new WeakMap<object, TlsHandshake>()
  #latest: Socket | undefined
  #closing = false
  #cut = false

  /**
   * @param unreadFor how long a client may take nothing of what waits for it, where no route says that
   * @param forced the app's forceCloseConnections: its sessions take no new streams from the moment that it closes
   */
  constructor (server: Http2Server | Http2SecureServer, secure: boolean, unreadFor: Milliseconds, forced: boolean) {
    this.#server = server
    this.#secure = secure
    this.#unreadFor = unreadFor
    this.#forced = forced
    if (secure) server.on('connection', this.#onTlsHandshake)
    // Node's own listener for this event makes the session, and emits 'session'.
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
      const timer = setTimeout(() => { if (socket.bytesRead === 0) socket.destroy() }, UNUSED_GRACE)
      socket.once('close', () => clearTimeout(timer))
    }
  }

  /** The drain is over. If the server goes on serving, its sessions are not cut. */
  cut (): void {
    if (!this.#closing) return
    this.#cut = true
    for (const session of this.#sessions.values()) session.cut()
    for (const { socket } of this.#shakingHands) socket.destroy()
  }

  /** The server listens again. The sessions from before close. @returns cuts these */
  reopen (): () => void {
    this.#closing = false
    this.#cut = false
    const before = [...this.#sessions.values()]
    return () => { for (const session of before) session.cut() }
  }

  /** Takes the listeners off: the server has closed, and another app may use it. */
  unwatch (): void {
    const server = this.#server
    server.removeListener('connection', this.#onTlsHandshake)
    server.removeListener(this.#secure ? 'secureConnection' : 'connection', this.#onConnection)
    server.removeListener('session', this.#onSession)
  }

  readonly #onTlsHandshake = (socket: Socket): void => {
    const handshake = { socket }
    this.#tlsHandshakes.set(socket, handshake)
    this.#shakingHands.add(handshake)
    socket.once('close', () => this.#shakingHands.delete(handshake))
    if (this.#cut) socket.destroy()
  }

  readonly #onConnection = (socket: Socket): void => {
    this.#latest = socket
    const handshake = this.#tlsHandshakes.get(socketBeneath(socket) ?? socket)
    if (handshake !== undefined) this.#shakingHands.delete(handshake)
  }

  readonly #onSession = (session: ServerHttp2Session): void => {
    const socket = this.#latest as Socket
    const one = new Http2Session(session, socket, this.#unreadFor)
    this.#sessions.set(session, one)
    socket.once('close', () => this.#sessions.delete(session))
    if (this.#closing) one.close(this.#forced)
    if (this.#cut) one.cut()
  }
}
