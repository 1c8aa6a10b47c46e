import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import t from 'tap'
import type ts from 'typescript'
import { install, root } from './fixtures/published.ts'

const require = createRequire(import.meta.url)

/** TypeScript from the oldest that Fastify's own declarations compile with, by the names of package.json. */
const compilers = ['typescript-5.4', 'typescript-5.6', 'typescript-5.9', 'typescript']

/** The ways in which a consumer may find the package, each with the files that can be written for it. */
const resolutions: Record<string, { files: string[], options: (compiler: typeof ts) => ts.CompilerOptions }> = {
  bundler: {
    files: ['module/package.ts'],
    options: ({ ModuleKind, ModuleResolutionKind }) => ({ module: ModuleKind.ESNext, moduleResolution: ModuleResolutionKind.Bundler })
  },
  node10: {
    files: ['commonjs/package.ts', 'commonjs/required.cts'],
    options: ({ ModuleKind, ModuleResolutionKind, versionMajorMinor }) => ({
      module: ModuleKind.CommonJS,
      moduleResolution: ModuleResolutionKind.Node10,
      esModuleInterop: true,
      ...(versionMajorMinor >= '6.0' && { ignoreDeprecations: '6.0' })
    })
  },
  node16: {
    files: ['module/package.ts', 'module/required.cts', 'commonjs/package.ts', 'commonjs/required.cts'],
    options: ({ ModuleKind, ModuleResolutionKind }) => ({ module: ModuleKind.Node16, moduleResolution: ModuleResolutionKind.Node16 })
  },
  nodenext: {
    files: ['module/package.ts', 'module/required.cts', 'commonjs/package.ts', 'commonjs/required.cts'],
    options: ({ ModuleKind, ModuleResolutionKind }) => ({ module: ModuleKind.NodeNext, moduleResolution: ModuleResolutionKind.NodeNext })
  }
}

// Sixteen programs are compiled here, which takes long on a slow machine, and nothing is waited for.
t.setTimeout(390_000)

const dir = t.testdir()
install(dir)
for (const type of ['module', 'commonjs']) {
  mkdirSync(join(dir, type))
  writeFileSync(join(dir, type, 'package.json'), JSON.stringify({ type }))
  for (const name of ['exactly.ts', 'package.ts', 'required.cts']) {
    const source = readFileSync(join(root, 'test/fixtures/types', name), 'utf8')
    writeFileSync(join(dir, type, name), source.replaceAll('../../../lib/index.ts', 'fastify-duplex').replaceAll('./exactly.ts', './exactly.js'))
  }
}

/** What is wrong with the consumer's files and with the declarations of this package. */
function compile (compiler: typeof ts, { files, options }: typeof resolutions[string]): string[] {
  const program = compiler.createProgram(files.map(file => join(dir, file)), {
    target: compiler.ScriptTarget.ES2022,
    lib: ['lib.es2023.d.ts'],
    types: ['node'],
    strict: true,
    skipLibCheck: false,
    noEmit: true,
    ...options(compiler)
  })
  const ours = program.getSourceFiles().filter(({ fileName }) => fileName.startsWith(dir))
  return [
    ...program.getOptionsDiagnostics(),
    ...program.getGlobalDiagnostics(),
    ...ours.flatMap(file => [...program.getSyntacticDiagnostics(file), ...program.getSemanticDiagnostics(file)])
  ].map(({ file, code, messageText }) => `${file?.fileName.slice(dir.length)}: TS${code} ${compiler.flattenDiagnosticMessageText(messageText, '\n')}`)
}

for (const name of compilers) {
  const compiler = require(name) as typeof ts
  for (const [resolution, consumer] of Object.entries(resolutions)) {
    t.test(`Q42 the declarations are clean for TypeScript ${compiler.versionMajorMinor} with moduleResolution ${resolution}`, async t => {
      t.strictSame(compile(compiler, consumer), [])
    })
  }
}
