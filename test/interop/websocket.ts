// WebSocket through `detach()`: examples/websocket, a chat where everybody hears what anybody says.
import { strict as assert } from 'node:assert'
import http from 'node:http'
import { join } from 'node:path'
import type { Program } from '../fixtures/program.ts'
import { chromium, Dialogue, exits, launch, load, playwright, python, undici, ws, type Group, type Lab, type Peer } from './lab/index.ts'

const wscat: Peer = { name: 'wscat', required: true, npm: 'wscat@6' }
const websockets: Peer = {
  name: 'Python websockets', required: true, debian: ['python3-websockets'], command: '/usr/lib/python3/dist-packages/websockets/__init__.py'
}

/** What `ws` and the browsers' WebSocket have in common. */
interface Socket extends EventTarget {
  send: (text: string) => void
  close: (code?: number, reason?: string) => void
  readyState: number
}
type SocketClass = new (url: string) => Socket

async function run (lab: Lab): Promise<void> {
  const program = await lab.example('websocket')
  const { port } = program
  const url = (name: string): string => `ws://localhost:${port}/chat?name=${name}`

  for (const peer of [ws, undici]) {
    await lab.check(peer, 'WebSocket: hears itself and another, closes with 1000', async () => {
      const { WebSocket } = load<{ WebSocket: SocketClass }>(peer.name)
      const [ada, bob] = [`ada-${peer.name}`, `bob-${peer.name}`]
      const one = await open(WebSocket, url(ada))
      assert.equal(await one.next(), `${ada} is here`)
      const two = await open(WebSocket, url(bob))
      assert.equal(await one.next(), `${bob} is here`)
      assert.equal(await two.next(), `${bob} is here`)
      two.socket.send('h\u00e9, \u{1f600}')
      assert.equal(await one.next(), `${bob}: h\u00e9, \u{1f600}`)
      two.socket.close(1000, 'bye')
      assert.equal(await two.closed, 1000)
      assert.equal(await one.next(), `${bob} left`)
      one.socket.close()
      await one.closed
    })
    await lab.check(peer, 'WebSocket: a message that is too big is answered with 1009', async () => {
      const { WebSocket } = load<{ WebSocket: SocketClass }>(peer.name)
      const one = await open(WebSocket, url('big'))
      one.socket.send('x'.repeat(5000))
      assert.equal(await one.closed, 1009)
    })
    await lab.check(peer, 'WebSocket: a handshake that the schema of the route refuses fails', async () => {
      const { WebSocket } = load<{ WebSocket: SocketClass }>(peer.name)
      await assert.rejects(open(WebSocket, url('')), /no connection/)
    })
  }

  await lab.check(wscat, 'talks, hears itself, ends', async manifest => {
    const child = lab.spawn(process.execPath, [join(manifest, '../bin/wscat'), '--no-color', '-w', '1', '-c', url('wscat'), '-x', 'hello'])
    const dialogue = new Dialogue(child)
    await dialogue.until('wscat: hello')
    child.stdin.end()
    assert.equal(await dialogue.exit(), 0)
  })

  await lab.check(websockets, 'asyncio client: hears itself, pings, 400 for a refused handshake, closes with 1000', async () => {
    const { stdout } = exits(await lab.run(python.command as string, ['-c', `
import asyncio, websockets
async def main():
    async with websockets.connect('${url('python')}') as ws:
        assert await ws.recv() == 'python is here'
        await ws.send('hello')
        assert await ws.recv() == 'python: hello'
        await (await ws.ping())
    assert ws.close_code == 1000, ws.close_code
    try:
        await websockets.connect('${url('')}')
    except websockets.InvalidHandshake as error:
        status = error.response.status_code if hasattr(error, 'response') else error.status_code
        assert status == 400, status
    else:
        raise Exception('not refused')
    print('done')
asyncio.run(main())
`]))
    assert.equal(String(stdout), 'done\n')
  })

  await lab.check(chromium, 'the page of the chat: talks and hears another client', async path => {
    const browser = await launch(lab, path)
    const page = await browser.newPage()
    page.on('dialog', dialog => dialog.accept('chromium'))
    await page.goto(`http://localhost:${port}/`)
    const show = page.locator('pre')
    await show.filter({ hasText: 'chromium is here' }).waitFor()
    const { WebSocket } = load<{ WebSocket: SocketClass }>('undici')
    const other = await open(WebSocket, url('other'))
    await page.locator('input').fill('hello from a browser')
    await page.keyboard.press('Enter')
    while (await other.next() !== 'chromium: hello from a browser');
    other.socket.send('hello from undici')
    await show.filter({ hasText: 'other: hello from undici' }).waitFor()
    await page.close()
    while (await other.next() !== 'chromium left');
    other.socket.close()
    await other.closed
  })
  await lab.check(chromium, 'a page of another site: refused by the route, 403', async path => {
    const elsewhere = http.createServer((_request, response) => response.setHeader('content-type', 'text/html').end('<!doctype html>'))
    const site = await lab.listening(elsewhere)
    const browser = await launch(lab, path)
    const page = await browser.newPage()
    await page.goto(`http://localhost:${site}/`)
    const opened = await page.evaluate(`new Promise(resolve => {
      const ws = new WebSocket('${url('eve')}')
      ws.onopen = () => resolve('open')
      ws.onclose = event => resolve(event.code)
    })`)
    assert.equal(opened, 1006)
    await program.printed('"statusCode":403')
    assert.doesNotMatch(program.output(), /eve is here/)
    await page.close()
  })

  await lab.check(undici, 'WebSocket: told 1001 when the server goes, which ends with exit code 0', async () => {
    await goingAway(program, url('late'))
  })
}

async function goingAway (program: Program, url: string): Promise<void> {
  const { WebSocket } = load<{ WebSocket: SocketClass }>('undici')
  const late = await open(WebSocket, url)
  const stopped = program.stop()
  assert.equal(await late.closed, 1001)
  assert.equal(await stopped, 0)
}

interface Opened {
  socket: Socket
  next: () => Promise<string>
  closed: Promise<number>
}

async function open (WebSocket: SocketClass, url: string): Promise<Opened> {
  const socket = new WebSocket(url)
  const messages: string[] = []
  let wake: () => void = () => {}
  socket.addEventListener('message', event => {
    messages.push(String((event as MessageEvent).data))
    wake()
  })
  const closed = new Promise<number>(resolve => {
    socket.addEventListener('close', event => resolve((event as Event & { code: number }).code))
  })
  await new Promise<void>((resolve, reject) => {
    socket.addEventListener('open', () => resolve())
    socket.addEventListener('error', event => reject(new Error(`no connection: ${String((event as Event & { message?: string }).message)}`)))
  })
  const next = async (): Promise<string> => {
    while (messages.length === 0) await new Promise<void>(resolve => { wake = resolve })
    return messages.shift() as string
  }
  return { socket, next, closed }
}

const group: Group = { title: 'WebSocket', peers: [ws, undici, wscat, websockets, python, chromium, playwright], run }

export default group
