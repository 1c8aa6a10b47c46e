import { spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join, posix } from 'node:path'
import { rolldown } from 'rolldown'
import t from 'tap'
import { install, root } from './fixtures/published.ts'

t.setTimeout(600_000)

const dir = t.testdir()
install(dir)
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
  main: string
  version: string
  bin: { 'fastify-duplex': string }
  exports: { '.': { require: { default: string } } }
  repository: { url: string }
  homepage: string
  bugs: { url: string }
}

/** Has a takeover in `app`, and says what came of it. */
const TAKEOVER = `
  await app.register(duplex)
  app.get('/echo', { duplex: true }, ({ readable, writable }) => readable.pipe(writable))
  const response = await app.injectDuplex({ url: '/echo', protocol: 'echo', early: 'early' })
  response.writable.end()
  console.log(response.statusCode, String(await response.body()))
  await app.close()
`
const COMMONJS = `
const Fastify = require('fastify')
const duplex = require('fastify-duplex')
async function main () {
  const app = Fastify()
  ${TAKEOVER}
}
main()
`
const MODULE = `
import Fastify from 'fastify'
import duplex from 'fastify-duplex'
const app = Fastify()
${TAKEOVER}
`

/** What a program prints that stands where the package is installed. */
function run (name: string, source: string, ...flags: string[]): string[] {
  const file = join(dir, name)
  writeFileSync(file, source)
  const { stdout, stderr } = spawnSync(process.execPath, [...flags, file], { encoding: 'utf8' })
  return `${stdout}${stderr}`.trimEnd().split('\n')
}

t.test('Q41 require() gives the plugin itself, with the rest as its properties', async t => {
  const printed = run('properties.cjs', `
    const duplex = require('fastify-duplex')
    console.log(typeof duplex, duplex.default === duplex, duplex.fastifyDuplex === duplex)
    console.log(typeof duplex.tunnel, typeof duplex.errors.FST_ERR_DUPLEX_SHUTDOWN)`)
  t.strictSame(printed, ['function true true', 'function function'])
})

t.test('Q41 both module systems get one instance and the same names', async t => {
  const printed = run('instance.cjs', `
    const duplex = require('fastify-duplex')
    import('fastify-duplex').then(imported => {
      const names = Object.keys(imported).sort()
      console.log(imported.default === duplex, names.every(name => imported[name] === duplex[name]))
      console.log(names.join() === Object.keys(duplex).sort().join())
    })`)
  t.strictSame(printed, ['true true', 'true'])
})

t.test('Q41 it works where require() loads CommonJS alone, as in Jest', async t => {
  // A Node that never had the flag refuses it; each that is supported has it.
  t.strictSame(run('required.cjs', COMMONJS, '--no-experimental-require-module'), ['101 early'])
})

t.test('Q41 copies of it in one process, as Jest has one for each test file, leave the apps of one another alone', async t => {
  const printed = run('copies.cjs', `
    const Fastify = require('fastify')
    const load = () => {
      for (const name of Object.keys(require.cache)) if (name.includes('fastify-duplex')) delete require.cache[name]
      return require('fastify-duplex')
    }
    const copies = [load(), load(), load()]
    async function main () {
      for (const duplex of copies) {
        const app = Fastify()
        ${TAKEOVER}
      }
      const app = Fastify()
      await app.register(async scope => { await scope.register(copies[0]) })
      app.get('/echo', { duplex: true }, () => {})
      await app.ready().catch(error => console.log(error.code))
    }
    main()`)
  t.strictSame(printed, ['101 early', '101 early', '101 early', 'FST_ERR_DUPLEX_NOT_REGISTERED'])
})

t.test('Q41 import works too', async t => {
  t.strictSame(run('imported.mjs', MODULE), ['101 early'])
})

