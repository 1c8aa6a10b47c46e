import { isThenable } from '../tools/thenable.ts'

/** Describes a wrong value for an error message. The value itself may be secret, so only its type is named. */
export function typeOf (value: unknown): string {
  if (value === null) return 'null'
  if (isThenable(value)) {
    // Nobody waits for it, and a rejection that nobody handles would end the process.
    Promise.resolve(value).catch(() => {})
    return 'a promise'
  }
  return typeof value === 'object' ? Object.prototype.toString.call(value) : typeof value
}
