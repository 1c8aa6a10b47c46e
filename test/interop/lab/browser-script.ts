/**
 * What a client with the WebSocket of the browsers does, as the text of a function, which runs in browsers and in other Nodes: it
 * returns what it has seen as a text of JSON. `options` go to the constructor, where it takes them.
 */
export const script = `async (WebSocket, origin, options) => {
  const open = (path, protocols) => new Promise((resolve, reject) => {
    const ws = options === undefined ? new WebSocket(origin + path, protocols) : new WebSocket(origin + path, { protocols, ...options })
    ws.binaryType = 'arraybuffer'
    const got = []
    let wake = () => {}
    ws.onmessage = ({ data }) => { got.push(data); wake() }
    const closed = new Promise(resolve => { ws.onclose = ({ code, reason, wasClean }) => { resolve([code, reason, wasClean]) } })
    ws.onerror = () => { reject(new Error('not opened')) }
    ws.onopen = () => resolve({ ws, closed, next: async () => {
      while (got.length === 0) await new Promise(resolve => { wake = resolve })
      return got.shift()
    } })
  })
  const text = 'h\\u00e9, \\u{1f600}'
  const seen = {}
  const one = await open('/room', ['chat.1', 'chat.2'])
  seen.protocol = one.ws.protocol
  one.ws.send(JSON.stringify({ text }))
  seen.text = await one.next()
  one.ws.send(JSON.stringify({ text: 'x'.repeat(60000) }))
  seen.long = (await one.next()).length
  for (let count = 0; count < 300; count++) one.ws.send(JSON.stringify({ text: count }))
  seen.inOrder = true
  for (let count = 0; count < 300; count++) if (JSON.parse(await one.next()).said !== String(count)) seen.inOrder = false
  one.ws.close(3000, 'bye')
  seen.closed = await one.closed

  const invalid = await open('/room', [])
  invalid.ws.send(JSON.stringify({ other: 1 }))
  seen.invalid = await invalid.closed
  const long = await open('/room', [])
  long.ws.send(JSON.stringify({ text: 'x'.repeat(70000) }))
  seen.tooLong = await long.closed
  const left = await open('/room', [])
  left.ws.send(JSON.stringify({ text: 'leave' }))
  seen.left = await left.closed

  const frames = await open('/frames', [])
  const bytes = Uint8Array.from({ length: 100000 }, (_, at) => at % 251)
  frames.ws.send(bytes)
  const back = new Uint8Array(await frames.next())
  seen.bytes = back.length === bytes.length && back.every((byte, at) => byte === bytes[at])
  frames.ws.send('y'.repeat(200000))
  seen.deflated = (await frames.next()).length
  frames.ws.close(1000)
  seen.end = (await frames.closed)[0]
  // undici's over HTTP/2 never tells of a refusal.
  seen.refused = options !== undefined ? 'not opened' : await open('/refused', []).then(() => 'opened', error => error.message)
  return JSON.stringify({ seen, extensions: frames.ws.extensions })
}`

/** What it has to have seen. */
export const expected = {
  protocol: 'chat.2',
  text: '{"said":"h\u00e9, \u{1f600}"}',
  long: 60_011,
  inOrder: true,
  closed: [3000, 'bye', true],
  invalid: [1007, "Invalid message: message must have required property 'text'", true],
  tooLong: [1009, 'A message is longer than 65536 bytes', true],
  left: [4000, 'left', true],
  bytes: true,
  deflated: 200_000,
  end: 1000,
  refused: 'not opened'
}
