import type { DuplexRoute } from '../routes/route.ts'
import type { AsyncApiDocument, AsyncApiOptions } from '../../types/index.ts'
import { acceptedTypes } from './choose-framings.ts'

type Json = Record<string, unknown>

/** By `$id`: where the document has the schemas of `addSchema`. */
type Places = ReadonlyMap<string, string>

/** An AsyncAPI document of the routes that have messages. Each route is a channel, with an operation for each direction. */
export function asyncapi (routes: Iterable<DuplexRoute>, { info, servers }: AsyncApiOptions): AsyncApiDocument {
  const channels: Json = {}
  const operations: Json = {}
  const schemas: Json = {}
  const known = new Map<string, string>()
  for (const { url, methods, messages } of routes) {
    // Fastify adds a HEAD to each GET.
    if (messages === undefined || methods.every(method => method === 'HEAD')) continue
    const { settings, app } = messages
    const places = addAll(schemas, known, app.getSchemas())
    const name = unused(channels, nameOf(`${methods.join('_')}${url}`))
    const contentType = settings.encoding.contentType ?? acceptedTypes(settings)[0]
    const messageOf = (direction: 'in' | 'out'): Json => ({
      ...contentType === undefined ? {} : { contentType },
      ...payloadOf(settings[direction], `#/channels/${name}/messages/${direction}/payload`, places)
    })
    const address = url.replace(/:(\w+)(?:\([^)]*\))?\??/g, '{$1}').replace(/\*/g, '{wildcard}')
    const parameters = Object.fromEntries([...address.matchAll(/\{(\w+)\}/g)].map(([, parameter]) => [parameter, {}]))
    channels[name] = {
      address,
      ...Object.keys(parameters).length === 0 ? {} : { parameters },
      messages: { in: messageOf('in'), out: messageOf('out') },
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

/** Makes a name that the document does not have yet: `/a/b` and `/a_b` lead to the same name. */
function unused (taken: Json, name: string): string {
  let found = name
  for (let count = 2; found in taken; count++) found = `${name}_${count}`
  return found
}

/** Puts the schemas of one scope into the document. Another scope may have a different schema with the same `$id`. */
function addAll (schemas: Json, known: Map<string, string>, given: Record<string, unknown>): Places {
  const places = new Map<string, string>()
  const added: [place: string, name: string, schema: unknown][] = []
  for (const [id, schema] of Object.entries(given)) {
    const text = JSON.stringify(schema).replaceAll(`"$ref":"${id}#`, '"$ref":"#')
    // A reference to another schema means what its scope says. So schemas with such a reference are shared only within a scope.
    const key = JSON.stringify([id, text, /"\$ref":"[^#]/.test(text) ? given : undefined])
    let name = known.get(key)
    if (name === undefined) {
      name = unused(schemas, nameOf(id))
      known.set(key, name)
      schemas[name] = {}
      added.push([`#/components/schemas/${name}`, name, schema])
    }
    places.set(id, `#/components/schemas/${name}`)
  }
  for (const [place, name, schema] of added) schemas[name] = pointed(schema, place, places)
  return places
}

/** The payload of a message. If the schema depends on the request, or is no JSON Schema, the document cannot say what it is. */
function payloadOf (schema: unknown, place: string, places: Places): Json {
  if (schema === undefined || schema === true || typeof schema === 'function') return {}
  // In the document a schema is an object, so `false` is written as one.
  if (schema === false) return { payload: { not: {} } }
  const { toJSONSchema } = schema as { toJSONSchema?: () => unknown }
  const payload = typeof toJSONSchema === 'function' ? toJSONSchema.call(schema) : schema
  return { payload: pointed(payload, place, places) }
}

/**
 * Moves the references of a schema. `#/definitions/a` becomes a reference to where the schema is now, and
 * `common#/definitions/a` a reference to the schema of `addSchema` in the document.
 */
function pointed (schema: unknown, place: string, places: Places): unknown {
  return JSON.parse(JSON.stringify(schema, (key, value: unknown) => {
    if (key !== '$ref' || typeof value !== 'string') return key === '$id' && typeof value === 'string' ? undefined : value
    const [id = '', path = ''] = value.split('#', 2)
    return (id === '' ? place : places.get(id) ?? `#/components/schemas/${nameOf(id)}`) + path
  })) as unknown
}
