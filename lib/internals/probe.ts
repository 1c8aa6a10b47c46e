// Tries at registration whether this Node does what the plugin depends on. An error at boot is better than a lost byte.
import { Server, type IncomingMessage } from 'node:http'
import { Duplex } from 'node:stream'
import { canSpeakHttp, onRequestHead, speakHttp, takeOver } from './http-parser.ts'
import { intercept } from './server-events.ts'

const HEAD = 'GET / HTTP/1.1\r\nHost: a\r\n\r\n'
const TAIL = 'TAIL'

/**
 * Feeds a plain request into a connection in memory, takes it over, and checks that all bytes behind its head come out in the
 * same tick.
 *
 * @returns what is wrong, or undefined
 */
export function probeTakeover (): string | undefined {
  if (!canSpeakHttp()) return 'its node:http has no _connectionListener'
  const server = new Server()
  const socket = new Duplex({ read () {}, write (_chunk, _encoding, done) { done() } })
  socket.on('error', () => {})
  let tail: string | undefined
  const { expect, undo } = intercept(server, {
    upgrade: (_req, _socket, head) => {
      tail = String(head)
      return true
    }
  }, [])
  const take = (req: IncomingMessage): number => {
    expect('upgrade')
    return takeOver(req)
  }
  try {
    speakHttp(server, socket)
    if (!onRequestHead(socket, take)) return 'its HTTP server has no parser.onIncoming on the socket'
    socket.emit('data', Buffer.from(HEAD + TAIL))
    if (tail === undefined) return 'its HTTP server does not let go of a connection when it should'
    return tail === TAIL ? undefined : 'its HTTP server does not hand out what follows a request head'
  } catch (error) {
    return `its HTTP server cannot be fed from memory: ${(error as Error).message}`
  } finally {
    undo()
    socket.destroy()
  }
}
