// Builds what is published, into dist/ or the directory that is named: CommonJS, so that every test runner,
// bundler and Node loads it, and once for `require` and `import` together.
//
//   node scripts/build.mjs [directory]
import { spawnSync } from 'node:child_process'
import { chmodSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import ts from 'typescript'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const output = resolve(process.argv[2] ?? join(root, 'dist'))
const tsc = fileURLToPath(import.meta.resolve('typescript/bin/tsc'))

// What was built from a source that is gone would be published too.
rmSync(output, { recursive: true, force: true })
const { status } = spawnSync(process.execPath, [tsc, '-p', join(root, 'tsconfig.build.json'), '--outDir', output], { stdio: 'inherit' })
if (status !== 0) process.exit(status ?? 1)
// The package is "module", for its sources.
write('package.json', '{ "type": "commonjs" }')

// Two entries that say what lib/index has. `require` gives the plugin itself, with the rest as its
// properties, as the plugins of Fastify do. It is a .js file: for rollup a .cjs file is no CommonJS.
const { values, names } = exportsOf(join(output, 'lib/index.d.ts'))
write('index.js', `'use strict'
const entry = require('./lib/index.js')
module.exports = Object.assign(entry.default, entry)`)
write('index.d.ts', `import entry = require('./lib/index.js')
declare function fastifyDuplex (...args: Parameters<typeof entry.default>): ReturnType<typeof entry.default>
declare namespace fastifyDuplex {
${names.map(name => `  export import ${name} = entry.${name}`).join('\n')}
  export { fastifyDuplex as default }
}
export = fastifyDuplex`)
write('index.mjs', `export { ${values.join(', ')}, fastifyDuplex as default } from './lib/index.js'`)
write('index.d.mts', `export * from './lib/index.js'
export { fastifyDuplex as default } from './lib/index.js'`)

// The other end: neither of these loads what a server needs.
const client = exportsOf(join(output, 'lib/client/index.d.ts'))
write('client.js', "'use strict'\nmodule.exports = require('./lib/client/index.js')")
write('client.d.ts', "export * from './lib/client/index.js'")
write('client.mjs', `export { ${client.values.join(', ')} } from './lib/client/index.js'`)
write('client.d.mts', "export * from './lib/client/index.js'")
write('bin.js', "#!/usr/bin/env node\n'use strict'\nrequire('./lib/client/bin.js').run(__dirname)")
chmodSync(join(output, 'bin.js'), 0o755)

function write (name, text) {
  writeFileSync(join(output, name), `${text}\n`)
}

/** The names of all exports but the default, and those that are not of types alone. */
function exportsOf (file) {
  const program = ts.createProgram([file], { module: ts.ModuleKind.CommonJS, moduleResolution: ts.ModuleResolutionKind.Bundler, types: [] })
  const checker = program.getTypeChecker()
  const exported = checker.getExportsOfModule(checker.getSymbolAtLocation(program.getSourceFile(file)))
    .filter(({ name }) => name !== 'default').sort((a, b) => a.name < b.name ? -1 : 1)
  const isValue = symbol => {
    const { flags } = symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol
    return (flags & ts.SymbolFlags.Value) !== 0
  }
  return { names: exported.map(({ name }) => name), values: exported.filter(isValue).map(({ name }) => name) }
}