t.test('Q59 an app starts after it was bundled into ES modules', async t => {
  for (const [name, source] of Object.entries({ 'app.cjs': COMMONJS, 'app.mjs': MODULE })) {
    writeFileSync(join(dir, name), source)
    const bundle = await rolldown({ input: join(dir, name), platform: 'node', logLevel: 'silent' })
    const { output: [{ code }] } = await bundle.generate({ format: 'es', codeSplitting: false })
    await bundle.close()
    t.notMatch(code, /(?:from|require\()\s*['"]fastify-duplex['"]/, 'it is in the bundle')
    t.strictSame(run(`${name}.bundled.mjs`, code), ['101 early'], name)
  }
})

// @rollup/plugin-commonjs takes .js alone for CommonJS unless it is told otherwise, and leaves require() in others.
t.test('Q59 what require() loads is in .js files', async t => {
  const printed = run('files.cjs', `
    require('fastify-duplex')
    console.log(Object.keys(require.cache).filter(name => name.includes('fastify-duplex/') && !name.endsWith('.js')))`)
  t.strictSame(printed, ['[]'])
  t.match(manifest.main, /\.js$/)
  t.match(manifest.exports['.'].require.default, /\.js$/)
})

/** A process says what it has loaded; modules that were imported are told by a hook of the loader. */
const LOADED = `
  const names = Object.keys(require.cache).map(name => name.replaceAll('\\\\', '/'))
  console.log(names.some(name => /node_modules[/](?:fastify|avvio|ws|fastify-plugin)[/]/.test(name)), names.length > 0)
`

t.test('CL1 require() and import of the client load no Fastify, and are one', async t => {
  const printed = run('client.cjs', `
    const client = require('fastify-duplex/client')
    console.log(Object.keys(client).filter(name => name !== 'default').sort().join(), typeof client.connect)
    ${LOADED}
    import('fastify-duplex/client').then(imported => console.log(imported.connect === client.connect))`)
  t.strictSame(printed, ['DuplexRefused,connect function', 'false true', 'true'])
  const imported = run('client.mjs', `
    import { connect, DuplexRefused } from 'fastify-duplex/client'
    import { createRequire } from 'node:module'
    const require = createRequire(import.meta.url)
    console.log(typeof connect, typeof DuplexRefused)
    connect('http://a/', { unknown: 1 }).catch(error => console.log(error.code))
    ${LOADED}`)
  t.strictSame(imported.sort(), ['FST_ERR_DUPLEX_INVALID_OPTION', 'false true', 'function function'])
})

t.test('CL3 the command that is published runs', async t => {
  const bin = (...args: string[]) => spawnSync(process.execPath, [join(dir, 'node_modules/fastify-duplex', manifest.bin['fastify-duplex']), ...args], { encoding: 'utf8' })
  t.equal(bin('--version').stdout, `${manifest.version}\n`)
  const help = bin('--help')
  t.equal(help.status, 0)
  t.match(help.stdout, /Exit code:/)
  const wrong = bin('nonsense')
  t.equal(wrong.status, 2)
  t.match(wrong.stderr, /^fastify-duplex: url is no URL: "nonsense"\nfastify-duplex --help tells more\n$/)
})

t.test('Q45 every relative link of what is published leads to something that is published', async t => {
  const { stdout } = spawnSync('npm pack --dry-run --json --ignore-scripts', { cwd: root, encoding: 'utf8', shell: true })
  const [packed] = JSON.parse(stdout) as [{ files: { path: string }[] }]
  const files = new Set(packed.files.map(({ path }) => path))
  t.ok(files.has('README.md'))
  for (const page of files) {
    if (!page.endsWith('.md')) continue
    const links = [...readFileSync(join(root, page), 'utf8').matchAll(/\]\((?!\w+:|#)([^)#\s]+)/g)]
    if (page === 'README.md') t.ok(links.length > 10)
    for (const [, link = ''] of links) t.ok(files.has(posix.normalize(posix.join(posix.dirname(page), link))), `${page}: ${link}`)
  }
})

t.test('Q45 package.json says where the project lives', async t => {
  const [, home = ''] = /^git\+(https:\/\/github\.com\/[\w-]+\/[\w-]+)\.git$/.exec(manifest.repository.url) ?? []
  t.not(home, '')
  t.equal(manifest.homepage, `${home}#readme`)
  t.equal(manifest.bugs.url, `${home}/issues`)
})
