import type { FastifyBaseLogger } from 'fastify'

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
