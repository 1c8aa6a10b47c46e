import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import ts from 'typescript'
import { errors } from '../lib/index.ts'
import { root } from './fixtures/published.ts'

const readme = readFileSync(join(root, 'README.md'), 'utf8')

function chapter (title: string): string {
  return readme.split(/^(?=## )/m).find(text => text.startsWith(`## ${title}\n`)) as string
}

/** The cells of the rows of a chapter's only table, without its two first lines. */
function rows (title: string): string[][] {
  return chapter(title).split('\n').filter(line => line.startsWith('| ')).slice(1).map(line => line.split(/(?<!\\)\|/).slice(1, -1).map(cell => cell.trim()))
}

t.test('Q38 README lists every error code', async t => {
  const exported = errors as unknown as Record<string, new () => Error & { code: string, statusCode: number }>
  const listed = rows('Errors').flatMap(([codes = '', status = '', cause = '']) =>
    [...codes.matchAll(/`(?:FST_ERR_DUPLEX|\.\.\.)_(\w+)`/g)].map(([, name]) => ({ code: `FST_ERR_DUPLEX_${name}`, status, cause })))
  t.same(listed.map(({ code }) => code).sort(), Object.keys(exported).sort(), 'each once, and no other')
  for (const { code, status, cause } of listed) {
    const error = new (exported[code] as NonNullable<typeof exported[string]>)()
    t.equal(error.code, code)
    t.not(cause, '', `${code} has a cause`)
    // Those without are answered to no client.
    if (status !== '') t.equal(String(error.statusCode), status, code)
  }
})

t.test('Q39 what README subscribes to the channels compiles, in strict TypeScript', async t => {
  const snippets = [...chapter('Seen from outside').matchAll(/^```ts\n(.*?)^```/gms)].map(([, source]) => source as string)
  t.equal(snippets.length, 2)
  // Of prom-client what is used here; the other one is installed.
  const dir = t.testdir({
    'prom-client.ts': `
      interface Options { name: string, help: string, labelNames: string[] }
      type Labels = Record<string, string>
      export declare class Gauge { constructor (options: Options); inc (labels: Labels): void; dec (labels: Labels): void }
      export declare class Counter { constructor (options: Options); inc (labels: Labels): void }`
  })
  const files = snippets.map((source, n) => {
    const file = join(dir, `${n}.mts`)
    writeFileSync(file, source)
    return file
  })
  const options: ts.CompilerOptions = {
    target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
    types: ['node'],
    strict: true,
    skipLibCheck: true,
    allowImportingTsExtensions: true,
    noEmit: true,
    paths: {
      'fastify-duplex': [join(root, 'lib/index.ts')],
      'prom-client': [join(dir, 'prom-client.ts')],
      '@opentelemetry/api': [join(root, 'node_modules/@opentelemetry/api/build/src/index.d.ts')]
    }
  }
  const program = ts.createProgram(files, options)
  const wrong = files.flatMap(file => program.getSemanticDiagnostics(program.getSourceFile(file)))
  t.same(wrong.map(({ messageText }) => ts.flattenDiagnosticMessageText(messageText, '\n')), [])
})
