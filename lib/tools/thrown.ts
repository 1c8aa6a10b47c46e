import { FST_ERR_DUPLEX_HANDLER_FAILED } from '../errors.ts'

/** What was thrown, if it is a readable error. Reading may throw, because of a getter or a proxy. Node itself reads `stack`. */
export function asError (thrown: unknown): Error {
  try {
    if (thrown instanceof Error && [thrown.stack, thrown.message].every(text => text === undefined || typeof text === 'string')) return thrown
  } catch {}
  return new FST_ERR_DUPLEX_HANDLER_FAILED()
}

/** The code of what was thrown. Undefined if there is none, or if it cannot be read. */
export function codeOf (thrown: unknown): unknown {
  try {
    return (thrown as { code?: unknown } | null | undefined)?.code
  } catch {
    return undefined
  }
}

/** The reason of an abort or a cancel as an error. Undefined if there is none. */
export function errorOf (reason: unknown): Error | undefined {
  return reason === undefined || reason instanceof Error ? reason : new Error(String(reason), { cause: reason })
}
