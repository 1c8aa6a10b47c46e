export { connect } from './connect.ts'
export { DuplexRefused } from './refused.ts'
export type * from '../../types/client.ts'
