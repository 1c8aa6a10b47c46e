import { isPlainSuccess, type KindHead } from './kind.ts'

/** RFC 9110 section 9.3.6: any 2xx, and no field that frames a body. */
export const connect: KindHead = {
  kind: 'connect',
  status: 200,
  allows: isPlainSuccess,
  fields: () => []
}
