/**
 * What mutation.mjs breaks. `find` is in the file once, unless `everywhere`; `tests` are the test files
 * that should see it, the likeliest first; `nodes` are the versions of Node on which it matters at all;
 * `survives` is the reason why no test fails, if that is so.
 *
 * @type {{
 *   file: string, find: string, replace: string, breaks: string, tests: string[],
 *   everywhere?: boolean, nodes?: number[], survives?: string
 * }[]}
 */
export const mutations = [
  // The accept head
  { file: 'accept-head.ts', find: 'if (OURS.test(name)) continue', replace: '', breaks: 'what the app says about framing is on the accept head', tests: ['acceptance'] },
  { file: 'accept-head.ts', find: 'validateHeaderValue(name, one)', replace: '', breaks: 'CR and LF in a value are not looked for', tests: ['acceptance', 'hostile'] },
  { file: 'accept-head.ts', find: 'validateHeaderName(name)', replace: '', breaks: 'CR and LF in a name are not looked for', tests: ['hostile', 'accept-manual'] },
  { file: 'accept-hooks.ts', find: 'res.statusCode = status', replace: '', breaks: 'the status is not fixed before the onSend hooks', tests: ['accept-hooks'] },
  { file: 'accept-hooks.ts', find: 'return null', replace: 'return payload', breaks: 'the payload of an onSend hook is not dropped', tests: ['accept-hooks'] },
  { file: 'accept-hooks.ts', find: 'res.end = (() => res) as typeof end', replace: '', breaks: 'the end that Fastify gives to the accept head reaches the wire', tests: ['accept-hooks', 'acceptance'] },
  { file: 'accept-hooks.ts', find: '  silence(res)', replace: '', breaks: 'a hook that is still running writes behind the answer of a timeout', tests: ['accept-hooks', 'limits'], survives: 'Node itself takes no head and no body behind the end of a response' },
  { file: 'kinds/hijack.ts', find: "[['Connection', 'close']]", replace: '[]', breaks: 'a hijack does not say that its connection is no HTTP any more', tests: ['acceptance'] },
  { file: 'kinds/kind.ts', find: 'status !== 205', replace: 'true', breaks: 'a 205 may accept', tests: ['accept-manual'] },
  { file: 'kinds/message.ts', find: "['X-Accel-Buffering', 'no'], ", replace: '', breaks: 'intermediaries are not told to pass a message on as it comes', tests: ['acceptance', 'message'] },
  { file: 'connection.ts', find: 'if (!kind.allows(wanted)) throw', replace: 'if (false) throw', breaks: 'any status may accept', tests: ['accept-manual'] },
  { file: 'connection.ts', find: 'if (!wasOffered(options.protocol, claim.offered)) throw', replace: 'if (false) throw', breaks: 'a protocol that nobody offered can be accepted', tests: ['accept-manual', 'hostile'] },
  { file: 'connection.ts', find: 'this.accepted || this.#deciding ||', replace: 'this.accepted ||', breaks: 'a second accept() while the hooks of the first one run', tests: ['accept-manual'] },
  { file: 'connection.ts', find: 'this.reply.hijack()', replace: '', breaks: 'Fastify still answers after acceptance', tests: ['acceptance', 'accept-manual'] },
  { file: 'connection.ts', find: 'if (this.#registry.draining) {', replace: 'if (false) {', breaks: 'accept() works while the server goes away', tests: ['shutdown'] },

  // The bytes that came with the head, and the end of input
  { file: 'carriers/socket-carrier.ts', find: 'if (head.length > 0) socket.unshift(head)', replace: '', breaks: 'the bytes that came with the head are dropped', tests: ['head-bytes'] },
  { file: 'carriers/socket-carrier.ts', find: 'if (head.length > 0) socket.unshift(head)', replace: 'socket.unshift(head)', breaks: 'without such bytes something is put back all the same', tests: ['head-bytes'] },
  { file: 'carriers/socket-carrier.ts', find: 'this.#release = holdEnd(socket, this.#onEnd)', replace: '', breaks: 'an end of input that nobody listens for yet is lost', tests: ['stream', 'head-bytes'] },
  { file: 'carriers/socket-carrier.ts', find: '    socket.allowHalfOpen = true', replace: '', breaks: 'the end of one side is the end of both', tests: ['stream'] },
  { file: 'carriers/socket-carrier.ts', find: '(bytesRead ?? 0) - head.length', replace: '(bytesRead ?? 0)', breaks: 'early bytes are not counted', tests: ['head-bytes', 'lifetime', 'observability'] },
  { file: 'carriers/socket-carrier.ts', find: 'const head = socket.readableLength > 0 ? socket.read() as Buffer : NOTHING', replace: 'const head = NOTHING', breaks: 'detach() keeps the bytes that came with the head', tests: ['routing', 'accept-manual'] },
  { file: 'node-internals.ts', find: '    if (held && !socket.destroyed) {', replace: '    if (false) {', breaks: 'an end of input that was held back never comes', tests: ['stream', 'head-bytes'] },
  { file: 'carriers/message-carrier.ts', find: '    iterateWithoutDestroying(this.readable)', replace: '', breaks: 'the end of a loop over a message destroys it', tests: ['message'] },
  { file: 'carriers/socket-carrier.ts', find: 'iterateWithoutDestroying(socket)', replace: '', breaks: 'the end of a loop over the input costs the other half', tests: ['stream'] },

  // Errors and resets
  { file: 'carriers/socket-carrier.ts', find: "socket.on('error', this.#onError)", replace: '', breaks: 'a reset ends the process', tests: ['stream'] },
  { file: 'carriers/socket-carrier.ts', find: 'if (isNetworkError(error)) this.peerError ??= error', replace: 'if (false) {}', breaks: 'what the peer did looks like a failure of our own', tests: ['stream'] },
  { file: 'carriers/socket-carrier.ts', find: '    watchPeer(this)', replace: '', breaks: 'a peer that vanishes behind its FIN is not found', tests: ['stream', 'tunnel'] },
  { file: 'carriers/socket-carrier.ts', find: 'socket.destroy = (error?: Error | null) => this.#destroy(error ?? undefined)', replace: '', breaks: 'a stream that the app destroys ends like a whole one', tests: ['stream'] },
  { file: 'carriers/break-off.ts', find: 'reset(socket)', replace: '', breaks: 'a failed TCP stream ends with a FIN', tests: ['stream'] },
  { file: 'carriers/break-off.ts', find: 'reset(beneath)', replace: '', breaks: 'a failed TLS stream ends with a FIN', tests: ['stream'] },
  { file: 'carriers/break-off.ts', find: "socket.once('finish', () => breakOff(socket, error))", replace: '', breaks: 'a connection that is destroyed while its FIN leaves stays open', tests: ['hostile'] },
  { file: 'carriers/message-carrier.ts', find: '    writable.destroy(error)', replace: '    writable.end()', breaks: 'a failed message gets its last chunk', tests: ['message'] },
  { file: 'carriers/message-carrier.ts', find: '      breakOff(socket, error)', replace: '', breaks: 'a failed HTTP/1.0 message ends like a whole one', tests: ['message', 'handler-streams'] },
  { file: 'carriers/message-carrier.ts', find: '    this.#whenComplete = outliveResponse(this.#req, this.writable, this.#socket)', replace: '', breaks: 'the end of a response is the end of its request', tests: ['message'] },
  { file: 'carriers/message-carrier.ts', find: 'const MOST_DISCARDED = 1024 * 1024', replace: 'const MOST_DISCARDED = Infinity', breaks: 'a body that nobody wants is read without bound', tests: ['message', 'hostile'] },
  { file: 'carriers/message-carrier.ts', find: '      this.#linger()', replace: '      this.#socket.destroy()', breaks: 'a client that still sends loses the response', tests: ['message'] },
  { file: 'connection.ts', find: "this.#breakOff({ reason: 'error', error: error instanceof Error ? error : new FST_ERR_DUPLEX_HANDLER_FAILED() })", replace: 'this.#end()', breaks: 'the stream of a handler that failed ends in order', tests: ['stream', 'message'] },
  { file: 'connection.ts', find: 'this.#signal?.abort(cause.error)', replace: '', everywhere: true, breaks: 'signal is not aborted', tests: ['stream'] },
  { file: 'connection.ts', find: 'runErrorHooks(this.reply, error as Error)', replace: '', breaks: 'the onError hooks do not run for a handler that fails', tests: ['stream', 'observability'] },
  { file: 'node-internals.ts', find: "return typeof handle?.getpeername === 'function' && handle.getpeername({}) !== 0", replace: 'return false', breaks: 'nobody is ever found to be gone', tests: ['node-internals', 'stream'] },
  { file: 'node-internals.ts', find: 'return handle !== executionAsyncId() && socket.errored !== error', replace: 'return false', breaks: 'an error passed on from elsewhere is taken for the peer\'s', tests: ['node-internals', 'stream'] },
  { file: 'http1-server.ts', find: '!received.req.complete)) socket.destroy(error)', replace: '!received.req.complete)) {}', breaks: 'an error page is sent into a message', tests: ['message', 'hostile'] },

  // Which requests a route takes
  { file: 'authority.ts', find: 'if (port < 1 || port > 65535) return undefined', replace: '', breaks: 'any number is a port', tests: ['authority'] },
  { file: 'authority.ts', find: '(name as string).toLowerCase()', replace: '(name as string)', breaks: 'the host of a CONNECT is told in any case', tests: ['authority'] },
  { file: 'http1-gate.ts', find: 'mayHaveLostHeaders(req)', replace: 'false', everywhere: true, breaks: 'a head of which Node lost fields is trusted', tests: ['refusal'], nodes: [20] },
  { file: 'http1-gate.ts', find: 'if (declaresBody(req)) return refusal(new FST_ERR_DUPLEX_CONNECT_BODY())', replace: '', breaks: 'a CONNECT may declare a body', tests: ['connect'] },
  { file: 'http1-gate.ts', find: '!hasOneHost(req)', replace: 'false', everywhere: true, breaks: 'the Host of a takeover is not looked at', tests: ['connect'] },
  { file: 'http1-gate.ts', find: 'hosts === 1 &&', replace: 'hosts > 0 &&', breaks: 'a takeover may have two Hosts', tests: ['connect'] },
  { file: 'http1-gate.ts', find: "if (req.headers['transfer-encoding'] !== undefined && route.settings.chooser === undefined) {", replace: 'if (false) {', breaks: 'an upgrade may have a chunked body', tests: ['upgrade-body'] },
  { file: 'http1-gate.ts', find: "&& req.httpVersion !== '1.0'", replace: '', breaks: 'the Upgrade of HTTP/1.0 is taken', tests: ['routing'] },
  { file: 'http1-gate.ts', find: "const route = method === 'HEAD'", replace: 'const route = false', breaks: 'a HEAD with an Upgrade is taken', tests: ['routing'] },
  { file: 'http1-gate.ts', find: "    if (method === 'HEAD') {", replace: '    if (false) {', breaks: 'a HEAD is taken over', tests: ['routing'] },
  { file: 'http1-gate.ts', find: "hasOthers('upgrade') && !asksForOtherHttp(offered)", replace: "hasOthers('upgrade')", breaks: 'h2c goes to other owners of the event', tests: ['routing'] },
  { file: 'http1-gate.ts', find: 'if (BODYLESS.has(method)) return', replace: 'if (false) return', breaks: 'the body before an upgraded GET is let in', tests: ['upgrade-body'], survives: 'the entrance to the handler refuses it as well, if later' },
  { file: 'http1-gate.ts', find: '!expectationIsKnown(req)', replace: 'false', everywhere: true, breaks: 'expectations that nobody knows are ignored', tests: ['routing'] },
  { file: 'http1-gate.ts', find: "if (declaresBody(req) && route.settings.kinds.includes('message')) return { then: 'ignore-upgrade' }", replace: '', breaks: 'an Upgrade that nobody takes costs a request its body', tests: ['ignored-upgrade', 'acceptance'] },
  { file: 'http1-gate.ts', find: '    if (!kinds.includes(kind)) {', replace: '    if (false) {', breaks: 'a route takes kinds that it does not list', tests: ['routing'] },
  { file: 'http1-gate.ts', find: '|| !(route.shared.has(method) || foreign)', replace: '', breaks: 'a duplex route does not answer an Upgrade that it cannot take', tests: ['routing'] },
  { file: 'duplex-routes.ts', find: 'if (shared) (route.shared as Set<string>).add(method)', replace: '', breaks: 'a plain route at the same URL is forgotten', tests: ['routing'] },
  { file: 'duplex-routes.ts', find: "this.#options.caseSensitive ? '' : 'i'", replace: "''", breaks: 'case-insensitive routing does not hold for duplex routes', tests: ['routing'] },
  { file: 'duplex-routes.ts', find: 'if (this.#keys.has(key)) throw', replace: 'if (false) throw', breaks: 'a second route of the same name is silently lost', tests: ['routing'] },
  { file: 'constraint-check.ts', find: 'checks.every(', replace: 'checks.some(', breaks: 'one of several constraints is enough', tests: ['routing'] },
  { file: 'upgrade-tokens.ts', find: 'if (match !== undefined) return match', replace: 'if (match !== undefined) return token', breaks: 'the 101 echoes the spelling of the client', tests: ['upgrade-tokens', 'hostile'] },
  { file: 'upgrade-tokens.ts', find: 'return offered.find(token => !RESERVED.test(token))', replace: 'return offered[0]', breaks: 'reserved tokens are taken', tests: ['upgrade-tokens', 'acceptance'] },
  { file: 'route.ts', find: "if (typeof choice !== 'string' || !wasOffered(choice, claim.offered)) throw", replace: 'if (false) throw', breaks: 'a function may choose what was not offered', tests: ['acceptance'] },
  { file: 'route.ts', find: 'if (wrong !== undefined) throw', replace: 'if (false) throw', breaks: 'a body schema beside a message is no error', tests: ['routing'] },

  // Ignored Upgrades
  { file: 'give-back.ts', find: "      case 'http2-settings':\n", replace: '', breaks: 'HTTP2-Settings stays on the request', tests: ['ignored-upgrade'] },
  { file: 'give-back.ts', find: "      case 'upgrade':\n", replace: '', breaks: 'a request is given back with its Upgrade', tests: ['ignored-upgrade'] },
  { file: 'give-back.ts', find: "'latin1'", replace: "'utf8'", breaks: 'bytes above 127 of a head that is given back change', tests: ['ignored-upgrade'] },
  { file: 'http1-server.ts', find: 'Buffer.concat([headWithoutUpgrade(req), head])', replace: 'headWithoutUpgrade(req)', breaks: 'what follows an ignored Upgrade is lost', tests: ['ignored-upgrade'] },
  { file: 'http1-server.ts', find: "if (verdict !== undefined && verdict.then !== 'hand-over') {", replace: 'if (verdict !== undefined) {', breaks: 'other owners of the event get nothing', tests: ['routing'] },

  // Refusals
  { file: 'refusal.ts', find: "headers = { ...fields, Connection: upgrade ? 'Upgrade, close' : 'close' }", replace: "headers = { ...fields, Connection: 'keep-alive' }", breaks: 'a refusal says keep-alive', tests: ['refusal'] },
  { file: 'refusal.ts', find: 'this.#means = status => status < 200 || (connect && status < 300)', replace: 'this.#means = () => false', breaks: 'a hook can answer 200 to a CONNECT', tests: ['connect'] },
  { file: 'refusal.ts', find: '    silence(this)', replace: '', breaks: 'a late write to the raw response is kept or sent', tests: ['acceptance', 'accept-manual', 'hostile'] },
  { file: 'lingering-close.ts', find: '  socket.end()', replace: '', breaks: 'a refused client is not told of the end', tests: ['refusal'] },
  { file: 'lingering-close.ts', find: 'setTimeout(() => socket.destroy(), LONGEST)', replace: 'setTimeout(() => {}, LONGEST)', breaks: 'refused clients that never close stay', tests: ['refusal'] },
  { file: 'lingering-close.ts', find: 'if (left < 0) socket.destroy()', replace: '', breaks: 'what a refused client sends is read without bound', tests: ['refusal'] },
  { file: 'lingering-close.ts', find: '  socket.resume()', replace: '', breaks: 'what follows a refusal is not read, and its end not seen', tests: ['refusal'], survives: 'a listener for data makes the socket flow, and resume() is for one that a hook has paused' },
  { file: 'claim.ts', find: '    lingeringClose(socket)', replace: '', breaks: 'a refused socket is kept', tests: ['refusal'] },
  { file: 'route.ts', find: 'if (!reply.sent && !connection.answered) throw new FST_ERR_DUPLEX_NOT_ACCEPTED()', replace: '', breaks: 'a handler that decides nothing lets its client wait', tests: ['accept-manual'] },
  { file: 'route.ts', find: "reply.header('retry-after', RETRY_AFTER)", replace: '', breaks: 'a client above the limit is not told when to come again', tests: ['limits'] },
  { file: 'route.ts', find: "if (/^100-continue$/i.test(claim.req.headers.expect ?? '') &&", replace: 'if (false &&', breaks: 'an upgrade that expects a 100 gets none', tests: ['upgrade-body'] },

  // Pipelining
  { file: 'pipelining.ts', find: '  if (response === undefined) {', replace: '  if (true) {', breaks: 'a takeover overtakes the response before it', tests: ['routing'] },
  { file: 'pipelining.ts', find: 'if (!socket.destroyed && !socket.writableEnded) proceedInContext()', replace: 'proceedInContext()', breaks: 'a takeover behind a response that says close is begun', tests: ['hostile', 'routing'] },
  { file: 'pipelining.ts', find: 'AsyncResource.bind(proceed)', replace: 'proceed', breaks: 'a takeover that waited has the async context of another request', tests: ['observability'] },
  { file: 'pipelining.ts', find: "response.emit('drain')", replace: '{}', breaks: 'a large response before a takeover stands still', tests: ['hostile', 'node-internals'] },

  // The life of a connection
  { file: 'route.ts', find: 'result.then(() => connection.handlerDone(),', replace: 'result.then(() => {},', breaks: 'the end of a handler ends nothing', tests: ['lifetime'] },
  { file: 'route.ts', find: '    for (const one of slots) one.free()', replace: '', breaks: 'a slot is never free again', tests: ['limits'] },
  { file: 'route.ts', find: '    for (const one of taken) one.free()', replace: '', breaks: 'the slot of the route is lost when the plugin has none left', tests: ['limits'] },
  { file: 'slots.ts', find: 'this.#taken >= this.#limit', replace: 'this.#taken > this.#limit', breaks: 'one connection too many', tests: ['limits'] },
  { file: 'route.ts', find: '  if (claim.gone) {', replace: '  if (false) {', breaks: 'the handler is entered for a client that is gone', tests: ['stream', 'accept-manual'], survives: 'claim.over, which is asked next, says so as well' },
  { file: 'route.ts', find: '  if (claim.over) return', replace: '', breaks: 'the handler is entered while a timeout is answered', tests: ['limits'], survives: 'accept() refuses for the same reason, and a manual handler is told by its signal' },
  { file: 'connection.ts', find: 'this.#resolveClosed?.(this.#result)', replace: '', breaks: 'closed does not settle', tests: ['lifetime'] },
  { file: 'connection.ts', find: "if (kind !== 'message') res.emit('finish')", replace: "if (kind !== 'message') {}", breaks: 'onResponse never runs', tests: ['observability'] },
  { file: 'connection.ts', find: "if (kind !== 'message') res.emit('finish')", replace: "if (kind === 'message') res.emit('finish')\n    if (kind !== 'message') res.emit('finish')", breaks: 'onResponse runs twice for a message', tests: ['observability'] },
  { file: 'connection.ts', find: 'this.#scope.runInAsyncScope(() => this.#settle())', replace: 'this.#settle()', breaks: 'the end has the async context of whatever event brought it', tests: ['observability'] },
  { file: 'connection.ts', find: '    this.#lifetime.stop()', replace: '', breaks: 'timers outlive their connection', tests: ['lifetime', 'shutdown'] },
  { file: 'connection.ts', find: "    this.#state = 'detached'", replace: "    this.#state = 'detached'; this.#registry.connections.delete(this)", breaks: 'a detached socket is not counted', tests: ['shutdown'] },
  { file: 'claim.ts', find: '    clearTimeout(this.#timer)', replace: '', breaks: 'the timer of the handshake outlives it', tests: ['limits'] },
  { file: 'claim.ts', find: "if (this.res instanceof RefusalResponse) this.res.emit('finish')", replace: '', breaks: 'onResponse does not run for a client that left early', tests: ['observability', 'stream'] },
  { file: 'claim.ts', find: '      this.#abortRequest()', replace: '', breaks: 'a request is not told of a client that left early', tests: ['stream', 'upgrade-body'] },
  { file: 'lifetime.ts', find: '    if (maxLifetime > 0) {', replace: '    if (false) {', breaks: 'maxLifetime is not armed', tests: ['lifetime'] },
  { file: 'lifetime.ts', find: '    if (idleTimeout > 0) {', replace: '    if (false) {', breaks: 'idleTimeout is not armed', tests: ['lifetime'] },
  { file: 'lifetime.ts', find: 'if (finTimeout > 0 && this.#fin === undefined && !this.#carrier.closed) {', replace: 'if (false) {', breaks: 'finTimeout is not armed', tests: ['lifetime'] },
  { file: 'lifetime.ts', find: 'if (outputFlushed && !inputEnded && !this.#ours) this.ending()', replace: '', breaks: 'finTimeout is not armed where the handler ended its side itself', tests: ['lifetime'] },
  { file: 'lifetime.ts', find: 'if (inputEnded && !this.#ours && halfOpenTimeout > 0 && this.#halfOpen === undefined) {', replace: 'if (false) {', breaks: 'halfOpenTimeout is not armed', tests: ['stream', 'hostile'] },
  { file: 'lifetime.ts', find: '    this.#halfOpen?.stop()\n    const', replace: '    const', breaks: 'halfOpenTimeout still runs when our side has ended as well', tests: ['stream', 'lifetime', 'limits'] },
  { file: 'lifetime.ts', find: 'return bytesRead + sent', replace: 'return bytesRead', breaks: 'bytes of the server are no traffic', tests: ['lifetime'] },
  { file: 'lifetime.ts', find: 'return bytesRead + sent', replace: 'return sent', breaks: 'bytes of the client are no traffic', tests: ['lifetime'] },
  { file: 'lifetime.ts', find: '      if (now !== this.#last) {', replace: '      if (false) {', breaks: 'traffic does not prolong anything', tests: ['lifetime'] },
  { file: 'lifetime.ts', find: 'if (tcpKeepAlive > 0) socket', replace: 'if (false) socket', breaks: 'TCP keep-alive is not set', tests: ['lifetime'] },
  { file: 'carriers/socket-carrier.ts', find: "if ('setTimeout' in socket) (socket as unknown as Socket).setTimeout(0)", replace: '', breaks: 'timeouts of the HTTP server strike after a takeover', tests: ['lifetime'], survives: 'Node takes its listener off at an upgrade, and a timeout without one ends nothing' },
  { file: 'carriers/socket-carrier.ts', find: 'this.bytesWritten - this.socket.writableLength - bytesInFlight(this.socket)', replace: 'this.bytesWritten', breaks: 'what cannot leave counts as traffic', tests: ['stream'] },
  { file: 'node-internals.ts', find: 'if (applies()) switches.httpAllowHalfOpen = true', replace: '', breaks: 'a client that half-closes behind its message gets no more of the response', tests: ['message'] },
  { file: 'node-internals.ts', find: 'if (before !== undefined) switches.httpAllowHalfOpen = before', replace: '', breaks: 'the first half-close on a message changes the server for good', tests: ['node-internals', 'message'] },

  // Upgrades with a body
  { file: 'http1-server.ts', find: 'claim.whileBodyComes(socket, () => registry.removeSocket(socket))', replace: '', breaks: 'a client that leaves within the body before an upgrade is not noticed', tests: ['upgrade-body'] },
  { file: 'node-internals.ts', find: '    if (chunk === null) {\n      request.upgrade = true', replace: '    if (chunk === null) {\n      request.upgrade = false', breaks: 'the stream behind a body stays with HTTP', tests: ['node-internals', 'upgrade-body'] },
  { file: 'route.ts', find: "  if (claimOf(raw)?.kind === 'message') {", replace: '  if (false) {', breaks: 'the body of a message is parsed', tests: ['message'] },

  // Shutdown
  { file: 'plugin.ts', find: '    void registry.drain()', replace: '', breaks: 'close() tells no connection', tests: ['shutdown'] },
  { file: 'plugin.ts', find: 'for (const server of secondaryServers(app) ?? []) watch(server)', replace: '', breaks: 'the second server of localhost is not watched', tests: ['routing'] },
  { file: 'registry.ts', find: '    this.draining = true', replace: '', breaks: 'a drain refuses nobody', tests: ['shutdown'] },
  { file: 'registry.ts', find: 'for (const connection of this.connections) connection.drain()', replace: '', breaks: 'draining is not aborted', tests: ['shutdown'] },
  { file: 'registry.ts', find: 'for (const connection of this.connections) connection.shutDown()', replace: '', breaks: 'connections at the end of a drain are not told why', tests: ['shutdown'] },
  { file: 'registry.ts', find: '    for (const claim of this.#requests) claim.cut()', replace: '', breaks: 'requests that wait at the end of a drain are left', tests: ['shutdown'] },
  { file: 'registry.ts', find: '    for (const socket of this.#sockets) socket.destroy()', replace: '', breaks: 'sockets that wait at the end of a drain are left', tests: ['shutdown'] },
  { file: 'registry.ts', find: 'this.#drained.then(() => timer.unref())', replace: 'timer.unref()', breaks: 'a process ends before close() does', tests: ['shutdown'] },
  { file: 'http1-server.ts', find: "event === 'close' && registry.draining", replace: 'false', breaks: 'close() resolves before closed of the last connections', tests: ['graceful', 'shutdown'] },
  { file: 'http1-server.ts', find: 'if (registry.draining && !server.listening && unfinishedResponse(socket) === undefined) socket.destroySoon?.()', replace: '', breaks: 'close() waits for the keep-alive of a message', tests: ['shutdown'] },

  // tunnel() and web()
  { file: 'tunnel.ts', find: 'if (!to.write(chunk)) from.pause()', replace: 'to.write(chunk)', breaks: 'a tunnel has no backpressure', tests: ['tunnel'] },
  { file: 'tunnel.ts', find: '      else to.end()', replace: '', breaks: 'a tunnel passes no end on', tests: ['tunnel'] },
  { file: 'tunnel.ts', find: 'breakOff(stream, error)', replace: 'stream.destroy()', breaks: 'a broken tunnel looks whole to the other side', tests: ['tunnel'] },
  { file: 'tunnel.ts', find: '    tearDown(error as Error)', replace: '', breaks: 'an error on one side leaves the other', tests: ['tunnel'] },
  { file: 'web-pair.ts', find: 'highWaterMark: 0', replace: 'highWaterMark: 1', breaks: 'a web stream reads before it is asked to', tests: ['web'] },
  { file: 'web-pair.ts', find: 'cancel (reason) { readable.destroy(asError(reason)) }', replace: 'cancel () {}', breaks: 'cancel() reaches nobody', tests: ['web'] },
  { file: 'web-pair.ts', find: 'destroyOnReturn: false', replace: 'destroyOnReturn: true', breaks: 'reading to the end of a web stream costs the other half', tests: ['web'] }
]
