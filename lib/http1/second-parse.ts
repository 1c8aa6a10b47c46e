import type { IncomingMessage, Server } from 'node:http'
import { unfinishedResponse } from '../internals/http-messages.ts'
import { speakHttp, type NodesListeners } from '../internals/http-parser.ts'
import { parseOnBehind } from '../internals/parse-on.ts'
import type { HttpSocket } from '../internals/sockets.ts'
import { hasBody } from './gate.ts'
import type { Link } from './link.ts'
import { PerTurn } from './per-turn.ts'
import { afterEarlierResponses } from './pipelining.ts'
import { headWithoutUpgrade, originalHead, waitToReturn } from './return-to-http.ts'
import { leaveErrors } from './socket-carrier.ts'

/**
 * How many heads with an ignored Upgrade are parsed again in one turn of the event loop. Each is answered before the next one is
 * parsed, all by ticks: without a bound, a client that sends many at once would let nobody else have a turn.
 */
const PER_TURN = 32

/**
 * Node's parser stops behind a head with an Upgrade, whoever wants it. If nobody takes it, and the parser cannot be made to read
 * on, the head and what follows are put back on the socket, and a new parser of the server reads them.
 */
export class SecondParse {
  readonly #server: Server
  readonly #ignoredUpgrades: 'close' | 'keep'
  readonly #budget = new PerTurn(PER_TURN)
  /** Connections on which nothing more is served. */
  readonly #closing = new WeakSet<object>()

  constructor (server: Server, ignoredUpgrades: 'close' | 'keep') {
    this.#server = server
    this.#ignoredUpgrades = ignoredUpgrades
  }

  /** Takes the request whose head is parsed for the second time now, as it came. */
  static takeOriginal (link: Link): IncomingMessage | undefined {
    const { ignored } = link
    link.ignored = undefined
    return ignored
  }

  /**
   * Whether the parser can read on behind this request, so that nothing has to be put back. Node serves the request then. An
   * Upgrade with a body is always parsed again: behind such a head the parser would not tell of errors in the body.
   */
  isNeedless (req: IncomingMessage): boolean {
    return this.#ignoredUpgrades === 'keep' && !hasBody(req) && parseOnBehind(req)
  }

  /** Whether the connection ends behind an ignored Upgrade. */
  closes (socket: HttpSocket): boolean {
    return this.#closing.has(socket)
  }

  /** @param isBody what is left of the request is the `body` of a duplex route */
  withoutUpgrade (link: Link, req: IncomingMessage, isBody: boolean, behind: Buffer, nodes: NodesListeners | undefined): void {
    const close = this.#ignoredUpgrades === 'close'
    if (close) this.#closing.add(link.socket)
    this.#parse(link, [behind, headWithoutUpgrade(req, close)], req, isBody, nodes)
  }

  /** As it came, Upgrade and all. */
  asItCame (link: Link, req: IncomingMessage, behind: Buffer, nodes: NodesListeners | undefined): void {
    this.#parse(link, [behind, originalHead(req)], undefined, false, nodes)
  }

  /**
   * @param bytes the last first. They are several, because joining them would copy everything after the head, for each of many
   * requests
   */
  #parse (
    link: Link, bytes: readonly Buffer[], ignored: IncomingMessage | undefined, isBody: boolean, nodes: NodesListeners | undefined
  ): void {
    const { socket } = link
    leaveErrors(socket)
    for (const piece of bytes) if (piece.length > 0) socket.unshift(piece)
    const again = (): void => {
      link.ignored = ignored
      speakHttp(this.#server, socket)
      link.watchAgain()
    }
    const isNext = unfinishedResponse(socket) === undefined
    if (isNext && this.#budget.take()) {
      again()
      return
    }
    const stopWaiting = waitToReturn(link)
    const waiting = { takes: isBody, linkClosed () {} }
    if (isBody) link.add(waiting)
    const goOn = (): void => {
      stopWaiting()
      link.remove(waiting)
      if (!socket.destroyed && !socket.writableEnded) again()
    }
    if (isNext) setImmediate(goOn)
    else afterEarlierResponses(link, nodes, true, () => { this.#budget.take() ? goOn() : setImmediate(goOn) })
  }
}
