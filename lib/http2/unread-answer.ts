import { constants, type ServerHttp2Stream } from 'node:http2'
import { resetStream } from '../internals/http2.ts'
import { InactivityWatch } from '../streams/inactivity-watch.ts'
import { isRead } from '../streams/is-read.ts'
import { LINGER, MOST_DISCARDED, UNREAD_FOR } from '../streams/unread-limits.ts'
import { OutputProgress } from './output-progress.ts'
import type { Http2Session } from './sessions.ts'
import type { Milliseconds } from '../../types/index.ts'

/**
 * Cuts a refusal if the client takes nothing of it for `unreadFor`. The limit does not run while nothing waits, because the app
 * has not written the answer yet.
 */
export function cutUnlessTaken (stream: ServerHttp2Stream, session: Http2Session, unreadFor: Milliseconds): void {
  session.limitUnread(unreadFor)
  if (stream.destroyed) return
  const progress = new OutputProgress(stream, session, countChunks(stream))
  const watch = new InactivityWatch(unreadFor > 0 ? unreadFor : UNREAD_FOR, () => {
    const waits = stream.writableLength > 0 || (stream.writableEnded && !stream.writableFinished)
    return waits ? progress.moved : performance.now()
  }, () => {
    resetStream(stream, constants.NGHTTP2_CANCEL)
    return true
  })
  stream.once('close', () => watch.stop())
  stream.once('finish', () => discardRest(stream))
}

/**
 * RFC 9113 section 8.1: the answer is complete, so the client is asked to stop sending. Node does that only if nothing of the
 * body has come. Otherwise it leaves the stream open, without a window for the rest.
 */
function discardRest (stream: ServerHttp2Stream): void {
  if (stream.closed || stream.destroyed || stream.readableEnded || isRead(stream)) return
  let left = MOST_DISCARDED
  const stop = (): void => stream.close(constants.NGHTTP2_NO_ERROR)
  const timer = setTimeout(stop, LINGER)
  stream.once('close', () => clearTimeout(timer))
  stream.on('data', (chunk: Buffer) => {
    left -= chunk.length
    if (left < 0) stop()
  })
}

type Done = (error?: Error | null) => void
interface Writes {
  _write (chunk: unknown, encoding: BufferEncoding, done: Done): void
  _writev (chunks: unknown, done: Done): void
}

/** Counts the writes that have left, from now on. */
function countChunks (stream: ServerHttp2Stream): () => number {
  let left = 0
  const counted = (done: Done): Done => error => {
    left++
    done(error)
  }
  const { _write, _writev } = stream as unknown as Writes
  const writes: Writes = {
    _write: (chunk, encoding, done) => Reflect.apply(_write, stream, [chunk, encoding, counted(done)]),
    _writev: (chunks, done) => Reflect.apply(_writev, stream, [chunks, counted(done)])
  }
  Object.assign(stream, writes)
  return () => left
}
