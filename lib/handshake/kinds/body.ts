import { isPlainSuccess, type KindHead } from './kind.ts'

/** Framed by HTTP as usual; the fields tell intermediaries not to wait for the end of the response. */
export const body: KindHead = {
  kind: 'body',
  status: 200,
  allows: isPlainSuccess,
  fields: () => [['X-Accel-Buffering', 'no'], ['Incremental', '?1']]
}
