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
