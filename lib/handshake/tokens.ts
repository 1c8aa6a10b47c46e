/** One member of an `Upgrade` header: `name[/version]`, RFC 9110 section 7.8. */
const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:\/[!#$%&'*+.^_`|~0-9A-Za-z-]+)?$/

/** Tokens with a handshake of their own, that no route takes unless it lists them. */
const RESERVED = /^(?:websocket|h2c|h2|http\/.*|tls\/.*)$/i

/** Reserved tokens that ask for another HTTP: no owner of 'upgrade' can mean them. */
const OTHER_HTTP = /^(?:h2c|h2|http\/.*|tls\/.*)$/i

export interface OfferedTokens {
  /** The well-formed tokens, in the client's order and spelling. */
  readonly offered: readonly string[]
  /** A member was no token at all. Empty members are none, RFC 9110 section 5.6.1. */
  readonly malformed: boolean
}

let latest: { header: string, tokens: OfferedTokens } | undefined

/** Most clients of a server send the same. */
export function parseUpgrade (header: string): OfferedTokens {
  if (latest?.header !== header) latest = { header, tokens: tokensOf(header) }
  return latest.tokens
}

function tokensOf (header: string): OfferedTokens {
  const offered: string[] = []
  let malformed = false
  for (const member of header.split(',')) {
    const token = member.trim()
    if (token === '') continue
    if (TOKEN.test(token)) offered.push(token)
    else malformed = true
  }
  return { offered, malformed }
}

/** A list entry that is acceptable as a route's protocol. */
export function isToken (value: string): boolean {
  return TOKEN.test(value)
}

export function asksForOtherHttp (offered: readonly string[]): boolean {
  return offered.length > 0 && offered.every(token => OTHER_HTTP.test(token))
}

/**
 * The first token the client offers that the route has, in the route's spelling: `foo` in the
 * list also stands for `foo/2` on the wire. Without a list, the first one that is not reserved.
 */
export function chooseToken (offered: readonly string[], protocols: readonly string[] | undefined): string | undefined {
  if (protocols === undefined) return offered.find(token => !RESERVED.test(token))
  for (const token of offered) {
    const exact = token.toLowerCase()
    const name = exact.split('/', 1)[0]
    const match = protocols.find(protocol => protocol.toLowerCase() === exact) ??
      protocols.find(protocol => protocol.toLowerCase() === name)
    if (match !== undefined) return match
  }
  return undefined
}

/** Whether a chooser's answer names something that the client offered, with or without its version. */
export function wasOffered (choice: string, offered: readonly string[]): boolean {
  const wanted = choice.toLowerCase()
  return offered.some(token => {
    const exact = token.toLowerCase()
    return exact === wanted || exact.split('/', 1)[0] === wanted
  })
}
