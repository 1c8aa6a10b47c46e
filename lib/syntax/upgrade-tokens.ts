/** One member of an `Upgrade` header: `name[/version]`, RFC 9110 section 7.8. */
const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:\/[!#$%&'*+.^_`|~0-9A-Za-z-]+)?$/

/** Tokens with a handshake of their own. A route takes them only if it lists them. */
const RESERVED = /^(?:websocket|h2c|h2|http\/.*|tls\/.*)$/i

/** Reserved tokens that ask for another version of HTTP, or for TLS. No owner of 'upgrade' serves them. */
const OTHER_HTTP = /^(?:h2c|h2|http\/.*|tls\/.*)$/i

/** How many members of an `Upgrade` header are looked at. Clients offer one or two. */
const MOST_TOKENS = 32

export interface OfferedTokens {
  /** The well-formed tokens, in the client's order and spelling. */
  readonly offered: readonly string[]
  /** A member of the list was malformed. Empty members do not count, RFC 9110 section 5.6.1. */
  readonly malformed: boolean
}

/** The protocols that a route lists. The key is in lower case, the value has the route's spelling. */
export type ListedProtocols = ReadonlyMap<string, string>

let latest: { header: string, tokens: OfferedTokens } | undefined

/** Most clients of a server send the same header. */
export function parseUpgrade (header: string): OfferedTokens {
  if (latest?.header !== header) latest = { header, tokens: tokensOf(header) }
  return latest.tokens
}

function tokensOf (header: string): OfferedTokens {
  const offered: string[] = []
  let malformed = false
  let looked = 0
  for (let at = 0; at <= header.length && looked < MOST_TOKENS;) {
    const comma = header.indexOf(',', at)
    const end = comma === -1 ? header.length : comma
    const token = header.slice(at, end).trim()
    at = end + 1
    if (token === '') continue
    looked++
    if (TOKEN.test(token)) offered.push(token)
    else malformed = true
  }
  return { offered, malformed }
}

/** A list entry that is acceptable as a route's protocol. */
export function isToken (value: string): boolean {
  return TOKEN.test(value)
}

/** Of two entries that differ in case alone, the first counts. */
export function listProtocols (protocols: readonly string[]): ListedProtocols {
  const listed = new Map<string, string>()
  for (const protocol of protocols) {
    const key = protocol.toLowerCase()
    if (!listed.has(key)) listed.set(key, protocol)
  }
  return listed
}

export function asksForOtherHttp (offered: readonly string[]): boolean {
  return offered.length > 0 && offered.every(token => OTHER_HTTP.test(token))
}

/** The tokens that a route may take. Tokens for another HTTP, or for TLS, count only if the route lists them. */
export function meantForRoute (offered: readonly string[], listed: ListedProtocols | undefined): readonly string[] {
  return offered.filter(token => !OTHER_HTTP.test(token) || (listed !== undefined && listedAs(token, listed) !== undefined))
}

/**
 * The first token the client offers that the route has. Without a list, the first one that is not reserved.
 */
export function chooseToken (offered: readonly string[], listed: ListedProtocols | undefined): string | undefined {
  if (listed === undefined) return offered.find(token => !RESERVED.test(token))
  for (const token of offered) {
    const match = listedAs(token, listed)
    if (match !== undefined) return match
  }
  return undefined
}

/**
 * An offered token in the spelling of the list. `foo` in the list also stands for `foo/2` on the wire; the version
 * is kept then, since RFC 9110 section 7.8 forbids to name a protocol that was not offered.
 */
function listedAs (token: string, listed: ListedProtocols): string | undefined {
  const exact = token.toLowerCase()
  const same = listed.get(exact)
  if (same !== undefined) return same
  const slash = token.indexOf('/')
  if (slash === -1) return undefined
  const name = listed.get(exact.slice(0, slash))
  return name === undefined ? undefined : name + token.slice(slash)
}

/** The name of a choice on the wire: the choice, with the version that was offered. Undefined if it was not offered. */
export function offeredAs (choice: string, offered: readonly string[]): string | undefined {
  const wanted = listProtocols([choice])
  for (const token of offered) {
    if (token.toLowerCase() === choice.toLowerCase()) return choice
  }
  for (const token of offered) {
    const match = listedAs(token, wanted)
    if (match !== undefined) return match
  }
  return undefined
}
