import type { Deflate } from './parts.ts'

/** After how many milliseconds without compression the memory for it is released. */
const QUIET = 1000

/**
 * Releases the memory of zlib when a connection is quiet. zlib keeps a quarter of a megabyte for each connection that has ever
 * compressed. `ws` keeps it, even if no context is kept between messages.
 *
 * @returns a function that releases it for good, as soon as nothing is compressed or inflated any more. `ws` throws where nobody
 * can catch it if a stream of zlib is closed before that
 */
export function releaseWhenQuiet (deflate: Deflate): () => void {
  const { server_no_context_takeover: server, client_no_context_takeover: client } = deflate.params
  // RFC 7692 section 7.1.1: otherwise the next message may need the context.
  const mayRelease = server === true && client === true
  let busy = 0
  /** A message in fragments is being inflated. For zlib these are one stream. */
  let open = false
  let over = false
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
        if (over) {
          if (busy === 0) deflate.cleanup()
        } else if (mayRelease) {
          if (timer === undefined) timer = setTimeout(release, QUIET).unref()
          else timer.refresh()
        }
        done(error, result)
      })
    }
  }
  return () => {
    over = true
    clearTimeout(timer)
    if (busy === 0) deflate.cleanup()
  }
}
