import type { FastifyBaseLogger } from 'fastify'

type Level = 'debug' | 'info' | 'warn' | 'error'

/**
 * Writes a line to the log of the app. A logger may throw, for instance where it cannot serialise an error: then the line is
 * written without its facts, and else left out. Nobody could catch it here, and a log must neither keep a connection nor end a process.
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
