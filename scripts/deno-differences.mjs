/**
 * Files that are not run on Deno, with the reason. Those that start processes are left out by the script itself.
 *
 * @type {{ why: string, files: string[] }[]}
 */
export const notRun = [
  { why: 'not of the runtime', files: ['documents', 'types'] },
  {
    why: 'about what is malformed in HTTP/2, which nothing resets, and clients of it that stop reading, whose session stays',
    files: ['http2', 'http2-borders', 'http2-sessions']
  },
  {
    why: 'about connections in memory, where a second request, and the half-close of a body, is not heard',
    files: ['inject', 'property']
  },
  {
    why: 'about Node\'s parser, which reads on behind an ignored Upgrade: on Deno what follows is parsed anew',
    files: ['parse-on', 'parse-on-errors', 'internals-parse-on']
  },
  { why: 'about the buffer that all sockets of Node may share', files: ['internals-read-buffer', 'tunnel-past-streams'] }
]

/** Of these, what is about TCP or a Unix socket: over TLS a half-close is not heard, and the rest as above. */
export const onTcpAlone = [
  'accept-hooks', 'accept-manual', 'accept-races', 'acceptance', 'answers', 'body', 'body-borders', 'client', 'closers', 'connect', 'forward', 'forward-body',
  'forward-fields', 'forward-hostile', 'forward-streams', 'governance-expiry', 'governance-keys', 'governance-labels', 'governance-rate', 'head-bytes', 'ignored-upgrade',
  'internals-sockets', 'lifetime', 'limits', 'limits-more', 'messages', 'offers', 'outside', 'owners', 'passed-on', 'pipelines', 'refusal', 'return-to-http',
  'routing', 'stream', 'tunnel', 'tunnel-ends', 'tunnel-open', 'upgrade-body', 'web'
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
      'forward-streams': [/FW4 a reset on either side of an upgrade/, /FW10 a client that leaves when its upgrade is accepted/],
      'head-bytes': [/H10 a FIN in the middle of the head/],
      hostile: [/S3 500 takeovers that are reset at once/, /L11 a connection that is destroyed while its FIN leaves/],
      'internals-sockets': [/isPassedOn says yes to the reset of another socket/],
      outside: [/Q30 reply\.raw of a refusal and of a client that leaves before acceptance/],
      stream: [/L14 the client sees a broken stream, never an end, after a source that is reset/, /S3 a reset that arrives together with the last bytes/],
      'takeover-response': [/Q30 a response that was let go is complete when the connection is/],
      tunnel: [
        /S13 a reset of the server/, /S13 a (?:server|client) that has gone before the tunnel begins/,
        /S13 both sides are destroyed once/, /S13 two connections, joined/
      ],
      'tunnel-ends': [/TU1 an upstream that is reset behind its end/],
      'tunnel-open': [/TU2 Q3 an upstream that breaks (?:in the tick|without a word)/]
    }
  },
  {
    why: 'after a response that was cut the connection lingers, and does not see that its client has gone',
    tests: { 'body-borders': [/Q6 a body that is broken off in the tick in which its turn comes/] }
  },
  {
    why: 'nobody says how much of a write has left: idleTimeout counts a large write once, when all of it has left',
    tests: {
      'internals-sockets': [/bytesInFlight is what the kernel has not taken/],
      lifetime: [/L2 a peer that reads slowly what is being flushed/, /L4 one long write that is read slowly/],
      stream: [/L4 a write that leaves piece by piece is traffic/]
    }
  },
  {
    why: 'a socket without allowHalfOpen that has told of its end is over, and cannot be kept half-open any more',
    tests: { 'tunnel-ends': [/TU1 Q2 a tunnel that begins when a socket of \w+ tells of its end/] }
  },
  {
    why: 'a socket that is paused before its first byte reads nothing at all, and Node reads once',
    tests: { 'tunnel-ends': [/TU1 a destination that wants a pause before the tunnel begins/] }
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
      'http2-ends': [/L8 a stream that is read only when its client takes bytes again, behind its GOAWAY/],
      'late-reading': [/GV5 what waits for its rate .*\[h2\]/],
      'message-last-words': [/MS4 .*\[h2\]/],
      'error-hooks': [/\[h2\]/],
      'hijacked-replies': [/\[h2\]/],
      'listen-again': [/\[h2\]/],
      'http2-interop': [/a request that came with the first bytes of its connection, whole/],
      'forward-body': [/FW7 trailers, both ways, of a client of HTTP\/2/, /FW9 a body to an upstream of HTTP\/2/],
      'governance-websocket': [/WS3 L8 the end of the drain/],
      'tunnel-ends': [/TU1 Q2 a stream of HTTP\/2 that is reset/],
      'forward-hostile': [/FW6 a fragment in the path of HTTP\/2/],
      'two-apps-http2': [/Q4 .*\[h2\]/],
      thrown: [/Q74 an onSend hook of the accept head that throws .* is a 500.*\[h2\]/],
      websocket: [/WS3 the handler (?:closes|rejects|resolves).*\[h2\]/],
      internals: [/lendAddress/]
    }
  },
  {
    why: 'TLS: other listeners, a half-close that is not heard, and a key that is none is not noticed',
    tests: {
      client: [/CL1 over TLS an end\(\) from within data/],
      'client-strict': [/CL1 what one option says no other one says in another way/],
      hostile: [/H4 after a takeover only our listeners/],
      'internals-half-open': [/keepHalfOpen is not too late/, /resetWhenClosed/, /takeEndListener, endAsNode/],
      'tunnel-ends': [/TU1 Q2 a socket of tls/]
    }
  },
  {
    why: 'a head with many fields, and requestTimeout, are not handled as on Node, and setEncoding() is not forbidden on sockets of HTTP',
    tests: {
      emitted: [/Q9 requestTimeout on/],
      'internals-sockets': [/allowSetEncoding lifts what HTTP has forbidden/],
      'internals-messages': [/closeResponse says of a response/],
      'internals-parser': [/Q54 hasLostFields/],
      'limits-more': [/Q40 a client that vanishes is found/],
      refusal: [/R20 .* with more fields than the parser takes/],
      'upgrade-body': [/R12 a refused body that never ends/]
    }
  },
  {
    why: 'an error that a listener of the server throws is no uncaughtException: it is lost without a word, and the process goes on',
    tests: { 'passed-on': [/Q4 a listener of \w+ that throws/] }
  },
  {
    why: 'an ignored Upgrade is parsed twice, which costs more',
    tests: { standstill: [/upgrades that are ignored/] }
  },
  {
    why: 'a second request of a connection in memory is not heard',
    tests: { 'ignored-upgrade-limits': [/\[injected\]/] }
  },
  {
    why: 'not of the runtime',
    tests: { internals: [/every function of lib\/internals is tried/] }
  }
]
