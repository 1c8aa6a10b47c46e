// The events and methods of a server, where it has to be decided who hears of what. Checked on Node 20.20, 22.23, 24.21 and 26.12.
import type { EventEmitter } from 'node:events'

type Listener = (...args: never[]) => void
type Method = (this: unknown, ...args: unknown[]) => unknown

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

/** What stands in the place of one method of one object, whoever put it there. */
interface Layers {
  readonly before: PropertyDescriptor | undefined
  readonly wrappers: ((usual: Method) => Method)[]
  readonly installed: Method
}

const layersOf = new WeakMap<object, Map<string, Layers>>()

/**
 * Puts `wrapper` around a method of this one object, and returns what takes it away. Several may be around one method, and go
 * in any order: the last to go leaves the object as it was.
 *
 * What is on the prototype is asked for at each call, since tracers patch it there.
 */
function wrap (target: object, name: string, wrapper: (usual: Method) => Method): () => void {
  const methods = layersOf.get(target) ?? new Map<string, Layers>()
  layersOf.set(target, methods)
  let layers = methods.get(name)
  if (layers === undefined || Object.getOwnPropertyDescriptor(target, name)?.value !== layers.installed) {
    layers = install(target, name)
    methods.set(name, layers)
  }
  const { wrappers, before, installed } = layers
  wrappers.push(wrapper)
  return () => {
    const at = wrappers.indexOf(wrapper)
    if (at >= 0) wrappers.splice(at, 1)
    // Somebody else may have put another in its place, which calls ours.
    if (wrappers.length > 0 || Object.getOwnPropertyDescriptor(target, name)?.value !== installed) return
    methods.delete(name)
    if (before === undefined) Reflect.deleteProperty(target, name)
    else Object.defineProperty(target, name, before)
  }
}

function install (target: object, name: string): Layers {
  const before = Object.getOwnPropertyDescriptor(target, name)
  const prototype = Object.getPrototypeOf(target) as Record<string, Method>
  const wrappers: Layers['wrappers'] = []
  const usual: Method = function (...args) {
    return Reflect.apply((before?.value ?? prototype[name]) as Method, this, args)
  }
  const installed: Method = function (...args) {
    return Reflect.apply(wrappers.reduce((inner, wrapper) => wrapper(inner), usual), this, args)
  }
  Object.defineProperty(target, name, { value: installed, configurable: true, writable: true, enumerable: before?.enumerable ?? false })
  return { before, wrappers, installed }
}

/** Puts `replacement` in the place of a method of this one object, and returns what takes it away. */
export function override<T extends object, K extends keyof T & string> (
  target: T, name: K, replacement: (usual: T[K]) => T[K]
): () => void {
  return wrap(target, name, replacement as unknown as (usual: Method) => Method)
}

/** All that is decided before the listeners of one server, whoever decides it. */
class Hub {
  readonly tables: Map<string | symbol, Interceptors[string]>[] = []
  readonly hidden = new Set<Listener>()
  readonly events = new Set<string>()
  expected: string | undefined
  readonly #server: EventEmitter
  readonly #undo: (() => void)[] = []
  readonly #emitBefore: Method | undefined
  readonly #prototype: { emit: Method }

  constructor (server: EventEmitter) {
    this.#server = server
    this.#prototype = Object.getPrototypeOf(server) as { emit: Method }
    const before = Object.getOwnPropertyDescriptor(server, 'emit')
    this.#emitBefore = before?.value as Method | undefined
    this.#replaceEmit(before)
    this.#hideListeners()
  }

