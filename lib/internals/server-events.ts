// The events of a server, where it has to be decided who hears of one. Checked on Node 20.20, 22.23, 24.21 and 26.12.
import type { EventEmitter } from 'node:events'

type Listener = (...args: never[]) => void

/** By the name of an event: what happens in its place, or undefined where it goes on to its listeners. */
export type Interceptors = Readonly<Record<string, (first: unknown, second: unknown, third: unknown) => boolean | undefined>>

interface Hidden {
  event: string
  listener: Listener
}

/** What is on a server, and how it is taken off. */
export interface Interception {
  /** For as long as nothing was emitted, this event has a listener: Node asks for one before it emits. */
  expect (event: string): void
  /** Emits past the interceptors. */
  pass (event: string, ...args: unknown[]): boolean
  undo (): void
}

/**
 * Puts `interceptors` before the listeners of a server, and adds `hidden` listeners that hear what somebody emits past
 * that, by an `emit` that was bound before. Others who count, list or remove listeners see their own alone: with a listener
 * that they did not add some of them take nothing, and Node's own defaults change.
 *
 * `emit` is Node's own way to tell all listeners alike, and has no public place before them.
 */
export function intercept (server: EventEmitter, interceptors: Interceptors, hidden: readonly Hidden[]): Interception {
  const own = new Set(hidden.map(({ listener }) => listener))
  const events = new Set(hidden.map(({ event }) => event))
  let expected: string | undefined
  let active = true
  const table = new Map<string | symbol, Interceptors[string]>(Object.entries(interceptors))
  const before: Record<string, PropertyDescriptor | undefined> = { ...Object.getOwnPropertyDescriptors(server) }
  const prototype = Object.getPrototypeOf(server) as Record<string, (...args: unknown[]) => unknown>
  /** What is on the prototype is asked for at each call: tracers patch it there. */
  const usual = (name: string): ((...args: unknown[]) => unknown) =>
    (before[name]?.value ?? prototype[name]) as (...args: unknown[]) => unknown
  const emitBefore = before.emit?.value as ((...args: unknown[]) => unknown) | undefined
  const ours: Record<string, unknown> = {}
  const all = (event: string, query: 'listeners' | 'rawListeners' = 'listeners'): Listener[] =>
    Reflect.apply(usual(query), server, [event]) as Listener[]
  const others = (event: string, query?: 'listeners' | 'rawListeners'): Listener[] => all(event, query).filter(one => !own.has(one))

  // Every request of the server comes by here: V8 passes `arguments` on without making an array of them.
  ours.emit = function (this: EventEmitter, event: string | symbol, first: unknown, second: unknown, third: unknown) {
    const interceptor = active ? table.get(event) : undefined
    if (interceptor !== undefined) {
      if (event === expected) expected = undefined
      const result = interceptor(first, second, third)
      if (result !== undefined) return result
    }
    return (emitBefore ?? prototype.emit as typeof emitBefore & object).apply(this, arguments as unknown as unknown[])
  }
  ours.listenerCount = (event: string, listener?: Listener) => {
    const count = Reflect.apply(usual('listenerCount'), server, listener === undefined ? [event] : [event, listener]) as number
    const hides = events.has(event) && listener === undefined ? all(event).length - others(event).length : 0
    return count - hides + (event === expected ? 1 : 0)
  }
  for (const query of ['listeners', 'rawListeners'] as const) {
    ours[query] = (event: string) => others(event, query)
  }
  ours.eventNames = () => (Reflect.apply(usual('eventNames'), server, []) as string[])
    .filter(event => !events.has(event) || (ours.listenerCount as (event: string) => number)(event) > 0)
  ours.removeAllListeners = (...args: [event?: string]) => {
    Reflect.apply(usual('removeAllListeners'), server, args)
    for (const one of hidden) {
      if (args.length === 0 || args[0] === one.event) server.on(one.event, one.listener as (...args: unknown[]) => void)
    }
    return server
  }
  for (const name of Object.keys(ours)) {
    Object.defineProperty(server, name, { value: ours[name], configurable: true, writable: true, enumerable: false })
  }
  for (const { event, listener } of hidden) server.on(event, listener as (...args: unknown[]) => void)

  return {
    expect (event) { expected = event },
    pass: (event, ...args) => Reflect.apply(usual('emit'), server, [event, ...args]) as boolean,
    undo () {
      active = false
      for (const { event, listener } of hidden) server.removeListener(event, listener as (...args: unknown[]) => void)
      for (const name of Object.keys(ours)) {
        // Somebody may have put another in its place, which calls ours.
        if (Object.getOwnPropertyDescriptor(server, name)?.value !== ours[name]) continue
        if (before[name] === undefined) Reflect.deleteProperty(server, name)
        else Object.defineProperty(server, name, before[name])
      }
    }
  }
}

/** Puts `replacement` in the place of a method of this one object, and returns what takes it away. */
export function override<T extends object, K extends keyof T & string> (
  target: T, name: K, replacement: (usual: T[K]) => T[K]
): () => void {
  const before = Object.getOwnPropertyDescriptor(target, name)
  const usual = target[name]
  const ours = replacement(usual)
  Object.defineProperty(target, name, { value: ours, configurable: true, writable: true, enumerable: before?.enumerable ?? false })
  return () => {
    if (Object.getOwnPropertyDescriptor(target, name)?.value !== ours) return
    if (before === undefined) Reflect.deleteProperty(target, name)
    else Object.defineProperty(target, name, before)
  }
}
