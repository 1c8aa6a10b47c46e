/**
 * Where the handshake of one request stands.
 *
 * - `claimed`: nobody has answered or accepted.
 * - `deciding`: `accept()` was called, and the onSend hooks run for the accept head.
 * - `late`: the time for the handshake is over, and the 503 for that is being made.
 * - `answering`: an answer that is no acceptance was decided; nothing of it is on the wire.
 * - `sending`: its head is on the wire, or whoever hijacked the reply writes it.
 * - `answered`: all of it is.
 * - `accepted`: the handler owns the connection.
 * - `gone`: the client left before there was an end.
 */
export type HandshakeState = 'claimed' | 'deciding' | 'late' | 'answering' | 'sending' | 'answered' | 'accepted' | 'gone'

/**
 * What may happen to it.
 *
 * - `accept`: `accept()` was called.
 * - `detach`: the socket is given to somebody who answers himself.
 * - `open`: the accept head is about to be written.
 * - `fail`: a hook of the accept head threw, and Fastify answers that.
 * - `answer`: a reply was sent, thrown or returned; its hooks run.
 * - `head`: the head of an answer went onto the wire, by whomever; or the reply was hijacked, whose owner answers by hand.
 * - `end`: the last byte of an answer did.
 * - `timeout`: the time for the handshake is over.
 * - `handler-timeout`: Fastify's own timer struck, and sends the answer for that.
 * - `leave`: the client is gone.
 */
export type HandshakeEvent = 'accept' | 'detach' | 'open' | 'fail' | 'answer' | 'head' | 'end' | 'timeout' | 'handler-timeout' | 'leave'

/**
 * What is to be done about it.
 *
 * - `none`: nothing.
 * - `proceed`: what was asked for may go on.
 * - `already-accepted`, `already-sent`, `aborted`: it may not, for this reason.
 * - `answer-late`: answer with the 503 of the time limit.
 * - `interrupt`: the same, in place of an answer whose hooks are still running.
 * - `tell`: the request and its hooks hear that the client is gone.
 */
export type HandshakeAction = 'none' | 'proceed' | 'already-accepted' | 'already-sent' | 'aborted' | 'answer-late' | 'interrupt' | 'tell'

type Row = Partial<Record<HandshakeEvent, readonly [HandshakeState, HandshakeAction]>>

/** An answer that has begun, by whomever, is an answer: no timer and no acceptance touches it any more. */
const TABLE: Readonly<Record<HandshakeState, Row>> = {
  claimed: {
    accept: ['deciding', 'proceed'],
    detach: ['accepted', 'proceed'],
    answer: ['answering', 'none'],
    head: ['sending', 'none'],
    end: ['answered', 'none'],
    timeout: ['late', 'answer-late'],
    'handler-timeout': ['late', 'answer-late'],
    leave: ['gone', 'tell']
  },
  deciding: {
    accept: ['deciding', 'already-accepted'],
    detach: ['deciding', 'already-accepted'],
    open: ['accepted', 'proceed'],
    // What is sent while the hooks run is the accept head itself.
    answer: ['deciding', 'none'],
    fail: ['answering', 'none'],
    head: ['sending', 'none'],
    end: ['answered', 'none'],
    timeout: ['late', 'interrupt'],
    'handler-timeout': ['late', 'interrupt'],
    leave: ['gone', 'tell']
  },
  late: {
    accept: ['late', 'already-sent'],
    detach: ['late', 'already-sent'],
    open: ['late', 'already-sent'],
    head: ['sending', 'none'],
    end: ['answered', 'none'],
    // The error handler of the app does not come to an end either.
    timeout: ['late', 'interrupt'],
    leave: ['gone', 'tell']
  },
  answering: {
    accept: ['answering', 'already-sent'],
    detach: ['answering', 'already-sent'],
    open: ['answering', 'already-sent'],
    head: ['sending', 'none'],
    end: ['answered', 'none'],
    timeout: ['late', 'interrupt'],
    'handler-timeout': ['late', 'interrupt'],
    leave: ['gone', 'tell']
  },
  sending: {
    accept: ['sending', 'already-sent'],
    detach: ['sending', 'already-sent'],
    open: ['sending', 'already-sent'],
    end: ['answered', 'none'],
    leave: ['gone', 'tell']
  },
  answered: {
    accept: ['answered', 'already-sent'],
    detach: ['answered', 'already-sent'],
    open: ['answered', 'already-sent']
  },
  accepted: {
    accept: ['accepted', 'already-accepted'],
    detach: ['accepted', 'already-accepted'],
    open: ['accepted', 'already-accepted']
  },
  gone: {
    accept: ['gone', 'aborted'],
    detach: ['gone', 'aborted'],
    open: ['gone', 'aborted']
  }
}

/** What becomes of a handshake. An event that a state does not know changes nothing. */
export function next (state: HandshakeState, event: HandshakeEvent): { state: HandshakeState, action: HandshakeAction } {
  const [to, action] = TABLE[state][event] ?? [state, 'none']
  return { state: to, action }
}

/** Whether a connection may still come of it. */
export function isUndecided (state: HandshakeState): boolean {
  return state === 'claimed' || state === 'deciding'
}
