import { readFileSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import t from 'tap'
import ts from 'typescript'
import { alone, asInTypeScript, compile, describe, fixtures, lineOf, withDom, write } from './fixtures/consumers.ts'
import { install } from './fixtures/published.ts'

// Programs are compiled here, which takes long on a slow machine, and nothing is waited for; test/slow has more of them.
t.setTimeout(600_000)

const dir = t.testdir()
install(dir)
write(join(dir, 'esm'), 'module')
write(join(dir, 'cjs'), 'commonjs')

const handler = '({ readable, writable }) => { readable.pipe(writable) }'
/** Lines that are wrong, by the file in which they are compiled. */
const mistakes = {
  'plain-mistakes.ts': ["app.get('/', { onRequests: [] }, async (request, reply) => reply.send(request.url))"],
  'duplex-mistakes.ts': [
    `app.get('/', { duplex: { idleTimeOut: 1 } }, ${handler})`,
    `app.get('/', { duplex: { idleTimeOut: 1 }, handler: ${handler} })`,
    `app.get('/', { duplex: true, onRequests: [], handler: ${handler} })`,
    `app.route({ method: 'GET', url: '/', duplex: { idleTimeOut: 1 }, handler: ${handler} })`,
    "app.route({ method: 'GET', url: '/', duplex: { accept: 'manual', idleTimeOut: 1 }, handler: async (pending) => { await pending.accept() } })"
  ],
  'add.ts': ['app.duplex.connections.add']
}

const wrong = join(dir, 'wrong')
write(wrong, 'module', source => source.replaceAll('@ts-expect-error', 'expected:'))
for (const [name, lines] of Object.entries(mistakes)) {
  writeFileSync(join(wrong, name), ["import Fastify from 'fastify'", "import 'fastify-duplex'", 'const app = Fastify()', ...lines, ''].join('\n'))
}

// One program: what takes longest, to check what Fastify declares, is the same for all of them.
const diagnostics = compile(dir, { esm: alone, cjs: alone, wrong: /^(?:wrong-uses|messages|plain-mistakes|duplex-mistakes|add)\.ts$/ }, withDom)
const within = (consumer: string): ts.Diagnostic[] =>
  diagnostics.filter(({ file }) => file?.fileName.startsWith(asInTypeScript(join(dir, consumer))))
const inWrong = within('wrong')
const nameOf = ({ file }: ts.Diagnostic): string => basename(file?.fileName ?? '')

t.test('I2 an ESM consumer compiles with exactOptionalPropertyTypes and the DOM library', async t => {
  t.strictSame(within('esm').map(describe), [])
})

t.test('I2 a CJS consumer compiles with them too', async t => {
  t.strictSame(within('cjs').map(describe), [])
})

t.test('I2 nothing is wrong with what a consumer is given', async t => {
  const written = ['esm', 'cjs', 'wrong'].flatMap(within)
  t.strictSame(diagnostics.filter(diagnostic => !written.includes(diagnostic)).map(describe), [])
})

for (const [title, file, least] of [
  ['I2 each wrong use', 'wrong-uses.ts', 50],
  ['MS2 what no schema of TypeBox, json-schema-to-ts or zod allows', 'messages.ts', 10]
] as const) {
  t.test(`${title} fails to compile, on its own line`, async t => {
    const expected = readFileSync(join(fixtures, file), 'utf8').split('\n').flatMap((line, index) => {
      const mistake = /@ts-expect-error (.+)/.exec(line)?.[1]
      return mistake === undefined ? [] : [{ mistake, line: index + 2 }]
    })
    const failing = new Set(inWrong.filter(diagnostic => nameOf(diagnostic) === file).map(lineOf))
    t.ok(expected.length > least, String(expected.length))
    for (const { mistake, line } of expected) t.ok(failing.delete(line), mistake)
    t.strictSame([...failing], [], 'and nothing else fails')
  })
}

/** The texts of what is wrong with each line, without the types that they spell out. */
function mistakesIn (name: keyof typeof mistakes): string[] {
  return mistakes[name].map((_line, index) => {
    const first = inWrong.find(diagnostic => nameOf(diagnostic) === name && lineOf(diagnostic) === index + 4)
    return first === undefined ? '' : ts.flattenDiagnosticMessageText(first.messageText, '\n')
  })
}

t.test("Q43 a mistake in a plain route is told by Fastify's own signature first", async t => {
  const [option = ''] = mistakesIn('plain-mistakes.ts')
  t.match(option, /^No overload matches this call\.\n {2}Overload 1 of \d+, '\(path: string, opts: RouteShorthandOptions</)
  t.match(option.split('\n')[2], "'onRequests' does not exist in type 'RouteShorthandOptions<")
})

t.test('Q43 a misspelt option is told by the signature of the route that was meant', async t => {
  const [apart = '', inside = '', option = '', route = '', manual = ''] = mistakesIn('duplex-mistakes.ts')
  const known = "'idleTimeOut' does not exist in type 'DuplexRouteSettings<DuplexKind, string>'. Did you mean to write 'idleTimeout'?"
  t.match(apart.split('Overload 2 of')[1]?.split('\n')[1], known)
  t.match(inside, known)
  t.match(option, "'onRequests' does not exist in type 'DuplexRouteShorthandOptions<true | DuplexRouteSettings<")
  t.match(route, known)
  t.match(manual, "'idleTimeOut' does not exist in type 'ManualDuplexRouteSettings<DuplexKind, string>'. Did you mean to write 'idleTimeout'?")
  for (const told of [inside, option, route, manual]) t.notMatch(told, /to type 'false'/, "nothing of a plain route's")
})

t.test('Q44 the types give connections no add(), and injectDuplex() no protocol that it does not keep to', async t => {
  const [add = ''] = mistakesIn('add.ts')
  t.match(add, "Property 'add' does not exist on type 'ReadonlySet<")
  const declared = readFileSync(join(dir, 'node_modules/fastify-duplex/dist/types/fastify.d.ts'), 'utf8')
  const comment = declared.slice(0, declared.indexOf('injectDuplex(')).split('/**').at(-1)
  t.match(comment, 'HTTP/2')
  t.notMatch(comment, 'HTTP/1.1 only')
})
