/** In milliseconds: what a stretch of waiting counts for at most, however long the machine stood still. */
const TICK = 10
const MOST = 2 * TICK

const waiting = new Set<(time: number) => void>()
let last = 0
let timer: NodeJS.Timeout | undefined

/**
 * Waits until this holds, for at most so many milliseconds in which the event loop turned.
 *
 * @returns whether it holds
 */
export function patience (limit: number, holds: () => boolean): Promise<boolean> {
  if (holds()) return Promise.resolve(true)
  return new Promise(resolve => {
    let left = limit
    const look = (time: number): void => {
      left -= time
      const there = holds()
      if (!there && left > 0) return
      waiting.delete(look)
      resolve(there)
    }
    waiting.add(look)
    if (timer !== undefined) return
    last = performance.now()
    timer = setInterval(() => {
      const now = performance.now()
      const time = Math.min(MOST, now - last)
      last = now
      for (const one of waiting) one(time)
      if (waiting.size > 0) return
      clearInterval(timer)
      timer = undefined
    }, TICK)
  })
}

export function sleep (milliseconds: number): Promise<void> {
  return new Promise(resolve => { setTimeout(resolve, milliseconds) })
}
