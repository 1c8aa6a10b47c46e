import { FST_ERR_DUPLEX_MESSAGE_TOO_LONG } from '../errors.ts'
import { lines } from '../messages/framing.ts'
import type { MessageDecoder, MessageFraming } from '../../types/index.ts'

/**
 * Server-Sent Events for a client: the data of each event is a message. Names and ids of events are ignored. An event that is
 * cut off is dropped, as the HTML specification says.
 */
export const events: MessageFraming = {
  name: 'sse',
  contentType: 'text/event-stream',
  decoder: ({ maxLength }) => new EventDecoder(maxLength),
  encode: payload => lines.encode(payload)
}

/** Comments, names and ids are thrown away. This many bytes of one line are taken at least, whatever messages may have. */
const MOST_OF_OTHERS = 64 * 1024

class EventDecoder implements MessageDecoder {
  readonly #maxLength: number
  #line = ''
  /** In bytes. */
  #lineLength = 0
  #data: string[] = []
  /** Of the data of this event, in bytes. */
  #length = 0
  #afterCr = false
  readonly #text = new TextDecoder()

  constructor (maxLength: number) {
    this.#maxLength = maxLength
  }

  * decode (chunk: Buffer): Generator<Buffer | Error> {
    let text = this.#text.decode(chunk, { stream: true })
    if (text === '') return
    if (this.#afterCr && text.startsWith('\n')) text = text.slice(1)
    this.#afterCr = text.endsWith('\r')
    const parts = text.split(/\r\n|\r|\n/)
    for (const [at, part] of parts.entries()) {
      this.#line += part
      this.#lineLength += Buffer.byteLength(part)
      const most = this.#line.startsWith('data:') ? this.#maxLength - this.#length + 'data: '.length : Math.max(this.#maxLength, MOST_OF_OTHERS)
      if (this.#lineLength > most) throw new FST_ERR_DUPLEX_MESSAGE_TOO_LONG(this.#maxLength)
      if (at === parts.length - 1) break
      yield * this.#take(this.#line)
      this.#line = ''
      this.#lineLength = 0
    }
  }

  end (): Iterable<Buffer> { return [] }

  * #take (line: string): Generator<Buffer> {
    if (line === '') {
      const data = this.#data
      this.#data = []
      this.#length = 0
      if (data.length > 0) yield Buffer.from(data.join('\n'))
      return
    }
    const [, name, value = ''] = /^([^:]*)(?:: ?(.*))?$/s.exec(line) ?? []
    if (name !== 'data') return
    this.#data.push(value)
    this.#length += Buffer.byteLength(value) + 1
  }
}
