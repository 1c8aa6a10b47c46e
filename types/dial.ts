import type { ConnectionOptions } from 'node:tls'
import type { Milliseconds } from './connection.ts'

/** Where `dial()` connects to: `pending.authority`, or any host and port, or the path of a Unix socket. */
export type DialTarget = DialHost | DialPath

/** A target that is reached by TCP. */
export interface DialHost {
  /** A name, or an IP address without brackets. */
  readonly host: string
  /** 1 to 65535. */
  readonly port: number
}

/** A Unix socket, or a named pipe on Windows. */
export interface DialPath {
  /** Not empty. */
  readonly path: string
}

/**
 * Whether an address may be connected to.
 *
 * @param address a resolved IP address, or `host` itself if that is an address
 * @param host the host of the target, as it was given
 * @returns whether the address may be dialled; anything but `true` means no. If it throws, `dial()` rejects with that error
 */
export type DialCheck = (address: string, host: string) => boolean | PromiseLike<boolean>

/** How `dial()` connects. */
export interface DialOptions {
  /** Ends the attempt: `dial()` rejects with its reason. It has no effect once there is a socket. */
  signal?: AbortSignal | undefined
  /**
   * How long resolving, `check`, connecting and the TLS handshake may take together. 0 switches it off.
   *
   * @default 10_000
   */
  timeout?: Milliseconds | undefined
  /**
   * Called for every resolved address. Only addresses that pass are dialled, and the name is not resolved again. For a `path`
   * both arguments are the path: `publicOnly` refuses that.
   *
   * @default every address passes
   */
  check?: DialCheck | undefined
  /**
   * Speaks TLS to the target: true, or options of `tls.connect()`, except those that name the target.
   *
   * @default false
   */
  tls?: boolean | DialTlsOptions | undefined
}

/** Options of `tls.connect()`. `servername` is the host unless given. */
export type DialTlsOptions = Omit<ConnectionOptions, 'host' | 'port' | 'path' | 'socket' | 'lookup' | 'timeout' | 'allowHalfOpen'>
