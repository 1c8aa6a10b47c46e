import { isIPv6 } from 'node:net'
import type { Transport } from '../fixtures/server.ts'
import type { DuplexKind } from '../../lib/index.ts'

/** A request as it is made, with what is wrong with it. */
export interface HeadCase {
  transport: Transport
  /** Requests for the plain route that are pipelined before it. */
  before: number
  method: string
  target: string
  version: '1.1' | '1.0'
  hosts: string[]
  /** The values of the field lines. */
  connection: string[]
  upgrade: string[]
  framing: Framing
  body: string
  contentType: boolean
  expect: string | undefined
  /** Turns of the event loop that a hook waits. */
  slow: number
  /** A flaw that no parser lets pass. */
  flaw: Flaw | undefined
  /** The order of the field lines, how their names are spelt, and what is around the values. */
  order: number
  casing: number
  spaces: number
  fillers: number
  tail: TailPiece[]
  /** Where it is cut into writes, as fractions. */
  cuts: number[]
  /** The client half-closes at once, and not when it has its answer. */
  eager: boolean
}

export const framings = ['none', 'length', 'zero', 'chunked', 'gzip', 'bad length', 'two lengths', 'both'] as const
export type Framing = typeof framings[number]

export const flaws = ['bare LF', 'space before colon', 'NUL', 'no name', 'version', 'method', 'space in target', 'bare CR'] as const
export type Flaw = typeof flaws[number]

export type TailPiece = 'request' | 'garbage' | 'text'

/** What is to come of it. */
export type Verdict =
  /** The handler has it. What follows a message may be served. */
  | { then: 'take', kind: DuplexKind, protocol: string | undefined, authority: string | undefined, persists: boolean }
  /** Answered, and nothing that follows is ever read as a request. */
  | { then: 'close', statuses: number[] }
  /** An ordinary response. `sure`: the requests behind it are served; otherwise they may be. */
  | { then: 'answer', statuses: number[], persists: boolean, sure: boolean }
  /** Any answer or none, but no takeover. */
  | { then: 'flawed' }

interface RouteModel {
  methods: string[]
  kinds: DuplexKind[]
  protocols?: string[]
  /** A plain route has the same URL and methods. */
  shared?: boolean
  /** A hook refuses with this. */
  refuses?: number
}

const ALL: DuplexKind[] = ['upgrade', 'connect', 'hijack', 'body']

/** The duplex routes of the server under test. */
export const routes: Record<string, RouteModel> = {
  '/any': { methods: ['GET', 'POST'], kinds: ALL },
  '/manual': { methods: ['GET', 'POST'], kinds: ALL },
  '/listed': { methods: ['GET', 'POST'], kinds: ALL, protocols: ['foo', 'Bar/2', 'websocket'] },
  '/up': { methods: ['GET', 'POST'], kinds: ['upgrade'], protocols: ['foo', 'baz'] },
  '/hijack': { methods: ['GET'], kinds: ['hijack'] },
  '/message': { methods: ['POST'], kinds: ['body'] },
  '/shared': { methods: ['GET', 'POST'], kinds: ALL, shared: true },
  '/hook': { methods: ['GET', 'POST'], kinds: ALL, refuses: 401 }
}

const TCHAR = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+(?:\/[!#$%&'*+\-.^_`|~0-9A-Za-z]+)?$/

function members (values: string[]): string[] {
  return values.flatMap(value => value.split(',')).map(member => member.replace(/^[ \t]+|[ \t]+$/g, '')).filter(member => member !== '')
}

function isReserved (token: string): boolean {
  const lower = token.toLowerCase()
  return ['websocket', 'h2c', 'h2'].includes(lower) || lower.startsWith('http/') || lower.startsWith('tls/')
}

/** Another HTTP, and TLS, which are no offers to a route that does not list them. */
function isOtherHttp (token: string): boolean {
  return isReserved(token) && token.toLowerCase() !== 'websocket'
}

/** What the route makes of the tokens that the client offers. */
function negotiated (offered: string[], protocols: string[] | undefined): string | undefined {
  if (protocols === undefined) return offered.find(token => !isReserved(token))
  for (const token of offered) {
    const lower = token.toLowerCase()
    for (const wanted of [lower, lower.split('/')[0]]) {
      const match = protocols.find(protocol => protocol.toLowerCase() === wanted)
      if (match !== undefined) return wanted === lower ? match : match + token.slice(token.indexOf('/'))
    }
  }
  return undefined
}

/** `host:port` of a CONNECT, as the handler is to be told of it. */
function authorityOf (target: string): string | undefined {
  const match = /^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]+)$/.exec(target)
  if (match === null) return undefined
  const port = Number(match[2])
  if (port < 1 || port > 65535) return undefined
  const host = (match[1] as string).replace(/[[\]]/g, '').toLowerCase()
  if (host !== (match[1] as string).toLowerCase() && !isIPv6(host)) return undefined
  return `${host} ${port}`
}

function pathOf (target: string): string {
  const path = target.replace(/^http:\/\/[^/]*/, '').replace(/\?.*$/, '')
  return path.replaceAll('%61', 'a')
}

