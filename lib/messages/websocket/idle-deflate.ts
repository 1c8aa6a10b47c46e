import type { Deflate } from './parts.ts'

/** How long nothing was compressed, nor inflated, until the memory for it goes, in milliseconds. */
const QUIET = 1000

/** zlib keeps a quarter of a megabyte for a connection that has once compressed, and `ws` keeps zlib, contexts or none. */
export function releaseWhenQuiet (deflate: Deflate): void {
  const { server_no_context_takeover: server, client_no_context_takeover: client } = deflate.params
  // RFC 7692 section 7.1.1: a context is for the next message.
  if (server !== true || client !== true) return
  let busy = 0
  /** In the middle of a message in fragments, which is one stream to zlib. */
  let open = false
  let timer: NodeJS.Timeout | undefined
  const release = (): void => {
    timer = undefined
    if (busy === 0 && !open) deflate.cleanup()
  }
  for (const name of ['compress', 'decompress'] as const) {
    const run = deflate[name].bind(deflate) as Deflate['compress']
    deflate[name] = (data: Buffer | Uint8Array | string, fin: boolean, done: Parameters<Deflate['compress']>[2]) => {
      busy++
      if (name === 'decompress') open = !fin
      run(data, fin, (error, result) => {
        busy--
        if (timer === undefined) timer = setTimeout(release, QUIET).unref()
        else timer.refresh()
        done(error, result)
      })
    }
  }
}
