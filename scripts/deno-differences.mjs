/**
 * Files that are not run on Deno, with the reason. Those that start processes are left out by the script itself.
 *
 * @type {{ why: string, files: string[] }[]}
 */
export const notRun = [
  { why: 'not of the runtime', files: ['declarations', 'documents', 'types'] },
  {
    why: 'about HTTP/2, where an answer in place of an acceptance may be lost with its stream',
    files: ['http2', 'http2-borders', 'http2-ends', 'http2-interop', 'http2-sessions']
  },
  {
    why: 'about connections in memory, where a second request, and the half-close of a body, is not heard',
    files: ['inject', 'property']
  },
  { why: 'about the buffer that all sockets of Node may share', files: ['internals-read-buffer', 'tunnel-past-streams'] },
  {
    why: 'with tests that do not end, most of them by resets that pass from one socket to another',
    files: [
      'client', 'closers', 'forward', 'forward-body', 'forward-fields', 'forward-streams', 'governance-rate', 'internals-sockets',
      'limits', 'messages', 'refusal', 'return-to-http', 'tunnel', 'tunnel-ends', 'tunnel-open', 'web'
    ]
  }
]

/** Of these, what is about TCP or a Unix socket: over TLS a half-close is not heard, and the rest as above. */
export const onTcpAlone = [
  'accept-hooks', 'accept-manual', 'acceptance', 'answers', 'body', 'body-borders', 'connect', 'governance-expiry', 'governance-keys', 'governance-labels',
  'head-bytes', 'ignored-upgrade', 'lifetime', 'limits-more', 'offers', 'outside', 'owners', 'pipelines', 'routing', 'stream', 'upgrade-body'
]

/**
 * Tests that differ, by their titles, in the files that have them.
 *
 * @type {{ why: string, tests: Record<string, RegExp[]> }[]}
 */
export const differences = [
  {
    why: 'a reset that comes with the last bytes, or is passed on, or that the server makes, may look like an end, or have another reason',
    tests: {
      body: [/S10 a (?:FIN|reset) within a/],
      'head-bytes': [/H10 a FIN in the middle of the head/],
      hostile: [/S3 500 takeovers that are reset at once/, /L11 a connection that is destroyed while its FIN leaves/],
      outside: [/Q30 reply\.raw of a refusal and of a client that leaves before acceptance/],
      stream: [/L14 the client sees a broken stream, never an end, after a source that is reset/, /S3 a reset that arrives together with the last bytes/],
      'takeover-response': [/Q30 a response that was let go is complete when the connection is/]
    }
  },
  {
    why: 'after a response that was cut the connection lingers, and does not see that its client has gone',
    tests: { 'body-borders': [/Q6 a body that is broken off in the tick in which its turn comes/] }
  },
  {
    why: 'nobody says how much of a write has left: idleTimeout counts a large write once, when all of it has left',
    tests: {
      lifetime: [/L2 a peer that reads slowly what is being flushed/, /L4 one long write that is read slowly/],
      stream: [/L4 a write that leaves piece by piece is traffic/]
    }
  },
  {
    why: 'a connection that was taken over cannot be given to another app',
    tests: {
      owners: [/Q50 a CONNECT that is (?:detached|accepted)/],
      restart: [/Q50 a CONNECT that was/],
      'internals-parser': [/speakHttp lets Node have a socket that no server of HTTP has accepted/]
    }
  },
  {
    why: 'HTTP/2: an answer in place of an acceptance, or the last frames of a stream, may be lost',
    tests: {
      'governance-websocket': [/WS3 L8 the end of the drain/],
      thrown: [/Q74 an onSend hook of the accept head that throws .* is a 500.*\[h2\]/],
      websocket: [/WS3 the handler (?:closes|rejects|resolves).*\[h2\]/],
      internals: [/lendAddress/]
    }
  },
  {
    why: 'TLS: other listeners, a half-close that is not heard, and a key that is none is not noticed',
    tests: {
      'client-strict': [/CL1 what one option says no other one says in another way/],
      hostile: [/H4 after a takeover only our listeners/],
      'internals-half-open': [/keepHalfOpen is not too late/, /resetWhenClosed/]
    }
  },
  {
    why: 'an absolute URL, a head with many fields, and requestTimeout are not handled as on Node',
    tests: {
      emitted: [/Q9 requestTimeout on/],
      'internals-messages': [/closeResponse says of a response/],
      'internals-parser': [/Q54 hasLostFields/],
      'limits-more': [/Q40 a client that vanishes is found/],
      routing: [/R15 parameters, wildcards, regular expressions, queries and absolute URLs/],
      'upgrade-body': [/R12 a refused body that never ends/]
    }
  },
  {
    why: 'not of the runtime',
    tests: { internals: [/every function of lib\/internals is tried/] }
  }
]
