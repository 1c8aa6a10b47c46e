import type { FastifyRequest } from 'fastify'
import { FST_ERR_DUPLEX_MESSAGE_TYPE } from '../errors.ts'
import type { DuplexKind, MessageFraming } from '../../types/index.ts'
import { json } from './encoding.ts'
import { lines, single, sse } from './framing.ts'
import type { MessageSettings } from './options.ts'

/** The framings of one connection that is not a WebSocket. */
export interface Choice {
  /** The framing of the input. Undefined if the request has no input. */
  readonly in: MessageFraming | undefined
  readonly out: MessageFraming
  /** The Content-Type of the answer, if the answer is a body. */
  readonly contentType: string | undefined
}

/** Other names of NDJSON that clients use. */
const LINES = new Set(['application/x-ndjson', 'application/ndjson', 'application/jsonl', 'application/x-jsonlines', 'application/json-lines'])

/** Chooses the framings for a request. Throws if the route cannot read what the client sends. */
export function chooseFramings (settings: MessageSettings, kind: DuplexKind, request: FastifyRequest): Choice {
  const [standard] = settings.streams
  // A route that has only the framing of WebSocket takes such a kind only if it names that kind itself.
  if (kind !== 'body') return { in: standard ?? lines, out: standard ?? lines, contentType: undefined }
  const { headers } = request.raw
  const type = mediaType(headers['content-type'])
  const into = incoming(settings, type)
  if (into === undefined && hasBody(headers)) {
    throw new FST_ERR_DUPLEX_MESSAGE_TYPE(acceptedTypes(settings).join(', '))
  }
  const out = outgoing(settings, headers.accept, into)
  return { in: into, out, contentType: out === sse ? 'text/event-stream' : out.contentType }
}

function incoming (settings: MessageSettings, type: string | undefined): MessageFraming | undefined {
  const { streams, encoding } = settings
  if (type === undefined) return streams[0]
  const named = streams.find(framing => framing.contentType === type || (framing === lines && LINES.has(type)))
  if (named !== undefined) return named
  return type === 'application/json' && encoding === json && streams.includes(lines) ? single : undefined
}

function outgoing (settings: MessageSettings, accept: string | undefined, into: MessageFraming | undefined): MessageFraming {
  const { streams } = settings
  const wanted = (accept ?? '').split(',').map(mediaType)
  for (const type of wanted) {
    if (type === sse.contentType && settings.sse) return sse
    const named = streams.find(framing => framing.contentType === type || (framing === lines && LINES.has(type ?? '')))
    if (named !== undefined) return named
  }
  if (into !== undefined && streams.includes(into)) return into
  return streams[0] ?? (settings.sse ? sse : lines)
}

/** A media type without its parameters. */
function mediaType (value: string | undefined): string | undefined {
  return value?.split(';', 1)[0]?.trim().toLowerCase()
}

function hasBody (headers: FastifyRequest['raw']['headers']): boolean {
  return headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0 || headers['content-type'] !== undefined
}

export function acceptedTypes ({ streams, encoding }: MessageSettings): string[] {
  const types = streams.map(({ contentType }) => contentType)
  return encoding === json && streams.includes(lines) ? [...types, single.contentType] : types
}
