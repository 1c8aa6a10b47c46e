import { constants, type ServerHttp2Stream } from 'node:http2'
import { SilenceWatch } from '../connection/silence-watch.ts'
import { resetStream } from '../internals/http2.ts'
import type { Http2Session } from './sessions.ts'
import type { Milliseconds } from '../../types/index.ts'

/** What a session may move for other streams in the time in which this one gets as much as a chunk. */
const SLACK = 64 * 1024

/**
 * An answer short of acceptance, of which its client takes nothing for as long as `patience`, is cut. What its app has
 * not made yet is not the client's silence.
 */
export function cutUnlessTaken (stream: ServerHttp2Stream, session: Http2Session, patience: Milliseconds): void {
  session.waitNoLonger(patience)
  if (patience === 0 || stream.destroyed) return
  let waiting = 0
  let from = 0
  let most = 0
  const watch = new SilenceWatch(patience, () => {
    const { writableLength } = stream
    if (writableLength === 0 && (!stream.writableEnded || stream.writableFinished)) return performance.now()
    const { taken } = session
    // A chunk has left when all of it has. Until then has to do that the session moves: no further than it would
    // if this stream had its share, since a client may give a window to all others.
    if (writableLength < waiting || waiting === 0) {
      from = taken
      most = (writableLength + SLACK) * (session.openStreams + 1)
    }
    waiting = Math.max(writableLength, 1)
    return Math.min(taken, from + most)
  }, () => {
    resetStream(stream, constants.NGHTTP2_CANCEL)
    return true
  })
  stream.once('close', () => watch.stop())
}
