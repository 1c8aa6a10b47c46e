import t from 'tap'
import { mock } from 'node:test'
import type { Test } from 'tap'
import { InactivityWatch } from '../lib/streams/inactivity-watch.ts'

interface Watched {
  watch: InactivityWatch
  /** The bytes that have passed. */
  pass: (bytes: number) => void
  /** How often the time was over. */
  expired: () => number
  tick: (ms: number) => void
}

/** A watch whose time the test sets forward. @param isTime what it is told when it says that the time is over */
function watch (t: Test, limit: number, isTime: () => boolean = () => true): Watched {
  mock.timers.enable({ apis: ['setInterval'] })
  t.teardown(() => mock.timers.reset())
  let bytes = 0
  let expired = 0
  const watch = new InactivityWatch(limit, () => bytes, () => {
    expired++
    return isTime()
  })
  return {
    watch,
    pass: more => { bytes += more },
    expired: () => expired,
    tick: ms => { for (let passed = 0; passed < ms; passed++) mock.timers.tick(1) }
  }
}

t.test('Q61 silence is over its limit when that has passed, and not before', async t => {
  for (const limit of [8, 800, 1000, 30_000]) {
    await t.test(`${limit} ms`, async t => {
      const { expired, tick } = watch(t, limit)
      tick(limit - 1)
      t.equal(expired(), 0)
      tick(8)
      t.equal(expired(), 1)
      tick(3 * limit)
      t.equal(expired(), 1, 'and nothing is looked for any more')
    })
  }
})

t.test('Q61 a byte at any time begins it anew, and overruns the limit by an eighth at most', async t => {
  for (const at of [1, 99, 100, 399, 700, 799]) {
    await t.test(`after ${at} of 800 ms`, async t => {
      const { expired, pass, tick } = watch(t, 800)
      tick(at)
      pass(1)
      tick(799)
      t.equal(expired(), 0, `${799} ms later`)
      tick(101)
      t.equal(expired(), 1, 'with an eighth more')
    })
  }
})

t.test('Q61 traffic now and then keeps it away for ever', async t => {
  const { expired, pass, tick } = watch(t, 800)
  for (let n = 0; n < 20; n++) {
    tick(700)
    pass(1)
  }
  t.equal(expired(), 0)
})

t.test('Q61 a counter that goes back has changed as well', async t => {
  const { expired, pass, tick } = watch(t, 800)
  tick(750)
  pass(-1)
  tick(750)
  t.equal(expired(), 0)
})

t.test('Q61 what arrives while the event loop stands still is seen before it is missed', async t => {
  const { expired, pass } = watch(t, 800)
  mock.timers.tick(99)
  pass(1)
  // The loop stood still for an hour: one look is due, and not the eight that would have been.
  t.equal(expired(), 0)
})

t.test('Q61 where it is not time silence is counted anew', async t => {
  let isTime = false
  const { expired, tick } = watch(t, 800, () => isTime)
  tick(800)
  t.equal(expired(), 1)
  tick(799)
  t.equal(expired(), 1)
  isTime = true
  tick(1)
  t.equal(expired(), 2)
  tick(1600)
  t.equal(expired(), 2)
})

t.test('Q61 a watch that was stopped says nothing', async t => {
  const { watch: stopped, expired, tick } = watch(t, 800)
  tick(799)
  stopped.stop()
  stopped.stop()
  tick(1600)
  t.equal(expired(), 0)
})
