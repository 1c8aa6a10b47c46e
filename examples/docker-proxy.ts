// A Docker socket for those who may use some of it. Clients need a token, and only what is listed passes: looking around, starting
// containers of listed images, exec and attach. Nothing that would give them the host: no mounts, no privileges.
//
// Run it:     TOKEN=secret IMAGES=alpine,host DOCKER_SOCKET=/var/run/docker.sock node examples/docker-proxy.ts
//             Without Docker, examples/docker-engine.ts stands for it, at the socket that is its SOCKET; its image is `host`.
//             Before Node 22.18: npm run setup, then .build/examples/docker-proxy.js in its place.
//             Put TLS in front of it, or give Fastify `https`: the token goes over the wire.
// Drive it:   curl -i http://localhost:2375/_ping                                  401
//             curl -i -H 'X-Docker-Token: secret' http://localhost:2375/version
//             mkdir docker && echo '{"HttpHeaders":{"X-Docker-Token":"secret"}}' > docker/config.json
//             export DOCKER_HOST=tcp://localhost:2375 DOCKER_CONFIG=docker
//             echo hello | docker run --rm -i alpine tr a-z A-Z      an image that is there: nothing is pulled through it
//             docker run --rm debian true                           403: the image is not listed
//             docker run --rm -v /:/host alpine ls /host            runs without the mount: what is not listed is left out
import { timingSafeEqual } from 'node:crypto'
import { once } from 'node:events'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import Fastify, { type FastifyReply, type FastifyRequest } from 'fastify'
// In an app of your own: from 'fastify-duplex'
import duplex from '../lib/index.ts'

const token = Buffer.from(process.env.TOKEN ?? '')
if (token.length === 0) throw new Error('TOKEN must be set')
const images = new Set((process.env.IMAGES ?? 'alpine').split(','))
const engine = { socketPath: process.env.DOCKER_SOCKET ?? '/var/run/docker.sock' }

const app = Fastify({ logger: true })
await app.register(duplex, { drainTimeout: 3000 })

app.addHook('onRequest', async (request, reply) => {
  const given = Buffer.from(String(request.headers['x-docker-token'] ?? ''))
  if (given.length === token.length && timingSafeEqual(given, token)) return
  return await reply.code(401).send({ message: 'X-Docker-Token is missing or wrong' })
})

const options = {
  to: engine,
  requestHeaders (fields: Record<string, unknown>) { delete fields['x-docker-token'] }
}

/** The name of a container, or the id of an exec: nothing that could lead to another part of the API. */
const id = ':id(^[a-zA-Z0-9][\\w.-]*$)'
/** Clients put the version of the API in front, once they have asked for it. Before 1.24 a container is also configured when it starts. */
const versions = ['', '/:version(^v1\\.(?:2[4-9]|[3-9]\\d|\\d{3})$)']

const listed = [
  ['GET', '/_ping'], ['HEAD', '/_ping'], ['GET', '/version'], ['GET', '/info'],
  ['GET', '/containers/json'], ['GET', `/containers/${id}/json`], ['GET', `/containers/${id}/logs`],
  ['POST', `/containers/${id}/start`], ['POST', `/containers/${id}/stop`], ['POST', `/containers/${id}/kill`], ['POST', `/containers/${id}/wait`],
  ['POST', `/containers/${id}/resize`], ['POST', `/containers/${id}/attach`], ['DELETE', `/containers/${id}`],
  ['GET', `/exec/${id}/json`], ['POST', `/exec/${id}/start`], ['POST', `/exec/${id}/resize`]
] as const

for (const prefix of versions) {
  for (const [method, url] of listed) {
    app.route({ method, url: prefix + url, exposeHeadRoute: false, duplex: { forward: options } })
  }
  // What decides is in the body, so it is parsed, and checked: a field that is not listed here is not passed on.
  app.post(`${prefix}/containers/create`, { schema: { body: create() } }, async (request, reply) => {
    const { Image } = request.body as { Image: string }
    if (!images.has(Image)) return await reply.code(403).send({ message: `The image ${Image} is not allowed` })
    return await ask(request, reply)
  })
  app.post(`${prefix}/containers/${id}/exec`, { schema: { body: exec() } }, ask)
}

/** What was checked goes on as it was checked. */
async function ask ({ method, raw: { url }, body }: FastifyRequest, reply: FastifyReply): Promise<unknown> {
  const asking = http.request({ ...engine, method, path: url, headers: { host: 'localhost', 'content-type': 'application/json' } })
  asking.end(JSON.stringify(body))
  const [answer] = await once(asking, 'response') as [http.IncomingMessage]
  return await reply.code(answer.statusCode as number).type(answer.headers['content-type'] ?? 'application/json').send(answer)
}

function strings (): object { return { type: 'array', items: { type: 'string' }, nullable: true } }

function create (): object {
  return {
    type: 'object',
    required: ['Image'],
    additionalProperties: false,
    properties: {
      Image: { type: 'string' },
      Cmd: strings(),
      Entrypoint: strings(),
      Env: strings(),
      WorkingDir: { type: 'string' },
      Tty: { type: 'boolean' },
      OpenStdin: { type: 'boolean' },
      StdinOnce: { type: 'boolean' },
      AttachStdin: { type: 'boolean' },
      AttachStdout: { type: 'boolean' },
      AttachStderr: { type: 'boolean' },
      HostConfig: { type: 'object', additionalProperties: false, properties: { AutoRemove: { type: 'boolean' } } }
    }
  }
}

function exec (): object {
  return {
    type: 'object',
    required: ['Cmd'],
    additionalProperties: false,
    properties: {
      Cmd: strings(),
      Env: strings(),
      WorkingDir: { type: 'string' },
      Tty: { type: 'boolean' },
      AttachStdin: { type: 'boolean' },
      AttachStdout: { type: 'boolean' },
      AttachStderr: { type: 'boolean' },
      DetachKeys: { type: 'string' }
    }
  }
}

for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => { void app.close() })

await app.listen({ port: Number(process.env.PORT ?? 2375), host: process.env.HOST ?? 'localhost' })
console.log(`listening on http://localhost:${(app.server.address() as AddressInfo).port}`)
