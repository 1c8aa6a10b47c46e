import t from 'tap'
import { authorityPath, parseAuthority } from '../lib/handshake/authority.ts'

const targets: [target: string, host: string, port: number][] = [
  ['example.com:443', 'example.com', 443],
  ['EXAMPLE.Com:443', 'example.com', 443],
  ['a:1', 'a', 1],
  ['a:65535', 'a', 65535],
  ['a:00080', 'a', 80],
  ['my_host-1.example.:8080', 'my_host-1.example.', 8080],
  ['1.2.3.4:80', '1.2.3.4', 80],
  ['[::1]:443', '::1', 443],
  ['[2001:DB8::A]:443', '2001:db8::a', 443],
  ['[::ffff:1.2.3.4]:80', '::ffff:1.2.3.4', 80]
]

for (const [target, host, port] of targets) {
  t.test(`${target} is ${host} and ${port}, and the same in its path`, async t => {
    const authority = parseAuthority(target)
    t.strictSame(authority, { host, port })
    const [, first = '', second, ...rest] = authorityPath({ host, port }).split('/')
    t.equal(decodeURIComponent(first), host)
    t.equal(Number(second), port)
    t.strictSame(rest, [])
  })
}

const wrong: Record<string, string[]> = {
  'no port': ['', 'a', 'a:', 'example.com', '[::1]', '[::1]:', '1.2.3.4'],
  'no host': [':80', ':', '[]:80'],
  'a port that is none': ['a:0', 'a:00', 'a:65536', 'a:99999', 'a:100000', 'a:+1', 'a:-1', 'a:1x', 'a:0x50', 'a: 80', 'a:8 0', 'a:80 ', 'a:8.0', 'a:http'],
  'another form of target': ['/', '/a:1', '*', 'http://a:1', 'http://a:1/', 'a:1/', 'a:1/path', 'a:1?query', 'a:1#hash', '//a:1'],
  userinfo: ['u@a:1', 'u:p@a:1', '@a:1', 'a@:1'],
  'a percent sign': ['%61:1', 'a%00:1', 'a%2eb:1', '[fe80::1%25eth0]:1', '[fe80::1%eth0]:1'],
  'a host with characters that no host has': ['a b:1', 'a\0:1', 'a\r\nb:1', 'a\n:1', 'a:1\n', 'a\\b:1', 'a,b:1', 'a;b:1', '(a):1', '\u00e4:1', '\uff41:1', 'a\t:1'],
  'brackets around anything but an IPv6 address': ['[a]:1', '[1.2.3.4]:1', '[zz]:1', '[::1:1', '::1]:1', '::1:1', '[[::1]]:1', '[::g]:1', '[v1.a]:1'],
  'more than one colon': ['a:b:1', 'a:1:1', '1:2:3']
}

for (const [what, list] of Object.entries(wrong)) {
  t.test(`${what} is no authority`, async t => {
    for (const target of list) t.equal(parseAuthority(target), undefined, JSON.stringify(target))
  })
}

t.test('the path of an authority is one segment for the host, whatever it has in it', async t => {
  t.equal(authorityPath({ host: 'example.com', port: 443 }), '/example.com/443')
  t.equal(authorityPath({ host: '::1', port: 443 }), '/%3A%3A1/443')
})
