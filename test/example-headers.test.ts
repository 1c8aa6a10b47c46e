import { spawnSync } from 'node:child_process'
import { cpSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { root } from './fixtures/published.ts'
import { read } from './fixtures/snippets.ts'

const names = readdirSync(join(root, 'examples')).filter(name => name.endsWith('.ts')).map(name => name.replace('.ts', ''))
const strips = Boolean((process.features as { typescript?: unknown }).typescript)
const header = (name: string): string => /^(?:\/\/.*\n)*/.exec(read(`examples/${name}.ts`))?.[0] ?? ''

function list (directory: string, ...args: string[]): { status: number | null, stdout: string, stderr: string } {
  return spawnSync(process.execPath, [join(directory, 'scripts/examples.mjs'), ...args], { encoding: 'utf8' })
}

/** A project of one example, which begins with this. */
function projectOf (t: Test, source: string): string {
  const directory = t.testdir({ examples: { 'one.ts': source }, scripts: {} })
  for (const name of ['examples.mjs', 'fresh.mjs']) cpSync(join(root, 'scripts', name), join(directory, 'scripts', name))
  return directory
}

t.test('RP1 npm run examples lists every example by its header: what it is, and how it is started', async t => {
  const { status, stdout, stderr } = list(root)
  t.equal(status, 0, stderr)
  const parts = names.filter(name => /^\/\/.*\bfor examples\//.test(header(name)))
  t.same(parts, ['pty'])
  for (const name of names.filter(name => !parts.includes(name))) {
    const [, what = '', start = ''] = new RegExp(`^${name} +(.+)\\n +(.+)$`, 'm').exec(stdout) ?? []
    t.ok(header(name).replaceAll('\n// ', ' ').startsWith(`// ${what}`) && what.length > 20, `${name}: ${what}`)
    t.match(start, name === 'echo' ? /^npm start$/ : new RegExp(`node (?:\\.build/)?examples/${name}\\.[jt]s`))
  }
})

t.test('RP1 npm run examples -- NAME says all of its header, in commands that this Node understands', async t => {
  for (const name of names) {
    const { status, stdout } = list(root, name)
    t.equal(status, 0)
    const labels = (text: string): string[] => [...text.matchAll(/^(?:\/\/ )?([A-Z]\w* it|Over TLS):/gm)].map(([, label = '']) => label)
    t.same(labels(stdout), labels(header(name)), name)
    if (!strips) t.notMatch(stdout, /node examples\/|Before Node 22/, name)
  }
  t.match(list(root, 'nothing'), { status: 2, stderr: /there is no example "nothing", only connect-proxy, / })
})

t.test('RP1 an example without such a header makes the list fail', async t => {
  const whole = '// A thing.\n//\n// Run it:   node examples/one.ts\n// Drive it: curl a\n'
  t.match(list(projectOf(t, whole)), { status: 0, stderr: '' })
  const wrong: [source: string, message: RegExp][] = [
    ["import 'a'\n", /one\.ts: its first paragraph is no sentence/],
    ['// A thing.\n', /one\.ts: it does not say how to start it/],
    [whole.replace('one.ts', 'two.ts'), /one\.ts: it does not say how to start it/],
    [whole.replace('Drive it', 'Use it'), /one\.ts: it does not say what to try/],
    ['// For examples/two.ts.\n', /one\.ts: it names no example that is there/]
  ]
  for (const [source, message] of wrong) {
    const directory = projectOf(t, source)
    writeFileSync(join(directory, 'examples/one.ts'), `${source}export {}\n`)
    t.match(list(directory), { status: 1, stderr: message })
  }
})

t.test('RP1 the index of the documentation has every example', async t => {
  const index = readFileSync(join(root, 'docs/README.md'), 'utf8')
  for (const name of names.filter(name => name !== 'pty')) t.ok(index.includes(`| [${name}](../examples/${name}.ts) |`), name)
  t.match(index, '`npm run examples`')
})