  /** Emits past the interceptors. */
  pass (args: ArrayLike<unknown>): boolean {
    return Reflect.apply(this.#emitBefore ?? this.#prototype.emit, this.#server, args) as boolean
  }

  leave (): void {
    for (const undo of this.#undo) undo()
  }

  /** Every request of the server comes by here: V8 passes `arguments` on without making an array of them. */
  #replaceEmit (before: PropertyDescriptor | undefined): void {
    const server = this.#server
    const hub = this
    const prototype = this.#prototype
    const emitBefore = this.#emitBefore
    const emit = function (this: EventEmitter, event: string | symbol, first: unknown, second: unknown, third: unknown): unknown {
      const { tables } = hub
      for (let at = tables.length - 1; at >= 0; at--) {
        const interceptor = tables[at]?.get(event)
        if (interceptor === undefined) continue
        if (event === hub.expected) hub.expected = undefined
        const result = interceptor(first, second, third)
        if (result !== undefined) return result
      }
      return (emitBefore ?? prototype.emit).apply(this, arguments as unknown as unknown[])
    }
    Object.defineProperty(server, 'emit', { value: emit, configurable: true, writable: true, enumerable: false })
    this.#undo.push(() => {
      if (Object.getOwnPropertyDescriptor(server, 'emit')?.value !== emit) return
      if (before === undefined) Reflect.deleteProperty(server, 'emit')
      else Object.defineProperty(server, 'emit', before)
    })
  }

  /** Others who count, list or remove listeners see their own alone. */
  #hideListeners (): void {
    const server = this.#server
    const shown = (usual: Method, event: string): Listener[] =>
      (Reflect.apply(usual, server, [event]) as Listener[]).filter(one => !this.hidden.has(one))
    for (const query of ['listeners', 'rawListeners']) {
      this.#undo.push(wrap(server, query, usual => (event: unknown) => shown(usual, event as string)))
    }
    this.#undo.push(
      wrap(server, 'listenerCount', usual => (event: unknown, listener: unknown) => {
        const expected = event === this.expected ? 1 : 0
        if (listener !== undefined || !this.events.has(event as string)) {
          return Reflect.apply(usual, server, listener === undefined ? [event] : [event, listener]) as number + expected
        }
        return server.listeners(event as string).length + expected
      }),
      wrap(server, 'eventNames', usual => () =>
        (Reflect.apply(usual, server, []) as string[]).filter(event => !this.events.has(event) || server.listeners(event).length > 0)),
      wrap(server, 'removeAllListeners', usual => (...args: unknown[]) => {
        const kept = [...this.events].filter(event => args.length === 0 || args[0] === event)
          .map(event => ({ event, listeners: this.hiddenFor(event) }))
        Reflect.apply(usual, server, args)
        for (const { event, listeners } of kept) for (const one of listeners) server.on(event, one as (...args: unknown[]) => void)
        return server
      })
    )
  }

  readonly #all: Hidden[] = []

  hide (one: Hidden): void {
    this.#all.push(one)
    this.hidden.add(one.listener)
    this.events.add(one.event)
    this.#server.on(one.event, one.listener as (...args: unknown[]) => void)
  }

  show (one: Hidden): void {
    this.#server.removeListener(one.event, one.listener as (...args: unknown[]) => void)
    this.hidden.delete(one.listener)
    this.#all.splice(this.#all.indexOf(one), 1)
  }

  hiddenFor (event: string): Listener[] {
    return this.#all.filter(one => one.event === event).map(({ listener }) => listener)
  }
}

const hubs = new WeakMap<EventEmitter, Hub>()

/**
 * Puts `interceptors` before the listeners of a server, and adds `hidden` listeners that hear what somebody emits past
 * that, by an `emit` that was bound before. Others who count, list or remove listeners see their own alone: with a listener
 * that they did not add some of them take nothing, and Node's own defaults change.
 *
 * `emit` is Node's own way to tell all listeners alike, and has no public place before them.
 */
export function intercept (server: EventEmitter, interceptors: Interceptors, hidden: readonly Hidden[]): Interception {
  const hub = hubs.get(server) ?? new Hub(server)
  hubs.set(server, hub)
  const table = new Map<string | symbol, Interceptors[string]>(Object.entries(interceptors))
  hub.tables.push(table)
  for (const one of hidden) hub.hide(one)
  return {
    expect (event) { hub.expected = event },
    pass: (...args) => hub.pass(args),
    undo () {
      const at = hub.tables.indexOf(table)
      if (at < 0) return
      hub.tables.splice(at, 1)
      for (const one of hidden) hub.show(one)
      if (hub.tables.length > 0) return
      hub.leave()
      hubs.delete(server)
    }
  }
}
