export type ServerName =
  'net' | 'node' | 'fastify' | 'fastify-routes' | 'websocket' | 'duplex' | 'duplex-no-probes' | 'body' | 'http2' | 'http2-fastify' | 'http2-duplex' |
  'pipes' | 'fastify-pipes' | 'tunnel' | 'forward' | 'http-proxy' | 'http-proxy-3' | MessageServerName

/** Those with messages over WebSocket; `deflate` compresses them. */
export type MessageServerName = 'ws' | 'messages' | 'websocket-messages' | 'socket.io' | 'ws-deflate' | 'messages-deflate'

export interface Question {
  ask: 'used' | 'memory' | 'close'
  id: number
}

/** Times of the processor in microseconds, sizes in bytes. */
export interface Answer {
  cpu?: number
  /** Page faults that needed no disk. */
  faults?: number
  rss?: number
  heapUsed?: number
  external?: number
  alive?: Record<string, number>
  milliseconds?: number
}

/** What a server has used so far. */
export interface Used {
  cpu: number
  faults: number
  rss: number
}

/** Of each turn of one way to inject. */
export interface Injections {
  label: string
  /** Injections in a second. */
  rates: number[]
  /** Microseconds for each. */
  cpus: number[]
}

/** What the load did between "go" and its end. */
export interface Load {
  operations: number
  bytes: number
  failures: number
  seconds: number
  /** Of the load itself, in microseconds. */
  cpu: number
  /** Microseconds. */
  p50: number
  p99: number
}
