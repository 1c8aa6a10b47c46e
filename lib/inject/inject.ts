import type { FastifyInstance } from 'fastify'
import { InjectedClients } from './injected-clients.ts'
import type { Injected } from './options.ts'
import type { InjectDuplexOptions, InjectDuplexResponse } from '../../types/index.ts'

/** The `injectDuplex` of an app. */
export function injector (app: FastifyInstance, watch: () => void): (options: InjectDuplexOptions) => Promise<InjectDuplexResponse> {
  const clients = new InjectedClients()
  app.addHook('preClose', done => {
    clients.endAll()
    done()
  })
  return async options => {
    // Apps in production need none of it.
    const { injection, send } = await import('./send.ts')
    const inMessages = typeof options === 'object' && options !== null && ('messages' in options || 'websocket' in options)
      ? await import('./messages.ts')
      : undefined
    const messages = inMessages?.inMessages(options)
    const wanted = injection(messages?.options ?? options)
    await app.ready()
    watch()
    if (inMessages === undefined || messages === undefined) return answerOf(await send(app.server, wanted, clients))
    const watched = inMessages.watchEncoding(wanted.target)
    try {
      const answer = answerOf(await send(app.server, wanted, clients))
      return await inMessages.messagesOf(answer, messages.websocket, watched.encoding) as InjectDuplexResponse
    } finally {
      watched.stop()
    }
  }
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
