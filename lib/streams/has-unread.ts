import type { Readable } from 'node:stream'

/** Whether bytes have arrived that nobody has read. Those that wait for their rate are among them. */
export function hasUnread ({ readableLength }: Readable, meter: { readonly held: number } | undefined): boolean {
  return readableLength > 0 || (meter !== undefined && meter.held > 0)
}
