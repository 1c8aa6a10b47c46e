import t from 'tap'
import { LiveSet } from '../lib/tools/live-set.ts'

interface Thing { name: number }

const things = Array.from({ length: 40 }, (_, name): Thing => ({ name }))

t.test('what comes and goes in any order is in a LiveSet as it would be in a Set', async t => {
  const live = new LiveSet<Thing>()
  const model = new Set<Thing>()
  // A generator of Lehmer's: the same order in every run.
  let seed = 20
  const random = (below: number): number => (seed = seed * 48271 % 0x7fffffff) % below
  for (let step = 0; step < 5000; step++) {
    const thing = things[random(things.length)] as Thing
    if (random(2) === 0) {
      live.add(thing)
      model.add(thing)
    } else if (live.delete(thing) !== model.delete(thing)) {
      t.fail(`step ${step}: delete() tells wrongly whether it was there`)
    }
    const same = live.size === model.size && things.every(one => live.has(one) === model.has(one)) && [...live].every(one => model.has(one))
    if (!same || [...live].length !== model.size) t.fail(`step ${step}: another content`)
  }
  t.ok(model.size > 0, 'some are left')
  for (const thing of model) live.delete(thing)
  t.equal(live.size, 0)
  t.same([...live], [])
})

t.test('a LiveSet gives a turn to nobody that is gone by then', async t => {
  const live = new LiveSet<Thing>()
  for (const thing of things.slice(0, 6)) live.add(thing)
  const seen: number[] = []
  for (const { name } of live) {
    seen.push(name)
    for (const gone of [name, name + 1]) live.delete(things[gone] as Thing)
    live.add(things[20] as Thing)
  }
  t.same(seen, [0, 2, 4])
  t.equal(live.size, 1)
})

t.test('a LiveSet can be read in all the ways of a Set', async t => {
  const live: ReadonlySet<Thing> = (() => {
    const made = new LiveSet<Thing>()
    for (const thing of things.slice(0, 3)) made.add(thing)
    return made
  })()
  const expected = things.slice(0, 3)
  t.same([...live.values()], expected)
  t.same([...live.keys()], expected)
  t.same([...live.entries()], expected.map(thing => [thing, thing]))
  const receiver = {}
  const told: unknown[] = []
  live.forEach(function (this: unknown, value, key, set) { told.push([this === receiver, value, key, set === live]) }, receiver)
  t.same(told, expected.map(thing => [true, thing, thing, true]))
  t.equal(Object.prototype.toString.call(live), '[object Set]')
  t.notOk(live.has({ name: 0 }))
})

t.test('a view of a LiveSet has what the Set of this Node has besides', async t => {
  const live = new LiveSet<Thing>()
  for (const { name } of things.slice(0, 3)) live.add({ name })
  const names = Object.getOwnPropertyNames(Set.prototype).filter(name => !['add', 'clear', 'constructor', 'delete'].includes(name))
  t.same(names.filter(name => !(name in live.view)), [], 'nothing is missing')
  const { union, isSubsetOf } = live.view as unknown as {
    union?: (other: Set<Thing>) => Set<Thing>
    isSubsetOf?: (other: Set<Thing>) => boolean
  }
  if (union === undefined || isSubsetOf === undefined) return
  t.same([...union.call(live.view, new Set([things[9] as Thing]))].map(({ name }) => name), [0, 1, 2, 9])
  t.equal(isSubsetOf.call(live.view, new Set([...live, things[9] as Thing])), true)
  t.equal(isSubsetOf.call(live.view, new Set()), false)
})

t.test('one member may be in several sets, each with its own place for it', async t => {
  const one = new LiveSet<object>()
  const other = new LiveSet<object>()
  const member = {}
  other.add({})
  one.add(member)
  other.add(member)
  t.strictSame([one.has(member), other.has(member)], [true, true])
  one.delete(member)
  t.strictSame([one.has(member), other.has(member), other.size], [false, true, 2])
})

t.test('a view of a set reads it, and changes nothing', async t => {
  const set = new LiveSet<object>()
  const member = {}
  set.add(member)
  t.strictSame([set.view.size, set.view.has(member), [...set.view]], [1, true, [member]])
  t.notOk('add' in set.view)
  t.notOk('delete' in set.view)
})
