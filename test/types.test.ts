import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import t from 'tap'
import ts from 'typescript'
import { install, root } from './fixtures/published.ts'

// The sources are read, from wherever this file runs.
const fixtures = join(root, 'test/fixtures/types')

/** What a consumer's tsconfig.json says, with nothing that hides an error in our declarations. */
const consumerOptions: ts.CompilerOptions = {
  target: ts.ScriptTarget.ES2022,
  lib: ['lib.es2023.d.ts'],
  module: ts.ModuleKind.NodeNext,
  moduleResolution: ts.ModuleResolutionKind.NodeNext,
  types: ['node'],
  strict: true,
  exactOptionalPropertyTypes: false,
  skipLibCheck: false,
  allowImportingTsExtensions: true,
  noEmit: true
}

const parsed = new Map<string, ts.SourceFile | undefined>()

/** All programs of this file share the parsed declarations of Node, Fastify and the language. */
function createHost (options: ts.CompilerOptions): ts.CompilerHost {
  const host = ts.createCompilerHost(options)
  const getSourceFile = host.getSourceFile.bind(host)
  host.getSourceFile = (fileName, ...rest) => {
    if (!parsed.has(fileName)) parsed.set(fileName, getSourceFile(fileName, ...rest))
    return parsed.get(fileName)
  }
  return host
}

/** The fixtures as a consumer would write them: with the package imported by its name. */
function write (consumer: string, type: 'module' | 'commonjs', edit = (source: string) => source): void {
  mkdirSync(consumer)
  writeFileSync(join(consumer, 'package.json'), JSON.stringify({ name: 'consumer', private: true, type }))
  for (const name of readdirSync(fixtures)) {
    const source = readFileSync(join(fixtures, name), 'utf8')
    writeFileSync(join(consumer, name), edit(source.replace(/'(?:\.\.\/)+(?:lib|types)\/index\.ts'/g, "'fastify-duplex'")))
  }
}

/**
 * Compiles the consumer's files of that name. What is checked, with `skipLibCheck` off, are these files and
 * the declarations of this package and of Fastify, which it augments.
 */
function compile (consumer: string, names: RegExp, options: ts.CompilerOptions = {}): ts.Diagnostic[] {
  const merged = { ...consumerOptions, ...options }
  const files = readdirSync(consumer).filter(name => names.test(name)).map(name => join(consumer, name))
  const program = ts.createProgram(files, merged, createHost(merged))
  const checked = program.getSourceFiles()
    .filter(({ fileName }) => fileName.startsWith(dir) || fileName.includes('/node_modules/fastify/'))
  return [
    ...program.getConfigFileParsingDiagnostics(),
    ...program.getOptionsDiagnostics(),
    ...program.getGlobalDiagnostics(),
    ...checked.flatMap(file => [...program.getSyntacticDiagnostics(file), ...program.getSemanticDiagnostics(file)])
  ]
}

function describe (diagnostic: ts.Diagnostic): string {
  const text = ts.flattenDiagnosticMessageText(diagnostic.messageText, '\n')
  if (diagnostic.file === undefined) return text
  return `${diagnostic.file.fileName}:${lineOf(diagnostic)}: ${text}`
}

function lineOf ({ file, start = 0 }: ts.Diagnostic): number {
  return file === undefined ? 0 : file.getLineAndCharacterOfPosition(start).line + 1
}

// Seven programs are compiled here, which takes long on a slow machine, and nothing is waited for.
t.setTimeout(180_000)

const dir = t.testdir()
const all = /\.c?ts$/
const alone = /^(?!beside-).*\.c?ts$/
install(dir)
write(join(dir, 'esm'), 'module')
write(join(dir, 'cjs'), 'commonjs')

t.test('I2 an ESM consumer compiles without casts', async t => {
  t.strictSame(compile(join(dir, 'esm'), alone).map(describe), [])
})

t.test('I2 an ESM consumer compiles with exactOptionalPropertyTypes and the DOM library', async t => {
  const lib = ['lib.es2023.d.ts', 'lib.dom.d.ts', 'lib.dom.iterable.d.ts']
  t.strictSame(compile(join(dir, 'esm'), alone, { exactOptionalPropertyTypes: true, lib }).map(describe), [])
})

t.test('I2 a CJS consumer compiles without casts', async t => {
  t.strictSame(compile(join(dir, 'cjs'), alone).map(describe), [])
})

t.test('I2 a CJS consumer compiles with exactOptionalPropertyTypes', async t => {
  t.strictSame(compile(join(dir, 'cjs'), alone, { exactOptionalPropertyTypes: true }).map(describe), [])
})

