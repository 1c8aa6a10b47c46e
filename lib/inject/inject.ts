import { Server as HttpServer } from 'node:http'
import { Server as HttpsServer } from 'node:https'
import type { FastifyInstance } from 'fastify'
import { FST_ERR_DUPLEX_CANNOT_INJECT } from '../errors.ts'
import { Farewell } from './hang-up.ts'
import { speaksHttp2 } from '../http2/server.ts'
import { injectHttp1 } from './http1.ts'
import { injectHttp2 } from './http2.ts'
import { injection, type Injected, type Injection } from './injection.ts'
import type { InjectDuplexOptions, InjectDuplexResponse } from '../../types/index.ts'

/** The `injectDuplex` of an app. */
export function injector (app: FastifyInstance, watch: () => void): (options: InjectDuplexOptions) => Promise<InjectDuplexResponse> {
  const farewell = new Farewell()
  app.addHook('preClose', done => {
    farewell.say()
    done()
  })
  return async options => {
    const inMessages = typeof options === 'object' && options !== null && ('messages' in options || 'websocket' in options)
      ? await import('./messages.ts')
      : undefined
    const messages = inMessages?.inMessages(options)
    const wanted = injection(messages?.options ?? options)
    await app.ready()
    watch()
    if (inMessages === undefined || messages === undefined) return answerOf(await send(app.server, wanted, farewell))
    const watched = inMessages.watchEncoding(wanted.target)
    try {
      const answer = answerOf(await send(app.server, wanted, farewell))
      return await inMessages.messagesOf(answer, messages.websocket, watched.encoding) as InjectDuplexResponse
    } finally {
      watched.stop()
    }
  }
}

/** On a connection in memory, in the HTTP that the server speaks. */
async function send (server: object, wanted: Injection, farewell: Farewell): Promise<Injected> {
  const http1 = server instanceof HttpServer || server instanceof HttpsServer
  if (!http1 && !speaksHttp2(server)) throw new FST_ERR_DUPLEX_CANNOT_INJECT()
  wanted.signal?.throwIfAborted()
  return http1 ? injectHttp1(server, wanted, farewell) : injectHttp2(server, wanted, farewell)
}

function answerOf (injected: Injected): InjectDuplexResponse {
  const { readable, writable } = injected
  return {
    ...injected,
    async body () {
      const chunks: Buffer[] = []
      for await (const chunk of readable) chunks.push(chunk as Buffer)
      if (!writable.writableEnded) writable.end()
      return Buffer.concat(chunks)
    }
  }
}
