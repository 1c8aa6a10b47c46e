import type { ConnectionOptions } from 'node:tls'
import type { Milliseconds } from './connection.ts'

/** Where `dial()` connects to: `pending.authority`, or any host and port, or the path of a Unix socket. */
export type DialTarget = DialHost | DialPath

/** A target that TCP leads to. */
export interface DialHost {
  /** A name, or an IP address without brackets. */
  readonly host: string
  /** 1 to 65535. */
  readonly port: number
}

/** A Unix socket, or a named pipe on Windows. */
export interface DialPath {
  readonly path: string
}

/**
 * Whether an address may be connected to.
 *
 * @param address an IP address as it was resolved, or as `host` says it
 * @param host what the target says
 * @returns whether it may; anything but `true` is no. What it throws is what `dial()` rejects with
 */
export type DialCheck = (address: string, host: string) => boolean | PromiseLike<boolean>

/** How `dial()` connects. */
export interface DialOptions {
  /** Ends the attempt; `dial()` then rejects with its reason. Once there is a socket it has no effect any more. */
  signal?: AbortSignal | undefined
  /**
   * How long resolving, `check`, connecting and the handshake of TLS may take together. 0 is for ever.
   *
   * @default 10_000
   */
  timeout?: Milliseconds | undefined
  /**
   * Asked for every resolved address. Only those that pass are dialled; the name is not resolved again. It is
   * asked for a `path` as well, with the path in place of address and host: `publicOnly` refuses it.
   *
   * @default every address may
   */
  check?: DialCheck | undefined
  /**
   * Speaks TLS to the target: true, or options of `tls.connect()`, but for those that say where to.
   *
   * @default false
   */
  tls?: boolean | DialTlsOptions | undefined
}

/** Options of `tls.connect()`. `servername` is the host unless given. */
export type DialTlsOptions = Omit<ConnectionOptions, 'host' | 'port' | 'path' | 'socket' | 'lookup' | 'timeout' | 'allowHalfOpen'>