t.test('I2 a consumer of @fastify/websocket compiles too', async t => {
  t.strictSame(compile(join(dir, 'esm'), all).map(describe), [])
})

t.test('I2 each wrong use fails to compile, on its own line', async t => {
  const consumer = join(dir, 'wrong')
  write(consumer, 'module', source => source.replaceAll('@ts-expect-error', 'expected:'))
  const mistakes = readFileSync(join(fixtures, 'wrong-uses.ts'), 'utf8').split('\n').flatMap((line, index) => {
    const mistake = /@ts-expect-error (.+)/.exec(line)?.[1]
    return mistake === undefined ? [] : [{ mistake, where: `wrong-uses.ts:${index + 2}` }]
  })
  const failing = new Set(compile(consumer, /^wrong-uses\.ts$/)
    .map(diagnostic => `${basename(diagnostic.file?.fileName ?? '')}:${lineOf(diagnostic)}`))

  t.ok(mistakes.length > 50)
  for (const { mistake, where } of mistakes) t.ok(failing.delete(where), mistake)
  t.strictSame([...failing], [], 'and nothing else fails')
})

/** The texts of what is wrong with each line, without the types that they spell out. */
function mistakesIn (name: string, lines: string[]): string[] {
  const consumer = join(dir, 'esm')
  writeFileSync(join(consumer, name), ["import Fastify from 'fastify'", "import 'fastify-duplex'", 'const app = Fastify()', ...lines, ''].join('\n'))
  const diagnostics = compile(consumer, new RegExp(`^${name}$`))
  return lines.map((line, index) => {
    const first = diagnostics.find(diagnostic => diagnostic.file?.fileName.endsWith(name) && lineOf(diagnostic) === index + 4)
    return first === undefined ? '' : ts.flattenDiagnosticMessageText(first.messageText, '\n')
  })
}

t.test("Q43 a mistake in a plain route is told by Fastify's own signature first", async t => {
  const [option = ''] = mistakesIn('plain-mistakes.ts', [
    "app.get('/', { onRequests: [] }, async (request, reply) => reply.send(request.url))"
  ])
  t.match(option, /^No overload matches this call\.\n {2}Overload 1 of \d+, '\(path: string, opts: RouteShorthandOptions</)
  t.match(option.split('\n')[2], "'onRequests' does not exist in type 'RouteShorthandOptions<")
})

t.test('Q43 a misspelt option is told by the signature of the route that was meant', async t => {
  const handler = '({ readable, writable }) => { readable.pipe(writable) }'
  const [apart = '', inside = '', option = '', route = '', manual = ''] = mistakesIn('duplex-mistakes.ts', [
    `app.get('/', { duplex: { idleTimeOut: 1 } }, ${handler})`,
    `app.get('/', { duplex: { idleTimeOut: 1 }, handler: ${handler} })`,
    `app.get('/', { duplex: true, onRequests: [], handler: ${handler} })`,
    `app.route({ method: 'GET', url: '/', duplex: { idleTimeOut: 1 }, handler: ${handler} })`,
    "app.route({ method: 'GET', url: '/', duplex: { accept: 'manual', idleTimeOut: 1 }, handler: async (pending) => { await pending.accept() } })"
  ])
  const known = "'idleTimeOut' does not exist in type 'DuplexRouteSettings<DuplexKind, string>'. Did you mean to write 'idleTimeout'?"
  t.match(apart.split('Overload 2 of')[1]?.split('\n')[1], known)
  t.match(inside, known)
  t.match(option, "'onRequests' does not exist in type 'DuplexRouteShorthandOptions<true | DuplexRouteSettings<")
  t.match(route, known)
  t.match(manual, "'idleTimeOut' does not exist in type 'ManualDuplexRouteSettings<DuplexKind, string>'. Did you mean to write 'idleTimeout'?")
  for (const told of [inside, option, route, manual]) t.notMatch(told, /to type 'false'/, "nothing of a plain route's")
})

t.test('Q44 the types give connections no add(), and injectDuplex() no protocol that it does not keep to', async t => {
  const [add = ''] = mistakesIn('add.ts', ['app.duplex.connections.add'])
  t.match(add, "Property 'add' does not exist on type 'ReadonlySet<")
  const declared = readFileSync(join(dir, 'node_modules/fastify-duplex/dist/types/fastify.d.ts'), 'utf8')
  const comment = declared.slice(0, declared.indexOf('injectDuplex(')).split('/**').at(-1)
  t.match(comment, 'HTTP/2')
  t.notMatch(comment, 'HTTP/1.1 only')
})
