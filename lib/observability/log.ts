import type { FastifyBaseLogger, FastifyReply } from 'fastify'
import { logsRequest } from '../internals/fastify.ts'
import type { DuplexClosed, DuplexKind } from '../../types/index.ts'

type Level = 'debug' | 'info' | 'warn' | 'error'

/**
 * Writes a line to the log of the app. A logger may throw, for example if it cannot serialise an error. Then the line is
 * written without its facts. If that throws, too, the line is left out. Nobody could catch such an error here, and a log must
 * neither keep a connection open nor end the process.
 */
export function say (log: FastifyBaseLogger, level: Level, facts: Record<string, unknown>, message: string): void {
  try {
    log[level](facts, message)
  } catch {
    try {
      log[level](message)
    } catch {}
  }
}

/** The line at the end of an accepted connection, if its request is logged at all. */
export function sayClosed (
  reply: FastifyReply, { kind, protocol }: { kind: DuplexKind, protocol: string | undefined }, closed: DuplexClosed
): void {
  if (!logsRequest(reply)) return
  const { reason, error, bytesRead, bytesWritten, duration } = closed
  const duplex = { kind, protocol, reason, bytesRead, bytesWritten, duration }
  say(reply.log, 'info', error === undefined ? { duplex } : { duplex, err: error }, 'duplex connection closed')
}
