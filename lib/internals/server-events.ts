// The events and methods of a server: who is told of an event. Checked on Node 20.20, 22.23, 24.21 and 26.12.
import type { EventEmitter } from 'node:events'

type Listener = (...args: never[]) => void
type Method = (this: unknown, ...args: unknown[]) => unknown

/** Functions by the name of an event. One that returns undefined lets the event go on to its listeners. */
export type Interceptors = Readonly<Record<string, (first: unknown, second: unknown, third: unknown) => boolean | undefined>>

interface Hidden {
  event: string
  listener: Listener
}

/** Interceptors on a server, and how they are taken off. */
export interface Interception {
  /** Until this event is emitted, it seems to have a listener: Node asks for one before it emits. Undefined ends that. */
  expect (event: string | undefined): void
  /** Emits past the interceptors. */
  pass (event: string, ...args: unknown[]): boolean
  /** Whether somebody has put his own `emit` before ours, and hears of events that have no listener. */
  isPreceded (): boolean
  undo (): void
}

/** All wrappers around one method of one object. */
interface Layers {
  readonly before: PropertyDescriptor | undefined
  readonly wrappers: ((usual: Method) => Method)[]
  readonly installed: Method
  /** To be called when the wrappers have changed. */
  join (): void
}

const layersOf = new WeakMap<object, Map<string, Layers>>()

/**
 * Puts `wrapper` around a method of one object, and returns a function that removes it. A method may have several wrappers, which
 * may be removed in any order. When the last one is removed, the object is as it was.
 *
 * The method of the prototype is looked up at each call, because tracers replace it there.
 */
function wrap (target: object, name: string, wrapper: (usual: Method) => Method): () => void {
  const methods = layersOf.get(target) ?? new Map<string, Layers>()
  layersOf.set(target, methods)
  let layers = methods.get(name)
  if (layers === undefined || Object.getOwnPropertyDescriptor(target, name)?.value !== layers.installed) {
    layers = install(target, name)
    methods.set(name, layers)
  }
  const { wrappers, before, installed, join } = layers
  wrappers.push(wrapper)
  join()
  return () => {
    const at = wrappers.indexOf(wrapper)
    if (at >= 0) wrappers.splice(at, 1)
    join()
    // Somebody else may have replaced it by a function that calls ours.
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
  let joined = usual
  const join = (): void => { joined = wrappers.reduce((inner, wrapper) => wrapper(inner), usual) }
  const installed: Method = function (...args) {
    return Reflect.apply(joined, this, args)
  }
  Object.defineProperty(target, name, { value: installed, configurable: true, writable: true, enumerable: before?.enumerable ?? false })
  return { before, wrappers, installed, join }
}

/** Replaces a method of one object, and returns a function that undoes it. */
export function override<T extends object, K extends keyof T & string> (
  target: T, name: K, replacement: (usual: T[K]) => T[K]
): () => void {
  return wrap(target, name, replacement as unknown as (usual: Method) => Method)
}

/** All interceptors and hidden listeners of one server. */
class Hub {
  readonly tables: Map<string | symbol, Interceptors[string]>[] = []
  readonly hidden = new Set<Listener>()
  readonly events = new Set<string>()
  expected: string | undefined
  readonly #server: EventEmitter
  readonly #undo: (() => void)[] = []
  readonly #emitBefore: Method | undefined
  #emit: Method | undefined
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

  isPreceded (): boolean {
    return (this.#server.emit as unknown as Method) !== this.#emit
  }

  leave (): void {
    for (const undo of this.#undo) undo()
  }

  /** Every request of the server passes here. V8 passes `arguments` on without making an array. */
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
    this.#emit = emit as Method
    Object.defineProperty(server, 'emit', { value: emit, configurable: true, writable: true, enumerable: false })
    this.#undo.push(() => {
      if (Object.getOwnPropertyDescriptor(server, 'emit')?.value !== emit) return
      if (before === undefined) Reflect.deleteProperty(server, 'emit')
      else Object.defineProperty(server, 'emit', before)
    })
  }

  /** Others who count, list or remove listeners see only their own. */
  #hideListeners (): void {
    const server = this.#server
    const shown = (usual: Method, event: string): Listener[] =>
      (Reflect.apply(usual, server, [event]) as Listener[]).filter(one => !this.hidden.has(one))
    for (const query of ['listeners', 'rawListeners']) {
      this.#undo.push(wrap(server, query, usual => (event: unknown) => shown(usual, event as string)))
    }
    this.#undo.push(
      wrap(server, 'listenerCount', usual => (event: unknown, listener: unknown) => {
        const counted = Reflect.apply(usual, server, listener === undefined ? [event] : [event, listener]) as number
        const hidden = listener === undefined ? this.#counts.get(event) ?? 0 : 0
        return counted - hidden + (event === this.expected ? 1 : 0)
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
  /** How many hidden listeners an event has. */
  readonly #counts = new Map<unknown, number>()

  hide (one: Hidden): void {
    this.#all.push(one)
    this.#counts.set(one.event, this.hiddenFor(one.event).length)
    this.hidden.add(one.listener)
    this.events.add(one.event)
    this.#server.on(one.event, one.listener as (...args: unknown[]) => void)
  }

  show (one: Hidden): void {
    this.#server.removeListener(one.event, one.listener as (...args: unknown[]) => void)
    this.hidden.delete(one.listener)
    this.#all.splice(this.#all.indexOf(one), 1)
    this.#counts.set(one.event, this.hiddenFor(one.event).length)
  }

  hiddenFor (event: string): Listener[] {
    return this.#all.filter(one => one.event === event).map(({ listener }) => listener)
  }
}

const hubs = new WeakMap<EventEmitter, Hub>()

/**
 * Puts `interceptors` before the listeners of a server. It also adds `hidden` listeners, for events that somebody emits past
 * the interceptors, by an `emit` that was bound before. Others who count, list or remove listeners see only their own. This
 * matters: some libraries take nothing if there is another listener, and some of Node's defaults change.
 *
 * Node has no public way to see an event before its listeners.
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
    isPreceded: () => hub.isPreceded(),
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
