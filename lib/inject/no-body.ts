import { Writable } from 'node:stream'
import { invalid } from './options.ts'

/** What is written to a body that was not declared would go nowhere, and the test would not see why. */
export function noBody (): Writable {
  return new Writable({
    write (_chunk, _encoding, done) {
      done(invalid('the request has no body to write to. The header transfer-encoding: chunked, without a payload, declares one'))
    }
  })
}
