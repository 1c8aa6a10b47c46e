// Builds what is published, into dist/: CommonJS, so that every test runner, bundler and Node loads it, and once for
// `require` and `import` together. Where nothing has changed since, it does nothing, unless it is told to build `--anew`: what is
// published does not depend on the times of files.
import { chmodSync, renameSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { changed, root, TOOLS } from './fresh.mjs'

const dist = join(root, 'dist')
/** Built beside it and put in its place at the end: nobody sees a half of it. */
const output = join(root, `.build/dist-${process.pid}`)
/** What is written last. */
const LAST = 'index.d.mts'

if (!process.argv.includes('--anew') && changed('lib', 'types', ...TOOLS) < changed(`dist/${LAST}`)) {
  console.log('build: dist is up to date')
} else {
  await build()
}

async function build () {
  const from = Date.now() / 1000
  const { default: ts } = await import('typescript')
  process.on('exit', () => rmSync(output, { recursive: true, force: true }))
  const { fileNames, options } = ts.getParsedCommandLineOfConfigFile(join(root, 'tsconfig.build.json'), { outDir: output }, {
    ...ts.sys, onUnRecoverableConfigFileDiagnostic: report
  })
  const program = ts.createProgram(fileNames, options)
  const wrong = [...ts.getPreEmitDiagnostics(program), ...program.emit().diagnostics]
  wrong.forEach(report)
  if (wrong.length > 0) process.exit(1)

  // The package is "module", for its sources.
  write('package.json', '{ "type": "commonjs" }')
  // Two entries that say what lib/index has. `require` gives the plugin itself, with the rest as its
  // properties, as the plugins of Fastify do. It is a .js file: for rollup a .cjs file is no CommonJS.
  const { values, names } = exportsOf(program, join(root, 'lib/index.ts'))
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
  // The other end: neither of these loads what a server needs.
  const client = exportsOf(program, join(root, 'lib/client/index.ts'))
  write('client.js', "'use strict'\nmodule.exports = require('./lib/client/index.js')")
  write('client.d.ts', "export * from './lib/client/index.js'")
  write('client.mjs', `export { ${client.values.join(', ')} } from './lib/client/index.js'`)
  write('client.d.mts', "export * from './lib/client/index.js'")
  write('bin.js', "#!/usr/bin/env node\n'use strict'\nrequire('./lib/client/bin.js').run(__dirname)")
  chmodSync(join(output, 'bin.js'), 0o755)
  write(LAST, `export * from './lib/index.js'
export { fastifyDuplex as default } from './lib/index.js'`)
  // What was changed meanwhile is newer.
  utimesSync(join(output, LAST), from, from)

  // What was built from a source that is gone would be published too.
  rmSync(dist, { recursive: true, force: true, maxRetries: 3 })
  renameSync(output, dist)

  function report (diagnostic) {
    console.error(ts.formatDiagnostic(diagnostic, { getCurrentDirectory: () => root, getCanonicalFileName: name => name, getNewLine: () => '\n' }).trimEnd())
  }

  /** The names of all exports but the default, and those that are not of types alone. */
  function exportsOf (program, file) {
    const checker = program.getTypeChecker()
    const exported = checker.getExportsOfModule(checker.getSymbolAtLocation(program.getSourceFile(file)))
      .filter(({ name }) => name !== 'default').sort((a, b) => a.name < b.name ? -1 : 1)
    const isValue = symbol => {
      const { flags } = symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol
      return (flags & ts.SymbolFlags.Value) !== 0
    }
    return { names: exported.map(({ name }) => name), values: exported.filter(isValue).map(({ name }) => name) }
  }
}

function write (name, text) {
  writeFileSync(join(output, name), `${text}\n`)
}
