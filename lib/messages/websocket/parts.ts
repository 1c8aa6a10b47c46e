// The parts of `ws` that are used, checked with 8.18 to 8.23. `ws` exports them without documenting them. A missing part is
// reported at boot.
import type { Duplex } from 'node:stream'
import { FST_ERR_DUPLEX_UNSUPPORTED_RUNTIME } from '../../errors.ts'
import type { FrameOutput } from './frame-output.ts'

/** Takes bytes, and emits 'message', 'ping', 'pong' and 'conclude'. */
export interface Receiver {
  readonly writableEnded: boolean
  /** What has arrived of a frame. */
  _buffers?: Buffer[]
  readonly _bufferedBytes?: number
  readonly writableLength: number
  write (chunk: Buffer, done?: () => void): boolean
  on (event: 'message', listener: (data: Buffer, isBinary: boolean) => void): this
  on (event: 'ping' | 'pong', listener: (data: Buffer) => void): this
  on (event: 'conclude', listener: (code: number, reason: Buffer) => void): this
  on (event: 'error', listener: (error: Error & { code?: string }) => void): this
  on (event: 'drain', listener: () => void): this
}

/** So many pieces of a frame are kept apart, and more if they are long. */
const MOST_PIECES = 64
const SHORT = 512

/** Joins the pieces of a frame if they are short: a message that arrives byte by byte would be as many objects. */
export function joinPieces (receiver: Receiver): void {
  const { _buffers: pieces, _bufferedBytes: size = Infinity } = receiver
  if (pieces !== undefined && pieces.length >= MOST_PIECES && pieces.length * SHORT > size) receiver._buffers = [Buffer.concat(pieces)]
}

type Done = (error?: Error) => void

export interface Sender {
  onerror: (error: Error) => void
  send (data: string | Uint8Array, options: { binary: boolean, compress: boolean, fin: boolean, mask: boolean }, done?: Done): void
  ping (data: string | Uint8Array, mask: boolean, done?: Done): void
  pong (data: string | Uint8Array, mask: boolean, done?: Done): void
  close (code: number | undefined, reason: string | Uint8Array, mask: boolean, done?: Done): void
}

export interface Deflate {
  accept (offers: object[]): object
  compress (data: Uint8Array | string, fin: boolean, done: (error: Error | null, data?: Buffer) => void): void
  decompress (data: Buffer, fin: boolean, done: (error: Error | null, data?: Buffer) => void): void
  cleanup (): void
  params: Record<string, unknown>
}

/** The object that libraries know as a WebSocket. */
export interface WholeWebSocket {
  _protocol: string
  _extensions: Extensions
  readonly _closeCode: number
  readonly _closeMessage: Buffer
  readonly _closeFrameReceived: boolean
  readonly _closeFrameSent: boolean
  readonly readyState: number
  setSocket (socket: Duplex, head: Buffer, options: object): void
  on (event: 'close', listener: (code: number, reason: Buffer) => void): this
  on (event: 'error', listener: (error: Error) => void): this
  close (code?: number, reason?: string): void
  ping (): void
}

export type Extensions = Record<string, Deflate>

export interface Parts {
  readonly Receiver: new (options: object) => Receiver
  readonly Sender: new (output: FrameOutput, extensions: Extensions) => Sender
  readonly PerMessageDeflate: (new (options: object) => Deflate) & { readonly extensionName: string }
  readonly extension: { parse (header: string): Record<string, object[]>, format (extensions: Record<string, object[]>): string }
  readonly subprotocol: { parse (header: string): Set<string> }
  readonly WebSocket: new (address: null, protocols: undefined, options: object) => WholeWebSocket
}

let loaded: Promise<Parts> | undefined
let parts: Parts | undefined

/** Loads `ws`. An app without WebSocket never calls this. */
export function loadParts (): Promise<Parts> {
  loaded ??= import('ws').then(module => {
    const { default: whole, ...named } = module as unknown as { default?: object }
    const found = { ...whole, ...named } as unknown as Parts
    for (const name of ['Receiver', 'Sender', 'PerMessageDeflate', 'WebSocket'] as const) assertPart(name, typeof found[name] === 'function')
    for (const name of ['extension', 'subprotocol'] as const) assertPart(name, typeof found[name]?.parse === 'function')
    parts = found
    return found
  })
  return loaded
}

function assertPart (name: string, there: boolean): void {
  if (!there) throw new FST_ERR_DUPLEX_UNSUPPORTED_RUNTIME(`the installed ws has no ${name}, 8.18 or later is needed`)
}

/** The parts that were loaded at boot. */
export function loadedParts (): Parts {
  return parts as Parts
}
