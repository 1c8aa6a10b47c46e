import t from 'tap'
import { closeFrame, frame, nextClose, nextText, opening } from './fixtures/frames.ts'
import { start } from './fixtures/program.ts'
import { request } from './fixtures/requests.ts'
import type { Wire } from './fixtures/wire.ts'

t.test('MS1 rooms: a WebSocket, an EventSource, curl and a netcat in one room', async t => {
  const rooms = await start(t, new URL('../examples/rooms.js', import.meta.url), { LOG: 'warn' })
  const tokenOf = async (name: string): Promise<string> => {
    const wire = await rooms.connect()
    wire.send(request(`GET /token/${name}`))
    return (await wire.response()).body
  }
  const url = async (name: string): Promise<string> => `/rooms/1?token=${await tokenOf(name)}`
  /** The text of the next thing that this one says. */
  const hears = async (wire: Wire, from: string, text: string): Promise<void> => {
    await wire.until(JSON.stringify({ from, text }))
    t.pass(`${from}: ${text}`)
  }

  const stranger = await rooms.connect()
  stranger.send(opening('/rooms/1?token=none'))
  t.equal((await stranger.head()).status, 401)

  const browser = await rooms.connect()
  browser.send(opening(await url('browser')))
  t.equal((await browser.head()).status, 101)
  t.equal(await nextText(browser), '{"from":"browser","text":"(is here)"}')

  const events = await rooms.connect()
  events.send(request(`GET ${await url('events')}`, 'Accept: text/event-stream'))
  t.match(await events.head(), { status: 200, headers: { 'content-type': 'text/event-stream' } })
  t.equal(await nextText(browser), '{"from":"events","text":"(is here)"}')

  const netcat = await rooms.connect()
  netcat.send(`${request(`GET ${await url('netcat')}`, 'Connection: Upgrade', 'Upgrade: lines')}{"text":"hi"}\n`)
  await hears(events, 'netcat', 'hi')
  await hears(netcat, 'netcat', 'hi')

  const curl = await rooms.connect()
  curl.send(`${request(`POST ${await url('curl')}`, 'Content-Type: application/json', 'Content-Length: 16')}{"text":"posted"}`.slice(0, -1))
  t.equal((await curl.head()).status, 400, 'what is no message is refused')
  curl.send(`${request(`POST ${await url('curl')}`, 'Content-Type: application/json', 'Content-Length: 17')}{"text":"posted"}`)
  await hears(netcat, 'curl', 'posted')

  browser.send(frame('{"text":"from the browser"}'))
  await hears(events, 'browser', 'from the browser')
  browser.send(closeFrame(1000))
  t.equal((await nextClose(browser)).code, 1000)
  browser.end()
  await hears(netcat, 'browser', '(left)')
  netcat.end()
  await hears(events, 'netcat', '(left)')
  t.equal(await rooms.stop(), 0)
})

t.test('MS7 rooms: who does not read is ended, and holds nobody up', async t => {
  const rooms = await start(t, new URL('../examples/rooms.js', import.meta.url), { LOG: 'info' })
  const open = async (name: string, head: (url: string) => string): Promise<Wire> => {
    const wire = await rooms.connect()
    wire.send(request(`GET /token/${name}`))
    const { body } = await wire.response()
    wire.send(head(`/rooms/1?token=${body}`))
    await wire.head()
    return wire
  }
  const netcat = await open('netcat', url => request(`GET ${url}`, 'Connection: Upgrade', 'Upgrade: lines'))
  const slow = await open('slow', opening)
  slow.socket.pause()
  let ended = false
  void rooms.printed('"reason":"slow"').then(() => { ended = true })
  for (let round = 0; round < 100; round++) {
    if (ended) break
    netcat.send(`{"text":"${'x'.repeat(500)}"}\n`.repeat(500) + `{"text":"round ${round}"}\n`)
    await netcat.until(`"text":"round ${round}"}\n`)
  }
  t.equal(ended, true)
  netcat.send('{"text":"still here"}\n')
  await netcat.until('"text":"still here"}\n')
  t.equal(await rooms.stop(), 0)
})
