import type { Duplex, Readable, Writable } from 'node:stream'
import { FST_ERR_DUPLEX_ABORTED, FST_ERR_DUPLEX_CANNOT_HAND_OVER, FST_ERR_DUPLEX_FIN_TIMEOUT } from '../../errors.ts'
import { isRead } from '../../streams/is-read.ts'
import { takeChunksFrom, type ChunkTaker } from '../../internals/read-buffer.ts'
import { isPiped } from '../../internals/streams.ts'
import type { WebSocketClosed } from '../../../types/index.ts'
import { LAST_WORDS, type Incoming, type Item } from '../inbox.ts'
import { Messenger, type Bytes, type MessengerOwner, type MessengerSettings } from '../messenger.ts'
import type { Outgoing } from '../outbox.ts'
import { ABNORMAL, closeCodeOf, NO_STATUS, reasonOf, type CodedClose } from '../../syntax/close-codes.ts'
import { FrameOutput } from './frame-output.ts'
import { releaseWhenQuiet } from './idle-deflate.ts'
import { receiveError } from './receive-error.ts'
import { joinPieces, loadedParts, type Deflate, type Extensions, type Receiver, type Sender, type WholeWebSocket } from './parts.ts'

/**
 * How many bytes the receiver gets at once. After each slice the reader's backlog is checked. It is less than the receiver's
 * own limit for a pause.
 */
const SLICE = 8 * 1024

/** How many bytes a waiting message counts for, in addition to its own. */
const COST = 64

/** If more bytes than this wait to be sent, a pong is delayed. Then only the latest ping is answered (RFC 6455 section 5.5.3). */
const MOST_BEFORE_PONG = 64 * 1024

/** How many milliseconds a peer may take to answer the close frame of a failure. */
const AFTER_FAILURE = 2000

/** How many bytes of input are kept, in addition to one message, for a library that may take the connection over. */
const MOST_KEPT = 128 * 1024

/** On the streams and on the receiver of a messenger: the messenger. */
const kMessenger = Symbol('fastify-duplex.messenger')

type Of<Emitter> = Emitter & { [kMessenger]: WebSocketMessenger }

type SendOptions = Parameters<Sender['send']>[1]

const TEXT: SendOptions = { binary: false, compress: false, fin: true, mask: false }
const BINARY: SendOptions = { ...TEXT, binary: true }
const MASKED_TEXT: SendOptions = { ...TEXT, mask: true }
const MASKED_BINARY: SendOptions = { ...BINARY, mask: true }

export interface CloseFrame {
  readonly code: number
  readonly reason: string
}

export interface WebSocketOwner extends MessengerOwner {
  /** The close frame of an orderly end. */
  closing (): CloseFrame
}

export interface WebSocketOptions {
  readonly extensions: Extensions
  /** Makes the same extensions again, without any state. */
  readonly renewed: () => Extensions
  readonly subprotocol: string | undefined
  /** How many milliseconds a peer may take to close after our close frame. */
  readonly closeTimeout: number
  /** This is the client's end, which masks its frames. */
  readonly client?: boolean
}

/** The messages of one WebSocket (RFC 6455). The frames are read and written by parts of `ws`. */
export class WebSocketMessenger extends Messenger implements ChunkTaker {
  readonly #options: WebSocketOptions
  readonly #maxLength: number
  readonly #webSocketOwner: WebSocketOwner
  readonly #receiver: Receiver
  readonly #stream: Writable
  readonly #output: FrameOutput
  /** How messages are sent that are not compressed. */
  readonly #text: SendOptions
  readonly #binary: SendOptions
  readonly #sender: Sender
  readonly #deflate: Deflate | undefined
  readonly #releaseDeflate: (() => void) | undefined
  /** Items that were received, and that no reader has asked for. */
  #backlog: Incoming[] = []
  /** How the input ends, behind the backlog. */
  #last: Item | undefined
  #cost = 0
  /** Chunks that were read, and that the receiver has not got yet. */
  #chunks: Buffer[] = []
  /** All input so far. It is kept until it is sure that `handOver()` will not be called. */
  #raw: Buffer[] | undefined = []
  #rawLength = 0
  #started = false
  #paused = false
  #receiverBusy = false
  #receiverBroken = false
  #inflate: (() => void) | undefined
  #received: CloseFrame | undefined
  #closeSent = false
  #closesSoon = false
  #bytesEnded = false
  #inputOver = false
  #peerError: Error | undefined
  #room: ((error?: Error) => void) | undefined
  #ping: Buffer | undefined
  #timer: NodeJS.Timeout | undefined
  #whole: WholeWebSocket | undefined

