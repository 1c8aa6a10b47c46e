import { existsSync, readdirSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import t from 'tap'
import ts from 'typescript'
import { root } from './fixtures/published.ts'
import { read } from './fixtures/snippets.ts'

interface Import {
  /** From `lib/` on, as `http1/gate.ts`. */
  readonly file: string
  readonly imported: string
  readonly onlyTypes: boolean
}

const files = (readdirSync(join(root, 'lib'), { recursive: true }) as string[])
  .map(file => file.replaceAll('\\', '/')).filter(file => file.endsWith('.ts'))
const imports = files.flatMap(importsOf)

/** Static imports and exports. A file that is loaded later, by `import()`, has no part in the order. */
function importsOf (file: string): Import[] {
  const source = ts.createSourceFile(file, read(`lib/${file}`), ts.ScriptTarget.Latest)
  return source.statements.flatMap(statement => {
    if (!ts.isImportDeclaration(statement) && !ts.isExportDeclaration(statement)) return []
    const from = statement.moduleSpecifier
    if (from === undefined || !ts.isStringLiteral(from) || !from.text.startsWith('.')) return []
    const imported = normalize(join(dirname(file), from.text)).replaceAll('\\', '/')
    return imported.startsWith('../') ? [] : [{ file, imported, onlyTypes: isOfTypes(statement) }]
  })
}

function isOfTypes (statement: ts.ImportDeclaration | ts.ExportDeclaration): boolean {
  if (ts.isExportDeclaration(statement)) return statement.isTypeOnly
  const clause = statement.importClause
  if (clause === undefined) return false
  if (clause.phaseModifier === ts.SyntaxKind.TypeKeyword) return true
  const named = clause.namedBindings
  if (clause.name !== undefined || named === undefined || !ts.isNamedImports(named)) return false
  return named.elements.every(({ isTypeOnly }) => isTypeOnly)
}

/** The folder under `lib/`, or the file if it is in none. */
function roomOf (file: string): string {
  const [first = '', ...rest] = file.split('/')
  return rest.length === 0 ? first : `${first}/`
}

/** The tables of "The order of the folders", as lists of the names in their first two columns. */
const [, section = ''] = /\n## The order of the folders\n([^]*?)\n(?:## |\[All pages\])/.exec(read('docs/internals.md')) ?? []
const rows = section.split('\n').filter(line => /^\| `/.test(line)).map(line => line.split('|').slice(1, 3).map(namesIn))

function namesIn (cell: string): string[] {
  return [...cell.matchAll(/`([^`]+)`/g)].map(([, name = '']) => name)
}

const layers = rows.filter(([, second = []]) => second.length === 0).map(([names = []]) => names)
const exceptions = rows.filter(([, second = []]) => second.length > 0).map(([from = [], to = []]) => `${from.join()} -> ${to.join()}`)

function layerOf (file: string): number {
  return layers.findIndex(names => names.includes(roomOf(file)))
}

const against = imports.filter(({ file, imported }) => roomOf(file) !== roomOf(imported) && layerOf(imported) >= layerOf(file))

t.test('RP7 docs/internals.md has each folder and each file of lib/ once', async t => {
  t.ok(layers.length > 10)
  t.same(layers.flat().sort(), [...new Set(files.map(roomOf))].sort())
  for (const name of layers.flat()) t.ok(existsSync(join(root, 'lib', name)), name)
})

t.test('RP7 values are imported from layers further up in that table alone', async t => {
  t.ok(imports.length > 500)
  t.same(against.filter(({ onlyTypes }) => !onlyTypes).map(({ file, imported }) => `${file} imports ${imported}`), [])
})

t.test('RP7 a type that is imported against the order is in the list there', async t => {
  const types = against.filter(({ onlyTypes }) => onlyTypes).map(({ file, imported }) => `${roomOf(file)} -> ${imported}`)
  t.same([...new Set(types)].sort(), exceptions.sort())
})

t.test('RP7 no files import values from each other in a circle', async t => {
  const values = imports.filter(({ onlyTypes }) => !onlyTypes)
  const next = new Map(files.map(file => [file, values.filter(one => one.file === file).map(({ imported }) => imported)]))
  const done = new Set<string>()
  const circles: string[] = []
  const follow = (file: string, path: readonly string[]): void => {
    if (path.includes(file)) circles.push([...path.slice(path.indexOf(file)), file].join(' -> '))
    if (path.includes(file) || done.has(file)) return
    for (const imported of next.get(file) ?? []) follow(imported, [...path, file])
    done.add(file)
  }
  for (const file of files) follow(file, [])
  t.same(circles, [])
})

t.test('RP7 CONTRIBUTING names files and folders that are there', async t => {
  const own = new Set(files.map(roomOf).filter(room => room.endsWith('/')))
  const paths = read('CONTRIBUTING.md').matchAll(/`((?:lib\/)?[\w-]+\/(?:[\w-]+\/)*(?:[\w-]+\.ts)?)`/g)
  const named = [...paths].map(([, name = '']) => name)
    .filter(name => name.startsWith('lib/') || own.has(`${name.split('/')[0] as string}/`))
  t.ok(named.length > 40)
  for (const name of named) t.ok(existsSync(join(root, 'lib', name.replace(/^lib\//, ''))), name)
})