export function judge (c: HeadCase): Verdict {
  const { method, version, framing, hosts, expect } = c
  const modern = version === '1.1'
  if (c.flaw !== undefined) return { then: 'flawed' }
  if (framing === 'bad length' || framing === 'two lengths' || framing === 'both') return { then: 'flawed' }
  const declares = framing !== 'none'
  const empty = framing === 'none' || framing === 'zero' || (framing === 'length' && c.body === '')
  const options = members(c.connection).map(option => option.toLowerCase())
  const asked = options.includes('upgrade') && members(c.upgrade).length > 0
  const says = (option: string): boolean => options.includes(option)
  const persists = modern ? !says('close') : says('keep-alive')
  const goodHost = !modern || (hosts.length === 1 && hosts[0] !== 'a b' && hosts[0] !== 'a/b')

  if (method === 'CONNECT') {
    const authority = authorityOf(c.target)
    if (!empty || !goodHost || authority === undefined) return { then: 'close', statuses: [400] }
    return { then: 'take', kind: 'connect', protocol: undefined, authority, persists: false }
  }
  // Whatever else it is, its body has no end that anybody could tell.
  if (framing === 'gzip' && !asked) return { then: 'flawed' }

  const route = routes[pathOf(c.target)]
  const declared = route !== undefined && (route.methods.includes(method) || (method === 'HEAD' && route.methods.includes('GET')))
  const ordinary = (statuses: number[], sure = true): Verdict => {
    if (framing === 'gzip') return { then: 'flawed' }
    // Node's own answer, which it gives to one request and not to the connection.
    if (modern && hosts.length === 0) return { then: 'answer', statuses: [400], persists, sure: false }
    const doubtful = !goodHost || (modern && expect === 'nonsense')
    const more = [...(doubtful ? [400, 417] : []), ...(modern && expect === 'nonsense' ? [417] : [])]
    // A body of unknown type is refused where it would be parsed.
    const unparsed = declares && !c.contentType
    return { then: 'answer', statuses: [...statuses, ...more, ...(unparsed ? [415] : [])], persists, sure: sure && !doubtful && !unparsed }
  }
  if (c.target === '/%zz') return ordinary([400], false)
  if (!declared) return ordinary([pathOf(c.target) === '/plain' && ['GET', 'POST', 'HEAD'].includes(method) ? 200 : 404])

  const refused = (verdict: Verdict): Verdict => {
    const { refuses } = route
    if (refuses === undefined) return verdict
    switch (verdict.then) {
      case 'take':
        return verdict.kind === 'body'
          ? { then: 'answer', statuses: [refuses], persists, sure: false }
          : { then: 'close', statuses: [refuses] }
      case 'close': return { ...verdict, statuses: [...verdict.statuses, refuses] }
      case 'answer': return { ...verdict, statuses: [...verdict.statuses, refuses], sure: false }
      case 'flawed': return verdict
    }
  }
  const message = (): Verdict => {
    if (framing === 'gzip') return { then: 'flawed' }
    if (modern && hosts.length === 0) return { then: 'answer', statuses: [400], persists, sure: false }
    if (modern && expect === 'nonsense') return { then: 'answer', statuses: [417, 400], persists, sure: false }
    return { then: 'take', kind: 'body', protocol: undefined, authority: undefined, persists }
  }
  if (method === 'HEAD') {
    if (route.shared === true) return ordinary([200])
    return refused(ordinary([route.kinds.includes('body') || route.kinds.includes('hijack') ? 200 : 426]))
  }
  const meant = members(c.upgrade).filter(token => !isOtherHttp(token) || negotiated([token], route.protocols ?? []) !== undefined)
  if (asked && modern && route.kinds.includes('upgrade') && meant.length > 0) {
    const malformed = meant.some(token => !TCHAR.test(token))
    const protocol = negotiated(meant.filter(token => TCHAR.test(token)), route.protocols)
    if (protocol === undefined) {
      if (route.shared === true) return ordinary([200])
      const wrong = [...(goodHost ? [] : [400]), ...(modern && expect === 'nonsense' ? [417] : [])]
      if (declares && route.kinds.includes('body')) {
        if (wrong.length === 0) return refused(message())
        return framing === 'gzip' ? { then: 'flawed' } : { then: 'close', statuses: wrong }
      }
      if (malformed || route.protocols === undefined) wrong.push(400)
      else wrong.push(426)
      return refused({ then: 'close', statuses: wrong })
    }
    const wrong: number[] = []
    if (!goodHost) wrong.push(400)
    if (expect === 'nonsense') wrong.push(417)
    if (framing === 'chunked' || framing === 'gzip') wrong.push(411)
    if (framing === 'length' && c.body !== '') {
      if (method === 'GET') wrong.push(400)
      else if (!c.contentType) wrong.push(415)
    }
    if (wrong.length > 0) return refused({ then: 'close', statuses: wrong })
    return refused({ then: 'take', kind: 'upgrade', protocol, authority: undefined, persists: false })
  }
  if (route.shared === true) return ordinary([200])
  const [named, other] = declares ? ['body', 'hijack'] as const : ['hijack', 'body'] as const
  const kind: DuplexKind = !route.kinds.includes(named) && empty && route.kinds.includes(other) ? other : named
  if (!route.kinds.includes(kind)) return refused(ordinary([route.kinds.includes('upgrade') ? 426 : 404]))
  if (kind === 'body') return refused(message())
  const wrong = [...(goodHost ? [] : [400]), ...(modern && expect === 'nonsense' ? [417] : [])]
  if (wrong.length > 0) return refused({ then: 'close', statuses: wrong })
  return refused({ then: 'take', kind, protocol: undefined, authority: undefined, persists: false })
}
