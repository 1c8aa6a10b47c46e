import { FST_ERR_DUPLEX_MESSAGE_INVALID, FST_ERR_DUPLEX_MESSAGE_TOO_LONG, FST_ERR_DUPLEX_MESSAGE_UNSERIALISABLE } from '../errors.ts'
import type { Serialise, Validate } from '../internals/schemas.ts'
import { isThenable } from '../tools/thenable.ts'
import type { MessageEncoding } from '../../types/index.ts'
import { asError } from '../tools/thrown.ts'
import { json } from './encoding.ts'

/** Turns messages into payloads and back, and applies the schemas. */
export class Codec {
  readonly #encoding: MessageEncoding
  readonly #maxLength: number
  readonly #validate: Validate | undefined
  readonly #serialise: Serialise | undefined
  readonly #decode: MessageEncoding['decode']

  /** @param decode in place of the encoding's own */
  constructor (
    encoding: MessageEncoding, maxLength: number, validate?: Validate, serialise?: Serialise, decode?: MessageEncoding['decode'] | undefined
  ) {
    this.#encoding = encoding
    this.#decode = decode ?? ((payload, isText) => encoding.decode(payload, isText))
    this.#maxLength = maxLength
    this.#validate = validate
    this.#serialise = serialise
  }

  /** Throws `FST_ERR_DUPLEX_MESSAGE_UNSERIALISABLE`. */
  encode (message: unknown): string | Uint8Array {
    // In a stream of objects, null is the end of the stream.
    if (message === null || message === undefined) throw unserialisable(new TypeError(`${message} is no message`))
    try {
      if (this.#serialise === undefined) return checked(this.#encoding.encode(message))
      const text = this.#serialise(message)
      if (typeof text !== 'string') throw new TypeError('the serializer gave no text')
      // A serializer of the app may put line breaks between the tokens of a JSON text. Inside a token JSON allows none.
      if (this.#encoding === json) return text.includes('\n') ? text.replace(/[\r\n]+/g, ' ') : text
      return checked(this.#encoding.encode(JSON.parse(text)))
    } catch (error) {
      throw unserialisable(error)
    }
  }

  /** Throws, or rejects with, `FST_ERR_DUPLEX_MESSAGE_INVALID`. */
  decode (payload: Uint8Array, isText?: boolean): unknown {
    const bytes = Buffer.isBuffer(payload) ? payload : Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength)
    if (bytes.length > this.#maxLength) throw new FST_ERR_DUPLEX_MESSAGE_TOO_LONG(this.#maxLength)
    let message: unknown
    try {
      message = this.#decode(bytes, isText)
    } catch (error) {
      throw invalid(asError(error).message, error)
    }
    if (this.#validate !== undefined) return this.#validated(message, this.#validate)
    return present(message)
  }

  #validated (message: unknown, validate: Validate): unknown {
    let result: unknown
    try {
      result = validate(message)
    } catch (error) {
      throw invalidBy(error)
    }
    if (isThenable(result)) {
      return result.then(
        value => judged(message, value, undefined),
        (error: unknown) => { throw invalidBy(error) })
    }
    return judged(message, result, validate.errors)
  }
}

/** Reads the result of a validator as Fastify reads it. */
function judged (message: unknown, result: unknown, errors: unknown): unknown {
  if (result === false) throw invalidBy(errors)
  if (typeof result === 'object' && result !== null) {
    const { error, value } = result as { error?: unknown, value?: unknown }
    if (error !== undefined && error !== null && error !== false) throw invalidBy(error)
    if (result instanceof Error) throw invalidBy(result)
    if (value !== undefined) return present(value)
  }
  return present(message)
}

function present (message: unknown): unknown {
  if (message === null || message === undefined) throw invalid(`${message} is no message`)
  return message
}

export function checked (payload: unknown): string | Uint8Array {
  if (typeof payload === 'string' || payload instanceof Uint8Array) return payload
  throw new TypeError('it gave neither text nor bytes')
}

export function invalid (why: string, cause?: unknown): Error & { code: string } {
  return new FST_ERR_DUPLEX_MESSAGE_INVALID(why, { cause })
}

interface ValidatorError {
  instancePath?: string
  message?: string
}

function invalidBy (cause: unknown): Error {
  const { validation } = (cause ?? {}) as { validation?: unknown }
  const list = (Array.isArray(cause) ? cause : Array.isArray(validation) ? validation : [cause]) as (ValidatorError | null | undefined)[]
  const why = list.map(error => `message${error?.instancePath ?? ''} ${error?.message ?? 'does not fit its schema'}`).join(', ')
  return Object.assign(invalid(why, cause instanceof Error ? cause : undefined), { validation: list, validationContext: 'message' })
}

export function unserialisable (cause: unknown): Error {
  return new FST_ERR_DUPLEX_MESSAGE_UNSERIALISABLE(cause instanceof Error ? cause.message : String(cause), { cause })
}
