import t from 'tap'
import { asksForOtherHttp, chooseToken as chooseAmong, isToken, listProtocols, meantForRoute, offeredAs, parseUpgrade } from '../lib/syntax/upgrade-tokens.ts'

const chooseToken = (offered: string[], protocols?: string[]): string | undefined =>
  chooseAmong(offered, protocols && listProtocols(protocols))

t.test('an Upgrade header is a list of tokens in the order and spelling of the client', async t => {
  t.strictSame(parseUpgrade('foo'), { offered: ['foo'], malformed: false })
  t.strictSame(parseUpgrade('Foo/2, BAR,baz'), { offered: ['Foo/2', 'BAR', 'baz'], malformed: false })
  t.strictSame(parseUpgrade(' \tfoo\t , bar '), { offered: ['foo', 'bar'], malformed: false })
})

t.test('empty members of the list are none', async t => {
  t.strictSame(parseUpgrade(''), { offered: [], malformed: false })
  t.strictSame(parseUpgrade(', ,foo,,bar,'), { offered: ['foo', 'bar'], malformed: false })
})

t.test('a member that is no token is left out, and told of', async t => {
  for (const wrong of ['a b', '/2', 'foo/', 'foo/2/3', 'foo;q=1', '"foo"', 'f(o)o', 'foo=1', 'f\u00f6\u00f6', 'a\0b', 'a\r\nb', 'foo /2', 'foo/ 2']) {
    t.strictSame(parseUpgrade(`first, ${wrong}, last`), { offered: ['first', 'last'], malformed: true }, JSON.stringify(wrong))
  }
})

t.test('a token has every character that RFC 9110 section 5.6.2 gives it, and may have a version', async t => {
  for (const token of ['foo', 'FOO', 'f-o_o.2', "!#$%&'*+.^_`|~", '0', 'foo/2', 'TLS/1.2', 'a/b']) t.ok(isToken(token), token)
  for (const wrong of ['', ' foo', 'foo ', 'foo,bar', 'foo/', '/1', 'a/b/c', 'a:b', 'a@b', '[a]', 'foo\n', '\nfoo', 'foo\r\nX: 1']) {
    t.notOk(isToken(wrong), JSON.stringify(wrong))
  }
})

t.test('only the other versions of HTTP, and TLS, ask for another HTTP', async t => {
  for (const offered of [['h2c'], ['H2C'], ['h2'], ['HTTP/2.0'], ['http/3'], ['TLS/1.0'], ['h2c', 'TLS/1.2']]) {
    t.ok(asksForOtherHttp(offered), offered.join())
  }
  for (const offered of [[], ['websocket'], ['h2c', 'websocket'], ['h2cx'], ['xh2c'], ['http'], ['tls']]) {
    t.notOk(asksForOtherHttp(offered), offered.join())
  }
})

t.test('without a list the first token is chosen that has no handshake of its own', async t => {
  t.equal(chooseToken(['foo', 'bar']), 'foo')
  t.equal(chooseToken(['WebSocket', 'h2c', 'h2', 'HTTP/2.0', 'TLS/1.2', 'Foo/2']), 'Foo/2')
  t.equal(chooseToken(['websocket', 'h2c', 'h2', 'HTTP/2.0', 'TLS/1.2']), undefined)
  t.equal(chooseToken(['websocket2']), 'websocket2')
  t.equal(chooseToken([]), undefined)
})

t.test('with a list the first token of the client is chosen that the list has, as the list spells it', async t => {
  t.equal(chooseToken(['bar', 'foo'], ['foo', 'bar']), 'bar')
  t.equal(chooseToken(['x', 'FOO'], ['Foo']), 'Foo')
  t.equal(chooseToken(['websocket'], ['foo', 'WebSocket']), 'WebSocket')
  t.equal(chooseToken(['x'], ['foo']), undefined)
  t.equal(chooseToken([], ['foo']), undefined)
})

t.test('Q25 an entry without a version stands for every version, which is kept, and one with a version for that alone', async t => {
  t.equal(chooseToken(['SPDY/3.1'], ['SPDY']), 'SPDY/3.1')
  t.equal(chooseToken(['spdy/3.1'], ['SPDY']), 'SPDY/3.1', 'the name as the list spells it')
  t.equal(chooseToken(['foo/2'], ['foo']), 'foo/2')
  t.equal(chooseToken(['FOO/2b'], ['foo/1', 'foo/2B', 'foo']), 'foo/2B')
  t.equal(chooseToken(['foo'], ['foo/2']), undefined)
  t.equal(chooseToken(['foo/3'], ['foo/2']), undefined)
  t.equal(chooseToken(['foo/3', 'foo/2'], ['foo/2', 'foo']), 'foo/3', 'the order of the client comes first')
  t.equal(chooseToken(['foobar'], ['foo']), undefined)
  t.equal(chooseToken(['FOO'], ['foo', 'Foo']), 'foo', 'of two entries the first')
})

t.test('a choice must have been offered; Q25 the version that was offered is kept', async t => {
  t.equal(offeredAs('foo', ['bar', 'FOO']), 'foo')
  t.equal(offeredAs('foo', ['foo/2']), 'foo/2')
  t.equal(offeredAs('foo', ['foo/2', 'foo']), 'foo', 'unless it was also offered without')
  t.equal(offeredAs('Foo/2', ['foo/2']), 'Foo/2')
  for (const [choice, ...offered] of [['foo/2', 'foo'], ['foo/1', 'foo/2'], ['', 'foo'], ['fo', 'foo'], ['foo\r\n', 'foo'], ['foo']] as [string, ...string[]][]) {
    t.equal(offeredAs(choice, offered), undefined, JSON.stringify([choice, offered]))
  }
})

t.test('Q20 another HTTP, and TLS, are meant for a route only where it lists them', async t => {
  const offered = ['h2c', 'TLS/1.2', 'websocket', 'foo']
  t.same(meantForRoute(offered, undefined), ['websocket', 'foo'])
  t.same(meantForRoute(offered, listProtocols(['foo'])), ['websocket', 'foo'])
  t.same(meantForRoute(offered, listProtocols(['TLS', 'H2C'])), offered)
  t.same(meantForRoute(offered, listProtocols(['tls/1.2'])), ['TLS/1.2', 'websocket', 'foo'])
})

t.test('Q73 no more than 32 members of a header are looked at, empty ones not counted', async t => {
  const many = Array.from({ length: 40 }, (_, n) => `t${n}`)
  t.same(parseUpgrade(many.join(',')).offered, many.slice(0, 32))
  t.same(parseUpgrade(', ,'.repeat(100) + 'foo').offered, ['foo'])
  t.same(parseUpgrade('a b,'.repeat(40) + 'foo'), { offered: [], malformed: true })
})
