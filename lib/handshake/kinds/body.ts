import { isPlainSuccess, type KindHead } from './kind.ts'

/** HTTP frames it as usual. The fields tell intermediaries to pass the response on while it arrives. */
export const body: KindHead = {
  kind: 'body',
  status: 200,
  allows: isPlainSuccess,
  fields: () => [['X-Accel-Buffering', 'no'], ['Incremental', '?1']]
}
