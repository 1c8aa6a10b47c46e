import { FST_ERR_DUPLEX_HANDLER_FAILED } from './errors.ts'

/** What was thrown, where it is an error that can be read: a getter or a proxy may throw, also in Node, which reads `stack`. */
export function asError (thrown: unknown): Error {
  try {
    if (thrown instanceof Error && [thrown.stack, thrown.message].every(text => text === undefined || typeof text === 'string')) return thrown
  } catch {}
  return new FST_ERR_DUPLEX_HANDLER_FAILED()
}

/** The code of what was thrown, if it has one and can be read. */
export function codeOf (thrown: unknown): unknown {
  try {
    return (thrown as { code?: unknown } | null | undefined)?.code
  } catch {
    return undefined
  }
}