  constructor (bytes: Bytes, owner: WebSocketOwner, settings: MessengerSettings, options: WebSocketOptions) {
    super(bytes, owner, settings)
    this.#options = options
    this.#maxLength = settings.maxLength
    this.#webSocketOwner = owner
    const { Receiver, Sender, PerMessageDeflate } = loadedParts()
    this.#deflate = options.extensions[PerMessageDeflate.extensionName]
    if (this.#deflate !== undefined) {
      this.#releaseDeflate = releaseWhenQuiet(this.#deflate)
      this.#inflateInTurn(this.#deflate)
    }
    this.#receiver = new Receiver({
      isServer: options.client !== true, maxPayload: settings.maxLength, extensions: options.extensions, ...RECEIVER_LIMITS
    })
    for (const emitter of [this.#receiver, bytes.readable, bytes.writable]) Object.assign(emitter, { [kMessenger]: this })
    this.#receiver.on('message', WebSocketMessenger.#onMessage)
    this.#receiver.on('ping', WebSocketMessenger.#onPing)
    this.#receiver.on('conclude', WebSocketMessenger.#onConclude)
    this.#receiver.on('error', WebSocketMessenger.#onReceiveError)
    this.#stream = bytes.writable
    this.#output = new FrameOutput(this.#stream)
    this.#text = options.client === true ? MASKED_TEXT : TEXT
    this.#binary = options.client === true ? MASKED_BINARY : BINARY
    this.#sender = new Sender(this.#output, options.extensions)
    bytes.writable.on('drain', WebSocketMessenger.#onDrain)
    bytes.readable.on('error', WebSocketMessenger.#onError)
    // No reader asks for pings and close frames. So input is read ahead, within limits, to find them.
    setImmediate(() => { if (!this.closed) this.#start() })
  }

  // The same functions for all connections: closures for each would cost memory as long as the connection lives.
  static #onMessage (this: Of<Receiver>, data: Buffer, isBinary: boolean): void { this[kMessenger].#receive(data, !isBinary) }
  static #onPing (this: Of<Receiver>, data: Buffer): void { this[kMessenger].#answerPing(data) }
  static #onConclude (this: Of<Receiver>, code: number, reason: Buffer): void {
    this[kMessenger].#onClose({ code, reason: reason.toString('utf8') })
  }

  static #onReceiveError (this: Of<Receiver>, error: CodedClose): void { this[kMessenger].#failToReceive(error) }
  static #onData (this: Of<Readable>, chunk: Buffer): void { this[kMessenger].takeChunk(chunk) }
  static #onEnd (this: Of<Readable>): void { this[kMessenger].#endInput() }
  static #onError (this: Of<Readable>, error: Error): void { this[kMessenger].over(error) }
  static #onDrain (this: Of<Writable>): void { this[kMessenger].#drained() }

  get subprotocol (): string | undefined { return this.#options.subprotocol }
  override get paused (): boolean { return this.#paused }
  override get inputWaits (): boolean {
    return this.#paused || this.#backlog.length + this.readable.readableLength >= this.readable.readableHighWaterMark
  }

  /** What arrives waits in the backlog. */
  protected override get readsAhead (): boolean { return false }
  override get held (): number { return this.writable.held + this.#output.size }
  override get peerError (): Error | undefined { return this.#peerError }

  override get websocket (): WebSocketClosed {
    if (this.#whole !== undefined) {
      const { _closeCode: code, _closeMessage: reason, _closeFrameReceived: received, _closeFrameSent: sent } = this.#whole
      return { code, reason: String(reason), clean: received && sent }
    }
    const { code, reason } = this.#received ?? { code: ABNORMAL, reason: '' }
    return { code, reason, clean: this.#received !== undefined && this.#closeSent }
  }

  override get closesSoon (): boolean { return this.#closesSoon }

  get #mask (): boolean { return this.#options.client === true }

  // What comes in

  #start (): void {
    if (this.#started || this.#whole !== undefined) return
    this.#started = true
    const { readable } = this.bytes
    readable.on('end', WebSocketMessenger.#onEnd)
    readable.on('data', WebSocketMessenger.#onData)
    takeChunksFrom(readable, this)
  }

  #stopReading (): void {
    const { readable } = this.bytes
    takeChunksFrom(readable, undefined)
    readable.removeListener('data', WebSocketMessenger.#onData)
  }

  override wanted (): Item | undefined {
    this.#raw = undefined
    const item = this.#backlog.shift()
    if (item === undefined) {
      const last = this.#last
      this.#last = undefined
      if (last === undefined) this.#start()
      return last
    }
    this.#cost -= item.payload.length + COST
    // The end behind the last message is told even if the reader does not ask for it soon.
    if (this.#last !== undefined && this.#backlog.length === 0) process.nextTick(() => this.#tellLast())
    if (this.#isHeldUp && !this.#full) {
      // The receiver emits within `write()`. A reader is inside `wanted()` now, so feeding has to wait.
      process.nextTick(() => this.#feed())
    }
    return item
  }

  get #full (): boolean { return this.#cost > this.#maxLength && !this.discarding }
  get #isHeldUp (): boolean { return this.#paused || this.#chunks.length > 0 || this.#inflate !== undefined }

  takeChunk (chunk: Buffer): void {
    if (this.#raw !== undefined) this.#keepRaw(chunk)
    const isUsual = chunk.length <= SLICE && this.#chunks.length === 0 && !this.#paused && !this.#receiverBusy && !this.#receiverIsDone
    if (!isUsual) this.#chunks.push(chunk)
    else this.#pass(chunk)
    if (!isUsual || this.#cost > this.#maxLength) this.#feed()
    else joinPieces(this.#receiver)
  }

  /** Keeps a copy: the receiver unmasks frames in place, and the other library needs the bytes as they came. */
  #keepRaw (chunk: Buffer): void {
    this.#rawLength += chunk.length
    if (this.#rawLength > this.#maxLength + MOST_KEPT) this.#raw = undefined
    else this.#raw?.push(Buffer.from(chunk))
  }

  #feed (): void {
    if (this.#whole !== undefined || this.closed) return
    if (!this.#full) {
      const inflate = this.#inflate
      this.#inflate = undefined
      inflate?.()
    }
    while (this.#chunks.length > 0 && !this.#full && !this.#receiverBusy && !this.#receiverIsDone) {
      const chunk = this.#chunks[0] as Buffer
      if (chunk.length <= SLICE) this.#chunks.shift()
      else this.#chunks[0] = chunk.subarray(SLICE)
      this.#pass(chunk.length <= SLICE ? chunk : chunk.subarray(0, SLICE))
      joinPieces(this.#receiver)
    }
    if (this.#receiverIsDone) this.#chunks = []
    const hold = this.#chunks.length > 0 || this.#full
    if (hold && !this.#paused) this.bytes.readable.pause()
    else if (!hold && this.#paused) this.bytes.readable.resume()
    this.#paused = hold
    if (!this.#inputOver || hold) return
    // The receiver may still inflate what came before the end.
    if (!this.#receiverBusy || this.#receiverIsDone) this.#onInputOver()
  }

  /**
   * The receiver gets the next slice when it is done with this one. After an error, `ws` (seen in 8.23) would throw where nobody
   * can catch it if more waits in it.
   */
  #pass (slice: Buffer): void {
    if (this.#deflate === undefined) {
      this.#receiver.write(slice)
      return
    }
    this.#receiver.write(slice, () => this.#passed())
    if (this.#receiver.writableLength > 0) this.#receiverBusy = true
  }

  #passed (): void {
    if (!this.#receiverBusy || this.#receiver.writableLength > 0) return
    this.#receiverBusy = false
    this.#feed()
  }

  get #receiverIsDone (): boolean { return this.#receiverBroken || this.#received !== undefined || this.#receiver.writableEnded }

  /** Nobody knows the size of a message before it is inflated. So inflating waits until there is room for another message. */
  #inflateInTurn (deflate: Deflate): void {
    const inflate = deflate.decompress.bind(deflate)
    deflate.decompress = (data, fin, done) => {
      if (!this.#full) inflate(data, fin, done)
      else this.#inflate = () => inflate(data, fin, done)
    }
  }

  #receive (payload: Buffer, isText: boolean): void {
    if (this.discarding || this.breaking !== undefined) return
    const item = { payload, isText }
    if (this.#backlog.length === 0 && this.readable.idle) {
      this.readable.receive(item)
    } else {
      this.#backlog.push(item)
      this.#cost += payload.length + COST
    }
  }

  #answerPing (data: Buffer): void {
    if (this.#closeSent) return
    if (this.bytes.writable.writableLength + this.#output.size > MOST_BEFORE_PONG) this.#ping = data
    else this.#sender.pong(data, this.#mask)
  }

  #onClose (frame: CloseFrame): void {
    this.#received = frame
    this.#cutAfter(this.#options.closeTimeout)
    if (this.#closeSent) {
      this.#endBytes()
    } else if (this.breaking === undefined) {
      // A reader may still answer what came before the close frame.
      if (isRead(this.readable) || this.#backlog.length > 0) this.#answerBehindReader()
      else this.end()
    }
    this.#add('end')
  }

  /**
   * Sends our close frame when the reader is done. A `for await` loop removes its listener after the last message. A pipe ends
   * our side itself.
   */
  #answerBehindReader (): void {
    const { readable } = this
    const piped = isPiped(readable)
    const answer = (): void => { process.nextTick(() => this.end()) }
    const look = (): void => { if (readable.readableEnded && !piped && readable.listenerCount('readable') === 0) answer() }
    readable.on('end', look)
    readable.on('removeListener', look)
    setTimeout(answer, LAST_WORDS).unref()
  }

  #add (item: Item): void {
    if (this.discarding) return
    this.#last = item
    this.#tellLast()
    // If nobody has begun to read, no reader will see the failure. So the owner is told here.
    if (!this.readable.begun && typeof item === 'object' && 'failure' in item) this.failed(item.failure)
  }

  #tellLast (): void {
    const last = this.#last
    if (last === undefined || this.#backlog.length > 0 || !this.readable.takesEnd) return
    this.#last = undefined
    this.readable.receive(last)
  }

  #failToReceive (error: CodedClose): void {
    this.#receiverBroken = true
    this.#chunks = []
    this.#stopReading()
    if (this.#closeSent || this.discarding) {
      this.#endBytes()
      return
    }
    this.bytes.readable.pause()
    this.#add({ failure: receiveError(error, this.#maxLength) })
  }

  #endInput (): void {
    this.#inputOver = true
    this.#feed()
  }

  /** All input was received, and no close frame was in it. */
  #onInputOver (): void {
    this.#inputOver = false
    if (this.#received !== undefined || this.#receiverBroken) return
    this.#peerError = new FST_ERR_DUPLEX_ABORTED()
    if (this.#closeSent || this.discarding) this.#endBytes()
    else this.#add({ failure: this.#peerError, gone: true })
  }

  override failed (error: Error): void {
    if (!this.discarding) this.owner.failed(error === this.#peerError ? 'abort' : 'error', error)
    this.readable.destroy(error)
  }

  override discardInput (): void {
    if (this.discarding || this.#whole !== undefined || isRead(this.readable)) return
    this.discarding = true
    this.#backlog = []
    this.#last = undefined
    this.#cost = 0
    if (!this.readable.over) this.readable.destroy()
    this.#start()
    this.#feed()
  }

  // What goes out

  override frame (payload: string | Uint8Array): string | Uint8Array { return payload }

  override sendNow (payload: string | Uint8Array): boolean {
    if (this.#deflate !== undefined || this.#stream.writableNeedDrain) return false
    this.#sender.send(payload, typeof payload === 'string' ? this.#text : this.#binary)
    return true
  }

  override send ({ payload }: Outgoing, done: (error?: Error) => void): void {
    if (this.#deflate === undefined) {
      this.#send(payload)
      this.#whenRoom(done)
    } else {
      this.#send(payload, error => error == null ? this.#whenRoom(done) : done(error))
    }
  }

  #send (payload: string | Uint8Array, done?: (error?: Error) => void): void {
    const compress = this.#deflate !== undefined
    this.#sender.send(payload, { binary: typeof payload !== 'string', compress, fin: true, mask: this.#mask }, done)
  }

  #whenRoom (done: (error?: Error) => void): void {
    if (this.bytes.writable.writableNeedDrain) this.#room = done
    else done()
  }

  #drained (): void {
    const done = this.#room
    this.#room = undefined
    const ping = this.#ping
    this.#ping = undefined
    if (ping !== undefined && !this.#closeSent) this.#sender.pong(ping, this.#mask)
    done?.()
  }

  override beat (): void {
    if (this.#whole !== undefined) {
      if (this.#whole.readyState === OPEN) this.#whole.ping()
    } else if (!this.#closeSent) {
      this.#sender.ping('', this.#mask)
    }
  }

  // The end

  override flush (): void { this.#output.flush() }

  override end (): void {
    if (this.#whole !== undefined) {
      const { code, reason } = this.#webSocketOwner.closing()
      this.#whole.close(code, reason)
      return
    }
    super.end()
  }

  override finish (done: () => void): void {
    if (this.#received === undefined) {
      const { code, reason } = this.#webSocketOwner.closing()
      this.#sendClose(code, reason)
    } else {
      this.#sendClose(this.#received.code, this.#received.reason)
    }
    done()
  }

  #sendClose (code: number, reason: string): void {
    if (this.#closeSent || this.closed) return
    this.#closeSent = true
    this.#cutAfter(this.breaking === undefined ? this.#options.closeTimeout : AFTER_FAILURE)
    this.#sender.close(code === NO_STATUS ? undefined : code, reasonOf(reason), this.#mask, () => {
      if (this.#received !== undefined || this.#receiverBroken) this.#endBytes()
    })
    // Input is read now, whoever reads: the peer's close frame has to be seen.
    this.#start()
  }

  /** RFC 6455 section 7.1.1: the server ends first. */
  #endBytes (): void {
    if (this.#bytesEnded || this.closed) return
    this.#bytesEnded = true
    this.flush()
    this.#stopReading()
    this.bytes.readable.pause()
    this.bytes.end()
    this.bytes.discardInput()
    if (this.websocket.clean) this.#cutAfter(LAST_WORDS)
  }

  #cutAfter (delay: number): void {
    clearTimeout(this.#timer)
    if (this.closed) return
    this.#timer = setTimeout(() => {
      if (this.websocket.clean) {
        // The peer has sent its close frame, and only its TCP connection is still open.
        this.bytes.cut()
        return
      }
      this.flush()
      if (this.breaking === undefined) this.owner.failed('fin', new FST_ERR_DUPLEX_FIN_TIMEOUT(delay))
      this.bytes.breakOff(this.breaking?.error, false)
    }, delay)
  }

  protected override breakBytes (error: CodedClose | undefined, failed: boolean, given: number | undefined): void {
    const code = this.#closeSent ? undefined : given ?? closeCodeOf(error, failed)
    if (code === undefined || this.bytes.writable.destroyed || this.bytes.writable.writableEnded) {
      this.flush()
      this.bytes.breakOff(error, failed)
      return
    }
    const told = error as { statusCode?: number } | undefined
    const reason = told?.statusCode !== undefined && told.statusCode < 500 && error?.code?.startsWith('FST_ERR_DUPLEX_') === true ? error.message : ''
    this.#closesSoon = true
    this.discarding = true
    this.#backlog = []
    this.#last = undefined
    this.#cost = 0
    if (this.#whole !== undefined) {
      this.#whole.close(code, reasonOf(reason))
      this.#cutAfter(AFTER_FAILURE)
      return
    }
    // What waits for compression, or for the peer, was sent before the failure.
    for (const { payload } of this.writable.takeQueue()) this.#send(payload)
    this.#sendClose(code, reason)
    this.#feed()
  }

  override over (error: Error | undefined): void {
    if (this.closed) return
    clearTimeout(this.#timer)
    this.#backlog = []
    this.#last = undefined
    this.#chunks = []
    this.#inflate = undefined
    this.#releaseDeflate?.()
    const done = this.#room
    this.#room = undefined
    super.over(error)
    done?.(error)
  }

  /** Gives the connection to a library that wants a `WebSocket` object of `ws`. */
  handOver (): WholeWebSocket {
    if (this.#whole !== undefined) return this.#whole
    if (this.readable.begun) throw new FST_ERR_DUPLEX_CANNOT_HAND_OVER('messages were read already')
    const raw = this.#raw
    if (raw === undefined) throw new FST_ERR_DUPLEX_CANNOT_HAND_OVER('too much has come since it was accepted')
    if (this.#closeSent || this.#received !== undefined || this.closed || this.breaking !== undefined) {
      throw new FST_ERR_DUPLEX_CANNOT_HAND_OVER('the connection is closing')
    }
    if (this.writable.writableLength > 0) throw new FST_ERR_DUPLEX_CANNOT_HAND_OVER('messages wait to be sent')
    const { readable, writable } = this.bytes
    this.flush()
    this.#stopReading()
    readable.removeListener('end', WebSocketMessenger.#onEnd)
    writable.removeListener('drain', WebSocketMessenger.#onDrain)
    const { WebSocket } = loadedParts()
    const whole = new WebSocket(null, undefined, { autoPong: true, closeTimeout: this.#options.closeTimeout, maxPendingAutoPongs: 60 })
    this.#whole = whole
    whole._protocol = this.#options.subprotocol ?? ''
    whole._extensions = this.#options.renewed()
    // Without a listener, an error that the peer causes would end the process.
    whole.on('error', () => {})
    this.discarding = true
    this.readable.destroy()
    this.writable.destroy()
    const head = Buffer.concat(raw, this.#rawLength)
    whole.setSocket(readable as Duplex, head, { allowSynchronousEvents: true, maxPayload: this.#maxLength, ...RECEIVER_LIMITS })
    readable.resume()
    this.#raw = undefined
    this.#chunks = []
    return whole
  }
}

/** The `readyState` of an open WebSocket in `ws`. */
const OPEN = 1

/** How many pieces a message may have: the same as in a server of `ws`. */
const RECEIVER_LIMITS = { maxFragments: 16 * 1024, maxBufferedChunks: 256 * 1024 }
