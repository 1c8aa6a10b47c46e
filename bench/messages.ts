// Messages over WebSocket, checked by one schema: `messages`, and the same by hand on `ws`, on @fastify/websocket and on socket.io.
import net from 'node:net'
import { constants, deflateRawSync } from 'node:zlib'
import { contest, type Outcome } from './contest.ts'
import { idle, type Idle } from './idle.ts'
import { Server, type LoadOptions } from './processes.ts'
import type { MessageServerName } from './protocol.ts'

function opening (path: string, ...fields: string[]): string {
  return [
    `GET ${path} HTTP/1.1`, 'Host: localhost', 'Connection: Upgrade', 'Upgrade: websocket', 'Sec-WebSocket-Version: 13',
    'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==', ...fields, '', ''
  ].join('\r\n')
}

/** A frame of text with a mask of zeros, RFC 6455 section 5.2. */
function frame (payload: Buffer, first = 0x81): Buffer {
  const length = payload.length < 126 ? [payload.length] : [126, payload.length >> 8, payload.length & 0xff]
  return Buffer.concat([Buffer.from([first, (length[0] as number) | 0x80, ...length.slice(1), 0, 0, 0, 0]), payload])
}

/** RFC 7692 section 7.2.1. */
function deflated (text: string): Buffer {
  return frame(deflateRawSync(text, { finishFlush: constants.Z_SYNC_FLUSH }).subarray(0, -4), 0xc1)
}

const sizes = { small: 64, large: 4096 } as const
const messageOf = (length: number): string => JSON.stringify({ id: 1, text: 'word '.repeat(length / 5).padEnd(length, 'x'), to: ['ada', 'bob'] })

interface Talk {
  request: string
  /** Behind the greeting of the server. */
  then?: Buffer
  payload: Buffer
}

/** How a client opens the connection, and what it sends. */
function talk (name: MessageServerName, message: string): Talk {
  // An event of socket.io in a message of engine.io, behind the opening of the namespace.
  if (name !== 'socket.io') return { request: opening('/echo'), payload: frame(Buffer.from(message)) }
  return {
    request: opening('/socket.io/?EIO=4&transport=websocket'),
    then: frame(Buffer.from('40')),
    payload: frame(Buffer.from(`42["say",${message}]`))
  }
}

/** Where the frames end that a server has sent behind its head, as far as they are whole. */
function ends (received: Buffer): number[] {
  const found: number[] = []
  const head = received.indexOf('\r\n\r\n')
  for (let at = head === -1 ? received.length : head + 4; at + 2 <= received.length;) {
    const short = (received[at + 1] as number) & 0x7f
    if (short === 126 && at + 4 > received.length) break
    at += short === 126 ? 4 + received.readUInt16BE(at + 2) : 2 + short
    if (at <= received.length) found.push(at - head - 4)
  }
  return found
}

/** How many bytes so many frames of the server have, each of which comes behind one of these. */
function measured (port: number, sent: (string | Buffer)[], frames: number[]): Promise<number[]> {
  return new Promise((resolve, reject) => {
    const socket = net.connect(port, '127.0.0.1')
    const sizes: number[] = []
    let received = Buffer.alloc(0)
    let wanted = 0
    const go = (): void => {
      const step = sizes.length
      wanted += frames[step] as number
      socket.write(sent[step] as string | Buffer)
    }
    socket.on('error', reject)
    socket.on('data', chunk => {
      received = Buffer.concat([received, chunk])
      if (!received.includes('\r\n\r\n')) return
      const found = ends(received)
      while (sizes.length < frames.length && found.length >= wanted) {
        const before = sizes.reduce((sum, size) => sum + size, 0)
        sizes.push((wanted === 0 ? 0 : found[wanted - 1] as number) - before)
        if (sizes.length < frames.length) go()
      }
      if (sizes.length < frames.length) return
      socket.destroy()
      resolve(sizes)
    })
    go()
  })
}

const contenders = { 'ws by hand': 'ws', 'fastify-duplex': 'messages', '@fastify/websocket by hand': 'websocket-messages', 'socket.io': 'socket.io' } as const

export type MessageLoad = Pick<LoadOptions, 'connections' | 'depth' | 'ms'>

/** @param practice turns of each process that do not count */
export async function messageContest (size: keyof typeof sizes, load: MessageLoad, rounds: number, practice: number): Promise<Outcome[]> {
  const message = messageOf(sizes[size])
  const all = []
  for (const [label, name] of Object.entries(contenders)) {
    const { request, then, payload } = talk(name, message)
    const probe = await Server.start(name)
    const sizes = then === undefined
      ? await measured(probe.port, [request, payload], [0, 1])
      : await measured(probe.port, [request, then, payload], [1, 1, 1])
    probe.stop()
    const reply = sizes.pop() as number
    const greeting = sizes.reduce((sum, size) => sum + size, 0)
    const after = then === undefined ? 0 : sizes[0] as number
    const own = { request, ...then === undefined ? {} : { then, after }, payload, greeting, reply }
    all.push({ label, target: () => Server.start(name), practice, load: { ...load, ...own } })
  }
  const [first] = all
  return await contest([...all, { ...first as typeof all[number], label: 'ws by hand, again' }], rounds)
}

/** Memory of connections on which one message was answered. */
export async function messageIdle (connections: number, rounds: number): Promise<Record<string, Idle[]>> {
  const message = messageOf(sizes.large)
  const plain = [opening('/echo'), frame(Buffer.from(message))] as const
  const offered = [opening('/echo', 'Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover'), deflated(message)] as const
  const idles: Record<string, Idle[]> = {}
  for (let round = 0; round < rounds; round++) {
    for (const [label, name, [request, then]] of [
      ['ws', 'ws', plain], ['fastify-duplex', 'messages', plain],
      ['ws, permessage-deflate', 'ws-deflate', offered], ['fastify-duplex, permessage-deflate', 'messages-deflate', offered]
    ] as const) {
      const probe = await Server.start(name)
      const [, greeting] = await measured(probe.port, [request, then], [0, 1]) as [number, number]
      probe.stop()
      ;(idles[label] ??= []).push(await idle(name, connections, request, { then, greeting, quiet: 1500 }))
    }
  }
  return idles
}
