import t from 'tap'
import { once } from 'node:events'
import { PassThrough } from 'node:stream'
import type { BodyCarrier } from '../lib/http1/body-carrier.ts'
import { Link, type Waiting } from '../lib/http1/link.ts'
import type { SocketCarrier } from '../lib/http1/socket-carrier.ts'
import { listen, onBoth } from './fixtures/bare.ts'

/** Who says that it was told. */
function waiting (told: string[], name: string, then?: () => void): Waiting {
  return {
    linkClosed () {
      told.push(name)
      then?.()
    }
  }
}

onBoth('Q50 every link of a socket hears once that it has closed, with all who wait on it, the latest link first', async (t, carrying) => {
  const { link: connect } = await listen(t, carrying)
  const { wire, socket } = await connect()
  const told: string[] = []
  const before = socket.listenerCount('close')
  const [first, second, third] = ['first', 'second', 'third'].map(name => {
    const link = new Link(socket, closed => told.push(`${name} ${closed === link ? 'itself' : 'another'}`))
    link.add(waiting(told, `waits on ${name}`))
    return link
  }) as [Link, Link, Link]
  t.equal(socket.listenerCount('close'), before + 1, 'one listener, however many links')
  t.equal(Link.of(socket), third)
  t.strictSame([third.below, second.below, first.below], [second, first, undefined])
  second.takeover = waiting(told, 'takeover of second') as SocketCarrier
  const closed = new Promise(resolve => socket.once('close', resolve))
  socket.on('error', () => {})
  socket.resume()
  wire.reset()
  await closed
  t.strictSame(told, [
    'waits on third', 'third itself', 'waits on second', 'takeover of second', 'second itself', 'waits on first', 'first itself'
  ])
  socket.emit('close')
  t.strictSame(told.filter(name => name.startsWith('waits')).length, 3, 'who waited is told once')
})

t.test('Q6 who no longer waits on a link is not told, nor is who comes when it is over told of that', async t => {
  const told: string[] = []
  const socket = new PassThrough()
  const link = new Link(socket, () => told.push('closed'))
  const [one, two, three] = ['one', 'two', 'three'].map(name => waiting(told, name)) as [Waiting, Waiting, Waiting]
  for (const each of [one, two, three]) link.add(each)
  link.remove(two)
  link.remove(two)
  link.remove(waiting(told, 'never added'))
  const late = waiting(told, 'late')
  link.add(waiting(told, 'last', () => {
    link.remove(one)
    link.add(late)
  }))
  const closed = once(socket, 'close')
  socket.destroy()
  await closed
  t.strictSame(told, ['one', 'three', 'last', 'closed'])
})

t.test('Q6 one who waits may leave the link while it tells the others, and none of them is passed over', async t => {
  const told: string[] = []
  const socket = new PassThrough()
  const link = new Link(socket, () => told.push('closed'))
  const one: Waiting = waiting(told, 'one', () => link.remove(one))
  for (const each of [one, waiting(told, 'two'), waiting(told, 'three')]) link.add(each)
  const closed = once(socket, 'close')
  socket.destroy()
  await closed
  t.strictSame(told, ['one', 'two', 'three', 'closed'])
})

t.test('Q6 a link is live while there is a takeover, or somebody waits on it', async t => {
  const link = new Link(new PassThrough(), () => {})
  t.notOk(link.live)
  const one = waiting([], 'one')
  link.add(one)
  t.ok(link.live)
  link.remove(one)
  t.notOk(link.live)
  link.latestBody = waiting([], 'body') as BodyCarrier
  t.notOk(link.live, 'a body that has come and was answered holds nothing')
  link.takeover = waiting([], 'takeover') as SocketCarrier
  t.ok(link.live)
})

t.test('Q6 a socket without a link has none', async t => {
  t.equal(Link.of(new PassThrough()), undefined)
})
