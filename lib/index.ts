import { plugin } from './plugin.ts'

export default plugin
export { plugin as fastifyDuplex }
export { channels } from './observability/channels.ts'
export { lengthPrefixed } from './messages/framing.ts'
export { dial } from './dial/dial.ts'
export { forward } from './relay/forward/forward.ts'
export { publicOnly } from './dial/public-only.ts'
export { tunnel } from './relay/tunnel.ts'
export * as errors from './errors.ts'
export type * from '../types/index.ts'
