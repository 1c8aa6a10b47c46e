import t from 'tap'
import { isUndecided, next, type HandshakeAction, type HandshakeEvent, type HandshakeState } from '../lib/handshake/state.ts'

type Cell = 'unchanged' | `${HandshakeState} ${HandshakeAction}`

/** Every event in every state: what it becomes, and what is to be done. `unchanged` is the same state, and nothing to do. */
const expected: Record<HandshakeState, Record<HandshakeEvent, Cell>> = {
  // Nobody has answered or accepted: all is possible.
  claimed: {
    accept: 'deciding proceed',
    detach: 'accepted proceed',
    open: 'unchanged',
    fail: 'unchanged',
    answer: 'answering none',
    hijack: 'sending none',
    head: 'sending none',
    end: 'answered none',
    timeout: 'late answer-late',
    'handler-timeout': 'late answer-late',
    disconnect: 'gone report-disconnect'
  },
  // The hooks of the accept head run. The acceptance came first, so a reply is too late.
  deciding: {
    accept: 'deciding already-accepted',
    detach: 'deciding already-accepted',
    open: 'accepted proceed',
    fail: 'answering none',
    answer: 'deciding already-accepted',
    hijack: 'deciding already-accepted',
    head: 'sending none',
    end: 'answered none',
    timeout: 'late interrupt',
    'handler-timeout': 'late interrupt',
    disconnect: 'gone report-disconnect'
  },
  // The 503 is being made, by an error handler that may be too slow in its turn.
  late: {
    accept: 'late already-sent',
    detach: 'late already-sent',
    open: 'late already-sent',
    fail: 'unchanged',
    answer: 'unchanged',
    hijack: 'sending none',
    head: 'sending none',
    end: 'answered none',
    timeout: 'late interrupt',
    'handler-timeout': 'unchanged',
    disconnect: 'gone report-disconnect'
  },
  // Nothing of the answer is on the wire, so that the time limit can still take its place.
  answering: {
    accept: 'answering already-sent',
    detach: 'answering already-sent',
    open: 'answering already-sent',
    fail: 'unchanged',
    answer: 'unchanged',
    hijack: 'sending none',
    head: 'sending none',
    end: 'answered none',
    timeout: 'late interrupt',
    'handler-timeout': 'late interrupt',
    disconnect: 'gone report-disconnect'
  },
  // The client has a part of it: only its end, or the end of the client, may follow.
  sending: {
    accept: 'sending already-sent',
    detach: 'sending already-sent',
    open: 'sending already-sent',
    fail: 'unchanged',
    answer: 'unchanged',
    hijack: 'unchanged',
    head: 'unchanged',
    end: 'answered none',
    timeout: 'unchanged',
    'handler-timeout': 'unchanged',
    disconnect: 'gone report-disconnect'
  },
  answered: {
    accept: 'answered already-sent',
    detach: 'answered already-sent',
    open: 'answered already-sent',
    fail: 'unchanged',
    answer: 'unchanged',
    hijack: 'unchanged',
    head: 'unchanged',
    end: 'unchanged',
    timeout: 'unchanged',
    'handler-timeout': 'unchanged',
    disconnect: 'unchanged'
  },
  accepted: {
    accept: 'accepted already-accepted',
    detach: 'accepted already-accepted',
    open: 'accepted already-accepted',
    fail: 'unchanged',
    answer: 'unchanged',
    hijack: 'unchanged',
    head: 'unchanged',
    end: 'unchanged',
    timeout: 'unchanged',
    'handler-timeout': 'unchanged',
    disconnect: 'unchanged'
  },
  gone: {
    accept: 'gone aborted',
    detach: 'gone aborted',
    open: 'gone aborted',
    fail: 'unchanged',
    answer: 'unchanged',
    hijack: 'unchanged',
    head: 'unchanged',
    end: 'unchanged',
    timeout: 'unchanged',
    'handler-timeout': 'unchanged',
    disconnect: 'unchanged'
  }
}

const states = Object.keys(expected) as HandshakeState[]
const events = Object.keys(expected.claimed) as HandshakeEvent[]

/** Every state that events, in any number and order, may lead to from this one. */
function reachable (from: HandshakeState, by: readonly HandshakeEvent[] = events): HandshakeState[] {
  const seen = new Set([from])
  for (const state of seen) for (const event of by) seen.add(next(state, event).state)
  return [...seen].sort()
}

for (const state of states) {
  t.test(`Q1 every event in the state ${state}`, async t => {
    for (const event of events) {
      const { state: to, action } = next(state, event)
      const cell = expected[state][event] === 'unchanged' ? `${state} none` : expected[state][event]
      t.equal(`${to} ${action}`, cell, event)
    }
  })
}

t.test('Q1 an event that nobody knows changes nothing', async t => {
  for (const state of states) {
    for (const event of ['', 'unheard-of', 'Accept']) {
      t.same(next(state, event as HandshakeEvent), { state, action: 'none' }, `${event} when ${state}`)
    }
  }
})

t.test('Q1 Q60 no timer strikes an answer that has begun, whatever follows its head', async t => {
  for (const first of states) {
    const begun = next(first, 'head').state
    if (begun === 'accepted' || begun === 'gone') continue
    for (const state of reachable(begun)) {
      for (const timer of ['timeout', 'handler-timeout'] as const) {
        t.same(next(state, timer), { state, action: 'none' }, `${timer} when ${state}, head when ${first}`)
      }
    }
  }
})

t.test('Q1 nothing leads on from an end', async t => {
  for (const state of ['accepted', 'answered', 'gone'] as const) {
    t.same(reachable(state), [state])
    for (const event of events) t.notOk(['proceed', 'answer-late', 'interrupt', 'report-disconnect'].includes(next(state, event).action), `${event} when ${state}`)
  }
})

t.test('Q1 every way to an end is open: from each state that is none, the client can leave and an answer can be sent', async t => {
  for (const state of ['claimed', 'deciding', 'late', 'answering', 'sending'] as const) {
    t.same(reachable(state, ['disconnect']), [state, 'gone'].sort(), state)
    t.same(reachable(state, ['head', 'end']).filter(to => to === 'answered'), ['answered'], state)
  }
})

t.test('Q1 Q61 only what is undecided may go on to a connection, and what stops to be so never is again', async t => {
  t.same(states.filter(isUndecided), ['claimed', 'deciding'])
  for (const state of states) {
    const proceeds = events.filter(event => next(state, event).action === 'proceed')
    t.equal(proceeds.length > 0, isUndecided(state), state)
    if (state !== 'accepted') t.equal(reachable(state).includes('accepted'), isUndecided(state), `accepted after ${state}`)
    if (!isUndecided(state)) t.same(reachable(state).filter(isUndecided), [], state)
  }
})
