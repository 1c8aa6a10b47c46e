/**
 * Where the handshake of one request stands.
 *
 * - `claimed`: nobody has answered or accepted.
 * - `deciding`: `accept()` was called, and the onSend hooks run for the accept head.
 * - `late`: the time limit of the handshake is over, or the request was revoked. The error for that is being answered.
 * - `answering`: a refusal was decided. Nothing of it is on the wire.
 * - `sending`: the head of the refusal is on the wire, or the owner of a hijacked reply writes it.
 * - `answered`: the whole refusal is on the wire.
 * - `accepted`: the handler owns the connection.
 * - `gone`: the client left before any of these.
 */
export type HandshakeState = 'claimed' | 'deciding' | 'late' | 'answering' | 'sending' | 'answered' | 'accepted' | 'gone'

/**
 * What may happen to a handshake.
 *
 * - `accept`: `accept()` was called.
 * - `detach`: the socket is given away, and its new owner answers.
 * - `open`: the accept head is about to be written.
 * - `fail`: a hook of the accept head threw, and Fastify answers that.
 * - `answer`: a reply was sent, thrown or returned; its hooks run.
 * - `hijack`: the reply was hijacked, and its owner answers by hand.
 * - `head`: the head of an answer went onto the wire.
 * - `end`: the last byte of an answer went onto the wire.
 * - `timeout`: the time for the handshake is over, or the request was revoked.
 * - `handler-timeout`: Fastify's own timer struck, and sends the answer for that.
 * - `disconnect`: the client is gone.
 */
export type HandshakeEvent = 'accept' | 'detach' | 'open' | 'fail' | 'answer' | 'hijack' | 'head' | 'end' | 'timeout' | 'handler-timeout' | 'disconnect'

/**
 * What the caller has to do.
 *
 * - `none`: nothing.
 * - `proceed`: go on with what was asked for.
 * - `already-accepted`, `already-sent`, `aborted`: refuse it, for this reason.
 * - `answer-late`: answer with the error of the time limit, or of the revocation.
 * - `interrupt`: the same, in place of an answer whose hooks are still running.
 * - `report-disconnect`: the request and its hooks hear that the client is gone.
 */
export type HandshakeAction = 'none' | 'proceed' | 'already-accepted' | 'already-sent' | 'aborted' | 'answer-late' | 'interrupt' | 'report-disconnect'

type Row = Partial<Record<HandshakeEvent, readonly [HandshakeState, HandshakeAction]>>

/** Once an answer has begun, no timer and no acceptance touches it, whoever began it. */
const TABLE: Readonly<Record<HandshakeState, Row>> = {
  claimed: {
    accept: ['deciding', 'proceed'],
    detach: ['accepted', 'proceed'],
    answer: ['answering', 'none'],
    hijack: ['sending', 'none'],
    head: ['sending', 'none'],
    end: ['answered', 'none'],
    timeout: ['late', 'answer-late'],
    'handler-timeout': ['late', 'answer-late'],
    disconnect: ['gone', 'report-disconnect']
  },
  deciding: {
    accept: ['deciding', 'already-accepted'],
    detach: ['deciding', 'already-accepted'],
    open: ['accepted', 'proceed'],
    // Who decides first decides: a reply that comes now is dropped. The send() that runs the hooks is not told here.
    answer: ['deciding', 'already-accepted'],
    hijack: ['deciding', 'already-accepted'],
    fail: ['answering', 'none'],
    head: ['sending', 'none'],
    end: ['answered', 'none'],
    timeout: ['late', 'interrupt'],
    'handler-timeout': ['late', 'interrupt'],
    disconnect: ['gone', 'report-disconnect']
  },
  late: {
    accept: ['late', 'already-sent'],
    detach: ['late', 'already-sent'],
    open: ['late', 'already-sent'],
    hijack: ['sending', 'none'],
    head: ['sending', 'none'],
    end: ['answered', 'none'],
    // The error handler of the app takes too long, too.
    timeout: ['late', 'interrupt'],
    disconnect: ['gone', 'report-disconnect']
  },
  answering: {
    accept: ['answering', 'already-sent'],
    detach: ['answering', 'already-sent'],
    open: ['answering', 'already-sent'],
    hijack: ['sending', 'none'],
    head: ['sending', 'none'],
    end: ['answered', 'none'],
    timeout: ['late', 'interrupt'],
    'handler-timeout': ['late', 'interrupt'],
    disconnect: ['gone', 'report-disconnect']
  },
  sending: {
    accept: ['sending', 'already-sent'],
    detach: ['sending', 'already-sent'],
    open: ['sending', 'already-sent'],
    end: ['answered', 'none'],
    disconnect: ['gone', 'report-disconnect']
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

interface Step {
  readonly state: HandshakeState
  readonly action: HandshakeAction
}

/** The table as objects that need not be made anew for each event. */
const STEPS = new Map<HandshakeState, { listed: Map<HandshakeEvent, Step>, unchanged: Step }>()

for (const [state, row] of Object.entries(TABLE) as [HandshakeState, Row][]) {
  const listed = new Map<HandshakeEvent, Step>()
  for (const [event, [to, action]] of Object.entries(row) as [HandshakeEvent, readonly [HandshakeState, HandshakeAction]][]) {
    listed.set(event, { state: to, action })
  }
  STEPS.set(state, { listed, unchanged: { state, action: 'none' } })
}

/** The state after an event, and what to do. An event that a state does not list changes nothing. */
export function next (state: HandshakeState, event: HandshakeEvent): Step {
  const { listed, unchanged } = STEPS.get(state) as { listed: Map<HandshakeEvent, Step>, unchanged: Step }
  return listed.get(event) ?? unchanged
}

/** Whether the request may still become a connection. */
export function isUndecided (state: HandshakeState): boolean {
  return state === 'claimed' || state === 'deciding'
}
