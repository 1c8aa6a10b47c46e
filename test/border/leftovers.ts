import type { EventEmitter } from 'node:events'

/** Timers that this package has started: each with the line that did it. */
const timers = new Map<NodeJS.Timeout, string>()

/** Sees every timer that is started from lib/ from now on. */
export function watchTimers (): void {
  const { setTimeout, setInterval } = globalThis
  const watched = <F extends (...args: never[]) => NodeJS.Timeout>(start: F): F => ((...args: never[]) => {
    const timer = start(...args)
    const limit = Error.stackTraceLimit
    Error.stackTraceLimit = 3
    const { stack = '' } = new Error()
    Error.stackTraceLimit = limit
    const line = stack.split('\n').slice(2).find(one => one.includes('/lib/'))
    if (line !== undefined) timers.set(timer, line.trim().replace(/^at /, '').replace(/file:.*\/lib\//, 'lib/'))
    return timer
  }) as F
  globalThis.setTimeout = Object.assign(watched(setTimeout as never), setTimeout)
  globalThis.setInterval = watched(setInterval as never)
}

/** Those that still run. */
export function runningTimers (): Map<NodeJS.Timeout, string> {
  for (const timer of timers.keys()) {
    if ((timer as unknown as { _destroyed: boolean })._destroyed) timers.delete(timer)
  }
  return new Map(timers)
}

/** Whether it is one for all that come and go, which no batch has to itself. */
export function isShared (timer: NodeJS.Timeout): boolean {
  return (timer as unknown as { _repeat: number | null })._repeat !== null
}

export type Snapshot = Record<string, number>

/** How many listeners each event has, and which methods are not those of its class. */
export function snapshot (emitter: EventEmitter): Snapshot {
  const all: Snapshot = {}
  for (const event of emitter.eventNames()) all[String(event)] = emitter.listenerCount(event)
  for (const [name, value] of Object.entries(emitter)) if (typeof value === 'function' && name in Object.getPrototypeOf(emitter)) all[`own ${name}()`] = 1
  return all
}

export function difference (before: Snapshot, after: Snapshot): string[] {
  return [...new Set([...Object.keys(before), ...Object.keys(after)])]
    .sort().filter(name => (before[name] ?? 0) !== (after[name] ?? 0))
    .map(name => `${name}: ${before[name] ?? 0} became ${after[name] ?? 0}`)
}
