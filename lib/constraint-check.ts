import type { ConstraintStrategy } from './fastify-internals.ts'

type Check = (value: unknown) => boolean

/**
 * Whether the values derived from a request meet all constraints of one route. The router knows this
 * too, but does not say for which of its handlers it found a match.
 */
export function constraintCheck (
  constraints: Readonly<Record<string, unknown>>,
  custom: ReadonlyMap<string, ConstraintStrategy>
): (derived: Record<string, unknown>) => boolean {
  const checks = Object.entries(constraints).map(([name, value]): [string, Check] =>
    [name, customCheck(custom.get(name), value) ?? (name === 'host' ? hostCheck(value) : versionCheck(value))])
  return derived => checks.every(([name, holds]) => derived[name] !== undefined && holds(derived[name]))
}

function customCheck (strategy: ConstraintStrategy | undefined, value: unknown): Check | undefined {
  if (strategy === undefined) return undefined
  const store = strategy.storage()
  store.set(value, 1)
  return derived => Boolean(store.get(derived))
}

function hostCheck (value: unknown): Check {
  if (!(value instanceof RegExp)) return host => value === host
  // As the router does: with these flags a regular expression remembers where its last match ended.
  const pattern = new RegExp(value.source, value.flags.replace(/[gy]/g, ''))
  return host => pattern.test(String(host))
}

/** `1.2.3` is asked for as itself, as `1.2.x` and as `1.x`. */
function versionCheck (value: unknown): Check {
  const parts = String(value).split('.')
  return version => String(version).split('.').every((part, at) => part === 'x' || part === '*' || part === parts[at])
}
