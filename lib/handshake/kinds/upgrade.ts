import type { KindHead } from './kind.ts'

/** RFC 9110 section 7.8: 101, naming the protocol; one `Upgrade` and one `Connection: Upgrade`. */
export const upgrade: KindHead = {
  kind: 'upgrade',
  status: 101,
  allows: status => status === 101,
  fields: protocol => [['Connection', 'Upgrade'], ['Upgrade', protocol as string]]
}
