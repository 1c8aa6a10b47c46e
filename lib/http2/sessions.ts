import type { Http2SecureServer, Http2Server, ServerHttp2Session, ServerHttp2Stream } from 'node:http2'
import type { Socket } from 'node:net'

/** One HTTP/2 connection. Its socket is out of reach through the session; here it is. */
export class Http2Session {
  readonly socket: Socket
  readonly #session: ServerHttp2Session
  #takeovers = 0
  /** What the session's timeout was before the first takeover. */
  #timeout = 0

  constructor (session: ServerHttp2Session, socket: Socket) {
    this.#session = session
    this.socket = socket
  }

  /** As over HTTP/1, the server's timers do not apply to what was taken over. They come back with its end. */
  takeover (stream: ServerHttp2Stream): void {
    const session = this.#session as ServerHttp2Session & { timeout?: number }
    if (this.#takeovers++ === 0) {
      this.#timeout = session.timeout ?? 0
      session.setTimeout(0)
    }
    stream.once('close', () => {
      if (--this.#takeovers === 0 && !session.destroyed) session.setTimeout(this.#timeout)
    })
  }

  /** GOAWAY: what is open goes on to its end, and nothing new is begun. */
  close (): void {
    if (!this.#session.closed && !this.#session.destroyed) this.#session.close()
  }

  /** Waits no more for the peer, neither to read nor to close; streams that are still open are not cut. */
  cut (): void {
    const { socket } = this
    // A session that ends in good order ends its socket, and then waits for the peer.
    if (this.#session.destroyed || socket.writableEnded) socket.destroy()
    else socket.once('prefinish', () => setImmediate(() => socket.destroy()))
  }
}

/** All sessions of a server, for its shutdown: on Node 20 and 22 `close()` waits for them, and ends none. */
export class Http2Sessions {
  readonly #sessions = new Map<ServerHttp2Session, Http2Session>()

  constructor (server: Http2Server | Http2SecureServer, tls: boolean) {
    let latest: Socket | undefined
    // Node makes the session in a listener of its own for this event, and emits 'session' there.
    server.prependListener(tls ? 'secureConnection' : 'connection', (socket: Socket) => { latest = socket })
    server.on('session', (session: ServerHttp2Session) => {
      this.#sessions.set(session, new Http2Session(session, latest as Socket))
      ;(latest as Socket).once('close', () => this.#sessions.delete(session))
    })
  }

  of (stream: ServerHttp2Stream): Http2Session | undefined {
    return stream.session === undefined ? undefined : this.#sessions.get(stream.session as ServerHttp2Session)
  }

  close (): void {
    for (const session of this.#sessions.values()) session.close()
  }

  cut (): void {
    for (const session of this.#sessions.values()) session.cut()
  }
}
