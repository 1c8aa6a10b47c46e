// What drives examples/worker through a balancer: clients that send lines, and are told to go to another worker.
import { strict as assert } from 'node:assert'
import { EventEmitter, once } from 'node:events'
import http, { type IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import { createInterface } from 'node:readline'
import { setTimeout as after } from 'node:timers/promises'
import type { Program } from '../../fixtures/program.ts'

/** What a client does nothing for, between an answer and its next message. */
const PAUSE = 200

/** The configuration of docs/more-than-one-machine.md, for these addresses. */
export function haproxyInFront (front: number, workers: readonly string[]): string {
  return `
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  timeout tunnel 1h
  retries 3
  option redispatch
  retry-on conn-failure empty-response 503
frontend front
  bind 127.0.0.1:${front}
  default_backend workers
backend workers
  balance leastconn
  option httpchk GET /ready
  default-server check inter 250ms fall 1 rise 1
${workers.map((worker, index) => `  server w${index + 1} ${worker}`).join('\n')}
`
}

export interface Counts {
  told: number
  finished: number
  cut: number
}

/** What a worker says when it goes, with exit code 0. */
export async function stop (worker: Program): Promise<Counts> {
  assert.equal(await worker.stop(), 0, worker.output())
  const [, told, finished, cut] = await worker.printed(/told (\d+), finished (\d+), cut (\d+)/)
  return { told: Number(told), finished: Number(finished), cut: Number(cut) }
}

export function sum (counts: readonly Counts[]): Counts {
  const all = (name: keyof Counts): number => counts.reduce((total, count) => total + count[name], 0)
  return { told: all('told'), finished: all('finished'), cut: all('cut') }
}

/** Asks through the proxy until all of these workers have answered. */
export async function answer (front: number, ...names: readonly string[]): Promise<void> {
  const silent = new Set(names)
  while (silent.size > 0) {
    // A connection each: the proxy chooses a worker for every one of them.
    const answer = fetch(`http://127.0.0.1:${front}/`, { headers: { connection: 'close' } }).then(response => response.text())
    const name = await answer.catch(() => '')
    if (!silent.delete(name.trim())) await after(50)
  }
}

/** An upgraded connection, or undefined where it was refused. */
export async function dial (port: number): Promise<Socket | undefined> {
  const request = http.get({ host: '127.0.0.1', port, path: '/lines', headers: { connection: 'Upgrade', upgrade: 'lines' }, agent: false })
  const upgraded = once(request, 'upgrade') as Promise<[IncomingMessage, Socket, Buffer]>
  const answered = once(request, 'response') as Promise<[IncomingMessage]>
  try {
    const [response, socket, head] = await Promise.race([upgraded, answered])
    if (socket === undefined) {
      response.resume()
      return undefined
    }
    if (head !== undefined && head.length > 0) socket.unshift(head)
    return socket
  } catch {
    return undefined
  }
}

/** Sends numbers, and waits for each to be acknowledged, until it is told to stop. It emits 'connected' and 'ack'. */
export class LineClient extends EventEmitter {
  sent = 0
  acknowledged = 0
  /** Connections beyond the first. */
  reconnects = -1
  /** Attempts at a connection that failed. */
  refused = 0
  /** Connections that ended before their time. */
  broken = 0
  readonly #port: number
  #stopping = false

  constructor (port: number) {
    super()
    this.#port = port
  }

  /** From now on nothing new is sent; `run()` resolves when all is acknowledged. */
  stop (): void {
    this.#stopping = true
  }

  async run (): Promise<void> {
    while (!this.#stopping) {
      const socket = await dial(this.#port)
      if (socket === undefined) {
        if (++this.refused === 100) throw new Error('there is no worker that accepts')
        await after(PAUSE)
        continue
      }
      this.reconnects++
      this.emit('connected')
      if (!await this.#talk(socket).catch(() => false)) this.broken++
    }
  }

  /** One connection, to its end. Tells whether it was meant to end. */
  async #talk (socket: Socket): Promise<boolean> {
    let told = false
    let waiting = false
    let timer: NodeJS.Timeout | undefined
    const next = (): void => {
      if (told || this.#stopping) {
        socket.end()
      } else {
        waiting = true
        socket.write(`${++this.sent}\n`)
      }
    }
    next()
    try {
      for await (const line of createInterface({ input: socket })) {
        if (line === 'bye') {
          told = true
        } else {
          assert.equal(line, `ack ${this.sent}`)
          waiting = false
          this.acknowledged++
          this.emit('ack')
        }
        clearTimeout(timer)
        if (!waiting) timer = setTimeout(next, told ? 0 : PAUSE)
      }
      return (told || this.#stopping) && !waiting
    } finally {
      clearTimeout(timer)
      socket.destroy()
    }
  }
}
