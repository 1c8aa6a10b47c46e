import { FST_ERR_DUPLEX_INVALID_OPTION } from './errors.ts'
import { isToken } from './syntax/upgrade-tokens.ts'

export type Loose = Record<string, unknown>

/** Where the options were given, for the message of an error. */
export type Place = { route?: string }

/** The longest delay of a timer: longer ones fire at once. */
const LONGEST = 2 ** 31 - 1

export function tokens (
  value: unknown, place: Place, name = 'protocols', expected = 'a function or a list of upgrade tokens'
): readonly string[] | undefined {
  if (value === undefined) return undefined
  if (!Array.isArray(value) || value.length === 0 || !value.every(token => typeof token === 'string' && isToken(token))) {
    throw invalidOption(name, expected, value, place)
  }
  return value as string[]
}

export function checkDuration (name: string, value: unknown, place: Place = {}): void {
  if (value === undefined) return
  if (!Number.isInteger(value) || (value as number) < 0 || (value as number) > LONGEST) {
    throw invalidOption(name, `a whole number of milliseconds from 0 to ${LONGEST}`, value, place)
  }
}

export function checkNames (given: Loose, known: readonly string[], others: readonly string[], { route }: Place): void {
  for (const name of Object.keys(given)) {
    if (known.includes(name) || others.includes(name) || given[name] === undefined) continue
    const near = nearest(name, known)
    throw new FST_ERR_DUPLEX_INVALID_OPTION(
      `unknown duplex option ${JSON.stringify(name)}${where(route)}${near === undefined ? '' : `, did you mean ${JSON.stringify(near)}?`}`)
  }
}

export function invalidOption (name: string, expected: string, value: unknown, { route }: Place = {}): Error {
  return new FST_ERR_DUPLEX_INVALID_OPTION(`duplex option ${name}${where(route)} must be ${expected}, got ${shown(value)}`)
}

function shown (value: unknown): string {
  if (typeof value === 'function') return 'a function'
  if (typeof value === 'number') return String(value)
  // JSON leaves functions out, and makes null of what is no finite number.
  const whole = (_name: string, held: unknown): unknown => {
    if (typeof held === 'function') return 'a function'
    return typeof held === 'number' && !Number.isFinite(held) ? String(held) : held
  }
  return JSON.stringify(value, whole) ?? String(value)
}

function where (route: string | undefined): string {
  return route === undefined ? '' : ` on route ${route}`
}

/** The known name that is most like a mistyped one, if there is one. */
function nearest (name: string, known: readonly string[]): string | undefined {
  let found: string | undefined
  let least = Math.max(2, Math.floor(name.length / 3)) + 1
  for (const candidate of known) {
    const steps = distance(name.toLowerCase(), candidate.toLowerCase())
    if (steps < least) [found, least] = [candidate, steps]
  }
  return found
}

/** How many letters have to be put in, taken out or changed (Levenshtein). */
function distance (one: string, other: string): number {
  let row = Array.from({ length: other.length + 1 }, (_, at) => at)
  for (const [at, letter] of [...one].entries()) {
    const next = [at + 1]
    for (let to = 0; to < other.length; to++) {
      next.push(Math.min((next[to] as number) + 1, (row[to + 1] as number) + 1, (row[to] as number) + (letter === other[to] ? 0 : 1)))
    }
    row = next
  }
  return row[other.length] as number
}
