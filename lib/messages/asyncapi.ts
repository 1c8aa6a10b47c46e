import type { DuplexRoute } from '../routes/route.ts'
import type { AsyncApiDocument, AsyncApiOptions } from '../../types/index.ts'
import { acceptedTypes } from './choose.ts'

type Json = Record<string, unknown>

/** An AsyncAPI document of the routes that have messages: each is a channel, with an operation for each direction. */
export function asyncapi (routes: Iterable<DuplexRoute>, { info, servers }: AsyncApiOptions): AsyncApiDocument {
  const channels: Json = {}
  const operations: Json = {}
  const schemas: Json = {}
  for (const { url, methods, messages } of routes) {
    // Fastify adds a HEAD to each GET.
    if (messages === undefined || methods.every(method => method === 'HEAD')) continue
    const { settings, app } = messages
    for (const [id, schema] of Object.entries(app.getSchemas())) schemas[nameOf(id)] = pointed(schema)
    const name = nameOf(`${methods.join('_')}${url}`)
    const contentType = settings.encoding.contentType ?? acceptedTypes(settings)[0]
    const messageOf = (schema: unknown): Json => ({ ...contentType === undefined ? {} : { contentType }, ...payloadOf(schema) })
    const address = url.replace(/:(\w+)(?:\([^)]*\))?\??/g, '{$1}').replace(/\*/g, '{wildcard}')
    const parameters = Object.fromEntries([...address.matchAll(/\{(\w+)\}/g)].map(([, parameter]) => [parameter, {}]))
    channels[name] = {
      address,
      ...Object.keys(parameters).length === 0 ? {} : { parameters },
      messages: { in: messageOf(settings.in), out: messageOf(settings.out) },
      ...settings.websocket === undefined ? {} : { bindings: { ws: { method: 'GET', bindingVersion: '0.1.0' } } }
    }
    for (const [action, message] of [['receive', 'in'], ['send', 'out']] as const) {
      operations[`${name}.${action}`] = {
        action,
        channel: { $ref: `#/channels/${name}` },
        messages: [{ $ref: `#/channels/${name}/messages/${message}` }]
      }
    }
  }
  return {
    asyncapi: '3.0.0',
    info,
    ...servers === undefined ? {} : { servers },
    channels,
    operations,
    ...Object.keys(schemas).length === 0 ? {} : { components: { schemas } }
  }
}

function nameOf (text: string): string {
  return text.replace(/[^A-Za-z0-9]+/g, '_').replace(/^_|_$/g, '')
}

/** What a function of the request would return is not known, nor what a schema says that is no JSON Schema. */
function payloadOf (schema: unknown): Json {
  if (schema === undefined || typeof schema === 'function') return {}
  const { toJSONSchema } = schema as { toJSONSchema?: () => unknown }
  const payload = typeof toJSONSchema === 'function' ? toJSONSchema.call(schema) : schema
  return { payload: pointed(payload) }
}

/** `common#/definitions/a` of `addSchema` is a part of this document. */
function pointed (schema: unknown): unknown {
  return JSON.parse(JSON.stringify(schema, (key, value: unknown) => {
    if (key !== '$ref' || typeof value !== 'string' || value.startsWith('#')) return key === '$id' ? undefined : value
    const [id = '', path = ''] = value.split('#', 2)
    return `#/components/schemas/${nameOf(id)}${path}`
  })) as unknown
}
